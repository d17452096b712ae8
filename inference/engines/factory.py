"""Opens the engine that fits the settings and the machine: OpenVINO or torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mammopipe.inference.engines.base import Engine, EngineSettings
from mammopipe.inference.settings import EngineKind
from mammopipe.processing.errors import ConfigError
from mammopipe.training.model.description import DESCRIPTION_FILE, OPENVINO


def open_engine(directory: Path, description: Mapping[str, Any], settings: EngineSettings) -> Engine:
    """Return the engine for a model.

    Args:
        directory: The model directory.
        description: The content of its `model.json`.
        settings: The engine, its threads and its precision.

    Raises:
        ConfigError: The model does not include the requested engine, or a file is missing, altered or does not fit.
    """
    if _wants_openvino(directory, description, settings.kind):
        from mammopipe.inference.engines.openvino import OpenVinoEngine

        return OpenVinoEngine(directory, description, settings)
    return _open_torch(directory, description, settings)


def _open_torch(directory: Path, description: Mapping[str, Any], settings: EngineSettings) -> Engine:
    """Return the torch engine; raises `ConfigError` also if torch is not installed, as in a small container image."""
    try:
        from mammopipe.inference.engines.torch import TorchEngine
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{directory}: this model needs torch ({error}); build the container image with SERVING_EXTRA=inference"
        ) from None
    return TorchEngine(directory, description, settings)


def _wants_openvino(directory: Path, description: Mapping[str, Any], kind: EngineKind) -> bool:
    listed = OPENVINO in description.get("engines", {})
    if kind is EngineKind.OPENVINO and not listed:
        raise ConfigError(
            f"{directory / DESCRIPTION_FILE}: engines.{OPENVINO} is missing: the model was not exported for the "
            f"requested engine {kind}"
        )
    return kind is EngineKind.OPENVINO or (kind is EngineKind.AUTO and listed and not _has_gpu())


def _has_gpu() -> bool:
    """Return whether the machine has an NVIDIA GPU, without loading torch."""
    return Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidia0").exists()
