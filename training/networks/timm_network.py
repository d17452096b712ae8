"""Networks of timm with feature maps (https://github.com/huggingface/pytorch-image-models, Apache-2.0).

timm builds the trunk without pooling and classifier. A normalisation that timm's head applies after the pooling (in
ConvNeXt) is applied here to each place, before the pooling, so that an image's logit is the mean of its places' logits.
"""

import inspect
import sys
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from typing import Any

import timm
import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

from mammopipe.processing.errors import ConfigError
from mammopipe.training.networks.layers import Dropout, Normalise, SharedDropPath
from mammopipe.training.networks.network import BuildOptions, ImageNetwork, State, classifier
from mammopipe.training.networks.pretrained import unwrapped

_WITHOUT_POOLING: Mapping[str, Any] = {"global_pool": ""}
_VARIANTS: tuple[Mapping[str, Any], ...] = (
    _WITHOUT_POOLING,
    {**_WITHOUT_POOLING, "strict_img_size": False},
    {**_WITHOUT_POOLING, "dynamic_img_size": True},
    {},
)
"""Options of timm, tried in this order until the network accepts images of any size. If the pooling of a network cannot
be left out, the layers after its last feature maps are removed."""
_PROBES = ((128, 96), (448, 672))
"""Sizes of the test images, tried in this order, that show the feature maps' layout. Some networks need large images.
No network has such a default size, so an option that works here also works for other sizes."""


class Trunk(nn.Module):
    """A network of timm up to its last feature maps, or up to those at a given stride."""

    def __init__(self, name: str, network: nn.Module, stride: int) -> None:
        """Create the trunk.

        Args:
            name: Name of the network, for error messages.
            network: timm's network without pooling and classifier.
            stride: Stride of the feature maps, in pixels; later layers are removed.
        """
        super().__init__()
        self.network = network
        self._taken: int | None = None
        self._last = False
        shape, probe = self._probed() if stride == 32 else ((), _PROBES[0])
        if not _are_maps(shape):
            self._taken, self._last = _stage_at(name, network, stride, shape)
            network.prune_intermediate_layers(  # type: ignore[operator]
                [self._taken], prune_norm=not self._last, prune_head=True
            )
            shape, probe = self._probed()
        self._transposed, self.channels = _layout(name, shape, probe, stride)

    def forward(self, images: Tensor) -> Tensor:
        """Return the feature maps, (N, channels, h, w), of normalised images, (N, 3, H, W)."""
        maps = self._raw(images)
        return maps.permute(0, 3, 1, 2) if self._transposed else maps

    def _probed(self) -> tuple[tuple[int, ...], tuple[int, int]]:
        """Return the output's shape for the first probe that the network accepts, and that probe's size."""
        for probe in _PROBES:
            try:
                with torch.inference_mode():
                    maps = self._raw(torch.zeros((1, 3, *probe)))
                break
            except (RuntimeError, AssertionError, ValueError):
                if probe == _PROBES[-1]:
                    raise
        # Several outputs, such as those of a distilled network, are not feature maps.
        return tuple(maps.shape) if isinstance(maps, Tensor) else (), probe

    def _raw(self, images: Tensor) -> Tensor:
        if self._taken is None:
            maps: Tensor = self.network(images)
            return maps
        taken: Tensor = self.network.forward_intermediates(  # type: ignore[operator]
            images, indices=[self._taken], norm=self._last, stop_early=True, output_fmt="NCHW", intermediates_only=True
        )[0]
        return taken


def build(name: str, options: BuildOptions) -> ImageNetwork:
    """Return a network of timm as an `ImageNetwork`; raises `ConfigError` for a network without feature maps."""
    trunk = trunk_of(name, options)
    own: Any = trunk.network.pretrained_cfg
    body = nn.Sequential(
        OrderedDict[str, nn.Module](
            trunk=trunk,
            pool=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            head=classifier(trunk.channels, options),
        )
    )
    normalise = Normalise(own["mean"], own["std"])
    return ImageNetwork(
        name,
        body,
        head="head",
        cam_layer="trunk",
        normalise=normalise,
        pool="pool",
        convert=partial(_convert, name, trunk),
    )


