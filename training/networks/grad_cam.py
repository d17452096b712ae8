"""Where in a film a class was seen: Grad-CAM (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391)."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mammopipe.training.model.class_activation import head_map, spread, within_tissue
from mammopipe.training.networks.model_directory import LoadedModel
from mammopipe.training.networks.network import FilmNetwork

_AGREE = 1e-3
"""How far two maps in 0..1 may be apart anywhere and still be the same."""


def heatmap(model: LoadedModel, image: Tensor, class_index: int) -> NDArray[np.float32]:
    """Return the class activation map of one film, (1, H, W) in [0, 1], as float32 (H, W) in [0, 1].

    As an endpoint shows it: 0 outside of the tissue.
    """
    return within_tissue(grad_cam(model.network, image[None], class_index), image[0].numpy())


def grad_cam(network: FilmNetwork, images: Tensor, class_index: int) -> NDArray[np.float32]:
    """Return the class activation map of one film, (1, 1, H, W) in [0, 1], as float32 (H, W) in [0, 1].

    The channels of `network.cam_layer`, each weighted by the mean gradient of the class's logit; what speaks against
    the class is left out, and the strongest place is 1. All zeros where nothing speaks for the class. The network,
    which must be in evaluation mode, is left as it was.
    """
    if images.ndim != 4 or images.shape[0] != 1:
        raise ValueError(f"images must be one film, (1, 1, H, W), not {tuple(images.shape)}")
    from captum.attr import LayerGradCam  # a second of import that training does not need

    attribution = LayerGradCam(network, network.cam_layer)
    with torch.enable_grad():
        evidence = attribution.attribute(images, target=class_index, relu_attributions=True)
    return spread(evidence[0, 0].detach().float().cpu().numpy(), (images.shape[2], images.shape[3]))


class WithMaps(nn.Module):
    """A network that returns, beside its logits, the maps of its `cam_layer`."""

    def __init__(self, network: FilmNetwork) -> None:
        """Take the network, which keeps a hook until `close`."""
        super().__init__()
        self.network = network
        self._maps: Tensor | None = None
        self._hook = network.cam_layer.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._maps = output

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, classes) and maps (N, channels, h, w) of films (N, 1, H, W)."""
        logits = self.network(images)
        maps, self._maps = self._maps, None
        assert maps is not None
        return logits, maps

    def close(self) -> None:
        """Leave the network as it was."""
        self._hook.remove()


def head_weights(network: FilmNetwork, image: Tensor) -> NDArray[np.float32] | None:
    """Return the classifier's weights, (classes, channels), if maps weighted by them are the Grad-CAM; else `None`.

    They are behind global average pooling, where the gradient of a logit by a channel's mean is the classifier's
    weight, and max pooling before it only moves gradients about within a channel (Zhou et al. 2016,
    https://arxiv.org/abs/1512.04150). Whether that holds of a network is seen on a film, (1, 1, H, W) in [0, 1].
    """
    layers = [module for module in network.head.modules() if isinstance(module, nn.Linear)]
    if len(layers) != 1:
        return None
    wrapped = WithMaps(network)
    try:
        with torch.inference_mode():
            maps = wrapped(image)[1][0].float().cpu().numpy()
    finally:
        wrapped.close()
    weights: NDArray[np.float32] = layers[0].weight.detach().float().cpu().numpy()
    if weights.shape[1] != maps.shape[0]:
        return None
    shape = (image.shape[2], image.shape[3])
    for index, row in enumerate(weights):
        if np.abs(head_map(maps, row, shape) - grad_cam(network, image, index)).max() > _AGREE:
            return None
    return weights
