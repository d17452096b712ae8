"""The network's forward pass as it is deployed: exported to OpenVINO on processors, torch on GPUs and elsewhere."""

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
    """Which engine."""
    threads: int = 1
    """Of one forward pass."""
    precision: Precision = Precision.AUTO
    """Number format. `auto`: the format that Evaluate checked, with OpenVINO; 16 bits on a GPU; float32 elsewhere."""

    def __post_init__(self) -> None:
        """Refuse what no engine can do."""
        if self.threads < 1:
            raise ConfigError(f"EngineSettings.threads={self.threads} must be at least 1")
        if self.kind is EngineKind.OPENVINO and self.precision is Precision.FLOAT16:
            raise ConfigError(f"EngineSettings.precision={self.precision} needs a GPU, where the engine is torch")


@dataclass(frozen=True)
class Forward:
    """What the network makes of one film."""

    logits: NDArray[np.float64]
    """(classes,)."""
    maps: NDArray[np.float32]
    """(channels, h, w): the output of the network's last layer that knows places."""

    @property
    def features(self) -> NDArray[np.float64]:
        """The mean of each map, (channels,): what `mammopipe.training.model.reference` calls strange or not."""
        means: NDArray[np.float64] = self.maps.mean(axis=(1, 2), dtype=np.float64)
        return means


class Engine(Protocol):
    """One loaded network; belongs to the thread that opened it."""

    @property
    def name(self) -> str:
        """`openvino` or `torch`."""

    @property
    def precision(self) -> str:
        """Number format of an ordinary forward pass."""

    @property
    def margin(self) -> float:
        """How far a malignancy score may be from that of float32; nearer to a threshold, `run` computes in float32.

        0 where all is float32. A decision on several films together, whose score is within the margin of its threshold,
        wants `run(exact=True)` of each.
        """

    def run(self, image: NDArray[np.float32], *, exact: bool = False) -> Forward:
        """Return what the network makes of a film, (H, W) in [0, 1]; in float32 if `exact` or if it is a close call."""

    def activation_map(self, image: NDArray[np.float32], forward: Forward, class_index: int) -> NDArray[np.float32]:
        """Return where a class was seen in a film that was run, float32 (H, W) in 0..1."""