def trunk_of(name: str, options: BuildOptions, **changes: Any) -> Trunk:
    """Return a network of timm up to its feature maps.

    Args:
        name: Name of the network.
        options: Its options.
        **changes: Further options of timm.

    Raises:
        ConfigError: The network has no feature maps, or does not support an option.
    """
    stochastic: dict[str, Any] = {"drop_path_rate": options.drop_path} if options.drop_path else {}
    reasons = []
    for variant in _VARIANTS:
        try:
            network = timm.create_model(
                name, pretrained=False, num_classes=0, **stochastic, **variant, **changes
            ).eval()
            trunk = Trunk(name, network, options.stride)
        except (TypeError, AssertionError, RuntimeError, ValueError) as error:
            reasons.append(str(error).splitlines()[0] if str(error) else type(error).__name__)
            continue
        _share_randomness(trunk)
        return trunk.train()
    raise ConfigError(
        f"cnn={name}: this network of timm cannot be used with drop_path={options.drop_path} and "
        f"stride={options.stride}: {'; '.join(dict.fromkeys(reasons))}"
    )


def _stage_at(name: str, network: nn.Module, stride: int, shape: tuple[int, ...]) -> tuple[int, bool]:
    """Return the index of the network's last stage with this stride, and whether it is the last stage overall.

    `shape` is that of the network's own output; it is part of the `ConfigError`'s message if there is no such stage.
    """
    stages = getattr(network, "feature_info", None)
    found = [index for index, stage in enumerate(stages or []) if stage["reduction"] == stride]
    if not found or not hasattr(network, "forward_intermediates"):
        own = f", and its output of the shape {shape} is not a feature map" if shape else ""
        raise ConfigError(f"stride={stride}: cnn={name} has no feature maps (N, channels, h, w) at that stride{own}")
    return found[-1], found[-1] == len(stages or []) - 1


def _are_maps(shape: tuple[int, ...]) -> bool:
    """Return whether an output of this shape is a feature map with more than one position."""
    return len(shape) == 4 and shape[2] >= 1 and shape[2:] != (1, 1)


def _layout(name: str, shape: tuple[int, ...], probe: tuple[int, int], stride: int) -> tuple[bool, int]:
    """Return whether channels come last, and their number; raises `ConfigError` if the output is not a feature map."""
    if not _are_maps(shape):
        raise ConfigError(
            f"stride={stride}: cnn={name}: its output for an image of {probe[0]} x {probe[1]} pixels has the shape "
            f"{shape}; feature maps (N, channels, h, w) are needed"
        )
    expected = tuple(-(-side // stride) for side in probe)
    last = shape[1:3] == expected and shape[2:] != expected
    return last, shape[3 if last else 1]


def _share_randomness(trunk: nn.Module) -> None:
    """Replace dropout and stochastic depth by layers that do not depend on the number of processes."""
    for module in list(trunk.modules()):
        for child_name, child in module.named_children():
            if isinstance(child, DropPath):
                setattr(module, child_name, SharedDropPath(child.drop_prob, scale=child.scale_by_keep))
            elif type(child) is nn.Dropout:
                setattr(module, child_name, Dropout(child.p))


def _convert(name: str, trunk: Trunk, state: State) -> State:
    """Rename the keys of a published state dict to those of the body, with timm's own conversion of old files."""
    own = set(trunk.network.state_dict())
    state = unwrapped(state, own)
    convert = getattr(sys.modules[type(trunk.network).__module__], "checkpoint_filter_fn", None)
    if convert is not None and not own <= set(state):
        try:
            state = convert(*[state, trunk.network][: len(inspect.signature(convert).parameters)])
        except (LookupError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise ConfigError(f"weights do not fit cnn={name}: timm cannot convert them: {error}") from None
    with torch.device("meta"):
        published = set(timm.create_model(name, pretrained=False).state_dict())
    # Drop the published classifier and the layers beyond the stride, which the trunk does not have.
    return {f"trunk.network.{key}": value for key, value in state.items() if key in own or key not in published}
