"""Folds batch normalisation into the convolutions before it, for faster inference with the same result.

In evaluation mode, batch normalisation multiplies each channel by a constant and adds another. Both can be part of the
convolution's weights and bias (Jacob et al. 2018, https://arxiv.org/abs/1712.05877, section 3.2).
"""

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from mammopipe.training.networks.grad_cam import WithMaps
from mammopipe.training.networks.network import FilmNetwork

LARGEST_DIFFERENCE = 1e-4
"""Largest accepted difference of an output by folding, relative to the largest output; float32 rounds at 1e-7."""


def folded(network: FilmNetwork, images: Tensor) -> FilmNetwork:
    """Return a copy of a network, in evaluation mode, without the batch normalisations that follow a convolution.

    A normalisation is folded if it gets exactly the output of a convolution. Whether nothing else uses that output is
    checked by the result: if logits or feature maps for `images` differ by more than `LARGEST_DIFFERENCE`, the network
    itself is returned.

    Args:
        network: The network, in evaluation mode and float32; it stays unchanged.
        images: Images for the check, as the network gets them.
    """
    copied = deepcopy(network)
    with torch.inference_mode():
        pairs = _pairs(copied, images)
        names = {module: name for name, module in copied.named_modules()}
        for convolution, normalisation in pairs:
            _fold(convolution, normalisation)
            parent, _, name = names[normalisation].rpartition(".")
            setattr(copied.get_submodule(parent), name, nn.Identity())
        return copied if pairs and _same(network, copied, images) else network


def _same(network: FilmNetwork, other: FilmNetwork, images: Tensor) -> bool:
    found = []
    for each in (network, other):
        wrapped = WithMaps(each)
        found.append(wrapped(images))
        wrapped.close()
    return all(
        bool((before - after).abs().max() <= LARGEST_DIFFERENCE * before.abs().max())
        for before, after in zip(*found, strict=True)
    )


def _pairs(network: nn.Module, images: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Return each batch normalisation with the convolution whose output it gets, as one forward pass shows."""
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    found: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []
    calls: dict[nn.Module, int] = {}

    def convolved(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Remember the output, which stays alive so that no other tensor gets its id."""
        calls[module] = calls.get(module, 0) + 1
        if isinstance(module, nn.Conv2d):
            made[id(output)] = module, output

    def normalised(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Pair the normalisation with the convolution that made its input."""
        calls[module] = calls.get(module, 0) + 1
        if isinstance(module, nn.BatchNorm2d) and id(inputs[0]) in made:
            found.append((made[id(inputs[0])][0], module))

    hooks = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(convolved))
        # Subclasses, such as those of timm, may also activate. Without running statistics, each batch has its own.
        elif type(module) is nn.BatchNorm2d and module.track_running_stats:
            hooks.append(module.register_forward_pre_hook(normalised))
    network(images)
    for hook in hooks:
        hook.remove()
    return [pair for pair in found if all(calls[module] == 1 for module in pair)]


def _fold(convolution: nn.Conv2d, normalisation: nn.BatchNorm2d) -> None:
    """Change the convolution so that it also normalises."""
    mean, variance = normalisation.running_mean, normalisation.running_var
    assert mean is not None and variance is not None
    weight, bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        mean,
        variance,
        normalisation.eps,
        normalisation.weight,
        normalisation.bias,
    )
    convolution.weight, convolution.bias = weight, bias
