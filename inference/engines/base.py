"""The interface of the engines that compute the forward pass: OpenVINO on CPUs, torch on GPUs and elsewhere."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mammopipe.inference.settings import EngineKind as EngineKind
from mammopipe.processing.errors import ConfigError
from mammopipe.training.model.architecture import Precision


@dataclass(frozen=True)
class EngineSettings:
    """How the forward pass is computed."""

    kind: EngineKind = EngineKind.AUTO
    """The engine."""
    threads: int = 1
    """Threads of one forward pass."""
    precision: Precision = Precision.AUTO
    """Number format. `auto` is the format that Evaluate checked (OpenVINO), 16 bits (GPU), or float32 (otherwise)."""

    def __post_init__(self) -> None:
        """Refuse settings that no engine supports."""
        if self.threads < 1:
            raise ConfigError(f"EngineSettings.threads={self.threads} must be at least 1")
        if self.kind is EngineKind.OPENVINO and self.precision is Precision.FLOAT16:
            raise ConfigError(f"EngineSettings.precision={self.precision} needs a GPU, where the engine is torch")


@dataclass(frozen=True)
class Forward:
    """The network's output for one image."""

    logits: NDArray[np.float64]
    """(classes,), in the order of the model's classes."""
    maps: NDArray[np.float32]
    """(channels, h, w), the feature maps: the output of the network's last layer with spatial dimensions."""

    @property
    def features(self) -> NDArray[np.float64]:
        """(channels,), the mean of each feature map; `mammopipe.training.model.reference` uses it for strangeness."""
        means: NDArray[np.float64] = self.maps.mean(axis=(1, 2), dtype=np.float64)
        return means


class Engine(Protocol):
    """One loaded network. Only the thread that opened it may use it."""

    @property
    def name(self) -> str:
        """`openvino` or `torch`."""

    @property
    def precision(self) -> str:
        """Number format of an ordinary forward pass."""

    @property
    def margin(self) -> float:
        """Largest expected difference of a malignancy score from that of float32; 0 if everything is float32.

        If a score is within the margin of a threshold, `run` computes in float32. If the score of several images
        together is within the margin of its threshold, the caller must use `run(exact=True)` for each image.
        """

    def run(self, image: NDArray[np.float32], *, exact: bool = False) -> Forward:
        """Return the network's output for an image.

        Args:
            image: float32 (H, W) in [0, 1].
            exact: Whether to compute in float32. Scores near a threshold are always computed in float32.
        """

    def activation_map(self, image: NDArray[np.float32], forward: Forward, class_index: int) -> NDArray[np.float32]:
        """Return the class activation map of an image.

        Args:
            image: float32 (H, W) in [0, 1].
            forward: The result of `run` for the image.
            class_index: Index of the class.

        Returns:
            float32 (H, W) in [0, 1].
        """
