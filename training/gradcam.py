"""Where in a film a class was seen: Grad-CAM (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391)."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from training.artifact import LoadedModel
from training.models import FilmNetwork


def heatmap(model: LoadedModel, image: Tensor, class_index: int) -> NDArray[np.float32]:
    """Return the class activation map of one film, (1, H, W) in [0, 1], as float32 (H, W) in [0, 1]."""
    return grad_cam(model.network, image[None], class_index)


def grad_cam(network: FilmNetwork, images: Tensor, class_index: int) -> NDArray[np.float32]:
    """Return the class activation map of one film, (1, 1, H, W) in [0, 1], as float32 (H, W) in [0, 1].

    The channels of `network.cam_layer`, each weighted by the mean gradient of the class's logit; what speaks against
    the class is left out, and the strongest place is 1. All zeros where nothing speaks for the class. The network,
    which must be in evaluation mode, is left as it was.
    """
    if images.ndim != 4 or images.shape[0] != 1:
        raise ValueError(f"images must be one film, (1, 1, H, W), not {tuple(images.shape)}")
    seen: list[Tensor] = []

    def remember(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        # Cut off what lies before, so that the backward pass is only through what lies behind.
        seen.append(output.detach().requires_grad_())
        return seen[0]

    handle = network.cam_layer.register_forward_hook(remember)
    try:
        with torch.enable_grad():
            logit = network(images)[0, class_index]
            gradient, = torch.autograd.grad(logit, seen[0])
    finally:
        handle.remove()
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    evidence = functional.relu((weights * seen[0].detach()).sum(dim=1, keepdim=True))
    full = functional.interpolate(evidence, size=images.shape[2:], mode="bilinear", align_corners=False)[0, 0]
    strongest = full.max()
    scaled = full / strongest if strongest > 0 else full
    return np.asarray(scaled.clamp(0, 1).float().cpu().numpy())
