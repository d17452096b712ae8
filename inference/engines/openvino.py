"""The OpenVINO engine, for the files that Evaluate exported and checked. Loads torch only if heatmaps need it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays

from mammopipe.inference.engines.base import Engine, EngineKind, EngineSettings, Forward
from mammopipe.processing.container.memory import release_mapped
from mammopipe.processing.errors import ConfigError
from mammopipe.training.model.architecture import Cnn, Pooling, Precision
from mammopipe.training.model.class_activation import ClassifierGradients, head_map
from mammopipe.training.model.description import (
    DESCRIPTION_FILE,
    HEAD,
    HEAD_FILE,
    NETWORK_FILES,
    OPENVINO,
    WEIGHTS_FILE,
    verified,
    verify,
)
from mammopipe.training.model.near_threshold import CAUTION, NearThreshold
from mammopipe.training.model.openvino_runtime import CompiledNetwork, fastest_precision, read_network


class OpenVinoEngine:
    """Runs the network of `network.xml`, and a second copy in float32 for scores near a threshold."""

    name = "openvino"

    def __init__(self, directory: Path, description: Mapping[str, Any], settings: EngineSettings) -> None:
        """Verify and compile the files; raises `ConfigError` if one is missing or altered."""
        exported = description["engines"][OPENVINO]
        for name in NETWORK_FILES:
            verify(directory / name, exported["files"][name], f"one that engines.{OPENVINO} states")
        description_file, self._weights_file = (directory / name for name in NETWORK_FILES)
        self._network, self._threads = read_network(description_file), settings.threads
        self._precision = _precision(settings.precision, Precision(exported["precision"]))
        self._fast = self._compile(self._precision)
        self._exact = self._fast if self._precision is Precision.FLOAT32 else None
        # Evaluate measured the difference on its own images; other images may differ more.
        margin = 0.0 if self._exact else CAUTION * exported["largest_difference"]
        self._close = NearThreshold.of(description, margin)
        self._pooling = Pooling(description.get("pooling", Pooling.MEAN))
        self._weights = _read_head(directory, exported) if exported["activation_map"] == HEAD else None
        # Loaded here rather than at the first heatmap, which would delay a caller and grow the process under load.
        alexnet = self._weights is None and description["architecture"] == Cnn.ALEXNET
        self._classifier = _read_classifier(directory, description) if alexnet else None
        if self._classifier is not None:
            self._exact = self._exact or self._compile(Precision.FLOAT32)
        others = self._weights is None and self._classifier is None
        self._maps = _open_torch(directory, description, settings) if others else None

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
            return self._run_exact(image)
        fast = Forward(*self._fast.run(image))
        return self._run_exact(image) if self._close.near(fast.logits) else fast

    def _run_exact(self, image: NDArray[np.float32]) -> Forward:
        if self._exact is None:
            self._exact = self._compile(Precision.FLOAT32)
        return Forward(*self._exact.run(image))

    def _compile(self, precision: Precision) -> CompiledNetwork:
        compiled = CompiledNetwork(self._network, precision=precision, threads=self._threads)
        # The compiled network has its own copy of the weights; the file's pages would only fill the memory.
        release_mapped(self._weights_file)
        return compiled

    def activation_map(self, image: NDArray[np.float32], forward: Forward, class_index: int) -> NDArray[np.float32]:
        """Return the class activation map, float32 (H, W) in [0, 1]."""
        shape = (image.shape[0], image.shape[1])
        if self._weights is not None:
            return head_map(forward.maps, self._weights[class_index], shape, self._pooling)
        if self._classifier is not None:
            # A unit is active above 0. Rounding could change that, so the maps are computed in float32.
            maps = self._run_exact(image).maps
            return head_map(maps, self._classifier.weights(maps, class_index), shape)
        assert self._maps is not None
        return self._maps.activation_map(image, forward, class_index)


def _precision(wanted: Precision, checked: Precision) -> Precision:
    """Return the number format: a faster one than float32 only if Evaluate checked it and this machine supports it."""
    if wanted is Precision.AUTO:
        return checked if checked is fastest_precision() else Precision.FLOAT32
    if wanted not in (Precision.FLOAT32, checked):
        raise ConfigError(f"EngineSettings.precision={wanted}: the model was checked in {checked}, not in this format")
    return wanted


def _read_head(directory: Path, exported: Mapping[str, Any]) -> NDArray[np.float32]:
    path = directory / HEAD_FILE
    content = verified(path, exported["files"][HEAD_FILE], f"one that engines.{OPENVINO} states")
    try:
        weights: NDArray[np.float32] = load_arrays(content)["weight"]
    except (SafetensorError, KeyError) as error:
        raise ConfigError(f"{path}: not the classifier's weights: {error}") from None
    return weights


def _read_classifier(directory: Path, description: Mapping[str, Any]) -> ClassifierGradients:
    """Return the gradients of AlexNet's classifier, whose linear layers are torchvision's 1, 4 and 6."""
    path = directory / WEIGHTS_FILE
    content = verified(path, description["weights_sha256"], f"weights_sha256 of {DESCRIPTION_FILE}")
    try:
        arrays = load_arrays(content)
        names = [f"body.classifier.{index}" for index in (1, 4, 6)]
        return ClassifierGradients([(arrays[f"{name}.weight"].copy(), arrays[f"{name}.bias"].copy()) for name in names])
    except (SafetensorError, KeyError) as error:
        raise ConfigError(f"{path}: does not hold AlexNet's classifier: {error}") from None


def _open_torch(directory: Path, description: Mapping[str, Any], settings: EngineSettings) -> Engine:
    try:
        from mammopipe.inference.engines.torch import TorchEngine
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{directory}: this model's heatmaps need torch ({error}); build the container image with "
            "SERVING_EXTRA=inference"
        ) from None
    return TorchEngine(directory, description, EngineSettings(EngineKind.TORCH, settings.threads, Precision.FLOAT32))
