"""Grad-CAM heatmaps of a class (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391)."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mammopipe.training.model.class_activation import head_map, scaled_to, within_tissue
from mammopipe.training.networks.model_directory import LoadedModel
from mammopipe.training.networks.network import ImageNetwork

_AGREE = 1e-3
"""Maximum difference, at any pixel, between two heatmaps in 0..1 that count as equal."""


def heatmap(model: LoadedModel, image: Tensor, class_index: int) -> NDArray[np.float32]:
    """Return the heatmap of one image as the endpoint shows it: 0 outside of the tissue.

    Args:
        model: The model.
        image: (1, H, W), in [0, 1].
        class_index: Index of the class.

    Returns:
        (H, W) float32, in [0, 1].
    """
    return within_tissue(grad_cam(model.network, image[None], class_index), image[0].numpy())


def grad_cam(network: ImageNetwork, images: Tensor, class_index: int) -> NDArray[np.float32]:
    """Return the Grad-CAM of one image.

    The channels of `network.cam_layer` are weighted by the mean gradient of the class's logit. Evidence against the
    class is set to 0. The network stays unchanged.

    Args:
        network: The network, in evaluation mode.
        images: One image, (1, 1, H, W), in [0, 1].
        class_index: Index of the class.

    Returns:
        (H, W) float32, in [0, 1]; the maximum is 1, or everything is 0 if there is no evidence for the class.

    Raises:
        ValueError: There is not exactly one image.
    """
    if images.ndim != 4 or images.shape[0] != 1:
        raise ValueError(f"images must be one image, (1, 1, H, W), not {tuple(images.shape)}")
    # Imported here, because the import takes a second and training does not need it.
    from captum.attr import LayerGradCam

    attribution = LayerGradCam(network, network.cam_layer)
    with torch.enable_grad():
        evidence = attribution.attribute(images, target=class_index, relu_attributions=True)
    # As float32, because NumPy has no bfloat16.
    return scaled_to(evidence[0, 0].detach().float().cpu().numpy(), (images.shape[2], images.shape[3]))


class Heatmaps:
    """Computes the heatmaps of many images of one model; the results are those of `heatmap`.

    If the feature maps weighted by the classifier equal the Grad-CAM (`head_weights`, checked on the first image), each
    image needs a single forward pass; a Grad-CAM takes three times as long.
    """

    def __init__(self, model: LoadedModel) -> None:
        """Prepare for images of a model."""
        self._model = model
        self._weights: NDArray[np.float32] | None = None
        self._checked = False

    def __call__(self, image: Tensor, class_index: int) -> NDArray[np.float32]:
        """Return the heatmap, (H, W) float32 in [0, 1], of an image, (1, H, W) in [0, 1], for a class."""
        if self._head(image) is None:
            return heatmap(self._model, image, class_index)
        wrapped = WithMaps(self._model.network)
        try:
            with torch.inference_mode():
                maps = wrapped(image[None])[1][0]
        finally:
            wrapped.close()
        return self.of_maps(image, maps, class_index)

    def of_maps(self, image: Tensor, maps: Tensor, class_index: int) -> NDArray[np.float32]:
        """Return the heatmap of an image whose feature maps, (channels, h, w), are known."""
        weights = self._head(image)
        if weights is None:
            return heatmap(self._model, image, class_index)
        mammogram = image[0].numpy()
        shape, pooling = (mammogram.shape[0], mammogram.shape[1]), self._model.network.pooling
        return within_tissue(head_map(maps.float().cpu().numpy(), weights[class_index], shape, pooling), mammogram)

    def _head(self, image: Tensor) -> NDArray[np.float32] | None:
        """Return the classifier's weights if they give the Grad-CAM of the first image."""
        if not self._checked:
            self._weights, self._checked = head_weights(self._model.network, image[None]), True
        return self._weights


class WithMaps(nn.Module):
    """Wraps a network to return its logits and the feature maps of its `cam_layer`."""

    def __init__(self, network: ImageNetwork) -> None:
        """Wrap the network; it has a forward hook until `close`."""
        super().__init__()
        self.network = network
        self._maps: Tensor | None = None
        self._hook = network.cam_layer.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._maps = output

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, classes) and feature maps (N, channels, h, w) of images (N, 1, H, W)."""
        logits = self.network(images)
        maps, self._maps = self._maps, None
        assert maps is not None
        return logits, maps

    def close(self) -> None:
        """Remove the hook from the network."""
        self._hook.remove()


def head_weights(network: ImageNetwork, image: Tensor) -> NDArray[np.float32] | None:
    """Return the classifier's weights if the map that `head_map` computes from them equals the Grad-CAM.

    They are equal after global pooling: the gradient of a logit with respect to a channel's mean is the classifier's
    weight, and max pooling before only redistributes gradients within a channel (Zhou et al. 2016,
    https://arxiv.org/abs/1512.04150). This function checks on one image whether that holds for the network.

    Args:
        network: The network, in evaluation mode.
        image: (1, 1, H, W), in [0, 1].

    Returns:
        (classes, channels) float32, or `None` if the maps differ.
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
        if np.abs(head_map(maps, row, shape, network.pooling) - grad_cam(network, image, index)).max() > _AGREE:
            return None
    return weights
