"""The torch engine, in eager mode: automatic mixed precision on a GPU, float32 or bfloat16 on a CPU."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mammopipe.inference.engines.base import EngineSettings, Forward
from mammopipe.processing.errors import ConfigError
from mammopipe.training.model.architecture import Pooling, Precision
from mammopipe.training.model.class_activation import head_map
from mammopipe.training.model.near_threshold import TOLERANCE, NearThreshold
from mammopipe.training.networks import model_directory
from mammopipe.training.networks.grad_cam import WithMaps, grad_cam, head_weights
from mammopipe.training.networks.precision import autocast


class TorchEngine:
    """Runs the network of `weights.safetensors`."""

    name = "torch"

    def __init__(self, directory: Path, description: Mapping[str, Any], settings: EngineSettings) -> None:
        """Load and verify the weights; raises `ConfigError` if the file or the precision does not fit."""
        torch.set_num_threads(settings.threads)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._precision = _precision(settings.precision, self._device)
        model = model_directory.load(directory)
        network = model.network.to(self._device).to(memory_format=torch.channels_last)
        height, width = model.input_shape
        probe = np.random.default_rng(0).random((height, width), np.float32)
        self._pooling = Pooling(description.get("pooling", Pooling.MEAN))
        self._weights = head_weights(network, self._tensor(probe))
        self._network = WithMaps(network)
        self._close = NearThreshold.of(description, 0.0 if self._precision is Precision.FLOAT32 else TOLERANCE)

    @property
    def precision(self) -> str:
        """Number format of an ordinary forward pass."""
        return str(self._precision)

    @property
    def margin(self) -> float:
        """Distance to a threshold within which a malignancy score is computed in float32."""
        return self._close.margin

    def run(self, image: NDArray[np.float32], *, exact: bool = False) -> Forward:
        """Return the network's output for an image, float32 (H, W) in [0, 1]."""
        if exact:
            return self._run(image, Precision.FLOAT32)
        fast = self._run(image, self._precision)
        return self._run(image, Precision.FLOAT32) if self._close.near(fast.logits) else fast

    def activation_map(self, image: NDArray[np.float32], forward: Forward, class_index: int) -> NDArray[np.float32]:
        """Return the class activation map, float32 (H, W) in [0, 1]."""
        if self._weights is not None:
            shape = (image.shape[0], image.shape[1])
            return head_map(forward.maps, self._weights[class_index], shape, self._pooling)
        return grad_cam(self._network.network, self._tensor(image), class_index)

    def _run(self, image: NDArray[np.float32], precision: Precision) -> Forward:
        with torch.inference_mode(), autocast(precision, self._device):
            logits, maps = self._network(self._tensor(image))
        # NumPy has no bfloat16, so the outputs are converted while they are tensors.
        return Forward(logits[0].double().cpu().numpy(), maps[0].float().cpu().contiguous().numpy())

    def _tensor(self, image: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(image, np.float32))[None, None].to(self._device)


def _precision(wanted: Precision, device: torch.device) -> Precision:
    if device.type != "cuda":
        if wanted is Precision.FLOAT16:
            raise ConfigError(f"EngineSettings.precision={wanted} needs a GPU; use bfloat16 or float32 on a CPU")
        return Precision.FLOAT32 if wanted is Precision.AUTO else wanted
    if wanted is not Precision.AUTO:
        return wanted
    return Precision.BFLOAT16 if torch.cuda.is_bf16_supported() else Precision.FLOAT16
