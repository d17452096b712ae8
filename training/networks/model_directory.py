"""Reads and writes the model directory (`weights.safetensors` and `model.json`), which is all that serving needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from mammopipe.processing.breast.preprocess import PreprocessConfig
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import write_bytes
from mammopipe.training.model.architecture import Level, Pooling, find_architecture
from mammopipe.training.model.calibration import Calibration
from mammopipe.training.model.description import (
    DESCRIPTION_FILE,
    SCHEMA,
    WEIGHTS_FILE,
    check_description,
    read_description,
    verified,
    verify_files,
    write_description,
)
from mammopipe.training.model.views.attention import ViewAttention
from mammopipe.training.networks.network import Ensemble, ImageNetwork
from mammopipe.training.networks.registry import build_model

__all__ = [
    "DESCRIPTION_FILE",
    "LoadedModel",
    "check_description",
    "load",
    "read_description",
    "save",
    "write_description",
]


@dataclass(frozen=True)
class LoadedModel:
    """A trained model, ready for prediction."""

    network: ImageNetwork
    """The network in evaluation mode, float32, without gradients."""
    description: Mapping[str, Any]
    """The content of `model.json`."""

    @property
    def level(self) -> Level:
        """What the model judges: images, or breasts by all their views."""
        return Level(self.description.get("level", Level.IMAGE))

    @property
    def other_side(self) -> bool:
        """Whether the views of the patient's other breast are also used."""
        return bool(self.description.get("views", {}).get("other_side", False))

    @property
    def attention(self) -> ViewAttention | None:
        """The layer that combines the views of a breast; `None` for a model that judges images."""
        if self.network.views is None:
            return None
        weights = {name: value.cpu().numpy() for name, value in self.network.views.state_dict().items()}
        return ViewAttention.of(weights, other_side=self.other_side)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the logits."""
        return tuple(self.description["classes"])

    @property
    def input_shape(self) -> tuple[int, int]:
        """(height, width) of the images, in pixels."""
        return int(self.description["input"]["height"]), int(self.description["input"]["width"])

    @property
    def preprocess(self) -> PreprocessConfig:
        """The preprocessing from a mammogram to this model's input."""
        return PreprocessConfig.from_json(self.description["preprocess"])

    @property
    def calibration(self) -> Calibration:
        """The calibration from logits to probabilities."""
        return Calibration.of(self.description)

    def predict_logits(self, images: Tensor) -> Tensor:
        """Return logits.

        Args:
            images: (N, 1, H, W) float32, in [0, 1], of `input_shape`.

        Returns:
            (N, classes) float32.

        Raises:
            ValueError: The images have another shape.
        """
        height, width = self.input_shape
        if images.ndim != 4 or tuple(images.shape[2:]) != (height, width):
            raise ValueError(f"images must be (N, 1, {height}, {width}), not {tuple(images.shape)}")
        with torch.inference_mode():
            logits: Tensor = self.network(images).float()
        return logits

    def predict_probabilities(self, images: Tensor) -> Tensor:
        """Return calibrated probabilities, (N, classes) float32; rows sum to 1. Input as for `predict_logits`."""
        probabilities = self.calibration.probabilities(self.predict_logits(images).numpy().astype(np.float64))
        return torch.from_numpy(probabilities).float()


def save(directory: Path, model: nn.Module, description: Mapping[str, Any]) -> None:
    """Write the model directory.

    `model.json` is written last because it holds the digests of the other files.

    Args:
        directory: The model directory.
        model: The network.
        description: `model.json`; `schema`, `weights_sha256` and `files` are set here.

    Raises:
        ConfigError: `load` would reject the description.
    """
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    check_description(_with_digests(description, "0" * 64), directory / DESCRIPTION_FILE)
    write_bytes(directory / WEIGHTS_FILE, save_tensors(state))
    write_description(directory, description)


def _with_digests(description: Mapping[str, Any], digest: str) -> dict[str, Any]:
    return {**description, "schema": SCHEMA, "weights_sha256": digest, "files": {WEIGHTS_FILE: digest}}


def load(directory: Path) -> LoadedModel:
    """Load the model of a directory.

    Raises:
        ConfigError: A file is missing, damaged, or of another schema.
    """
    description = read_description(directory)
    verify_files(directory, description)
    network = _build(description)
    path = directory / WEIGHTS_FILE
    try:
        network.load_state_dict(_read_weights(path, description["weights_sha256"]), strict=True, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: does not fit {description['architecture']}: {reason}") from None
    network.eval().requires_grad_(False)
    return LoadedModel(network, description)


def _build(description: Mapping[str, Any]) -> ImageNetwork:
    members = description.get("ensemble", 1)
    if members > 1:
        return Ensemble([_build({**description, "ensemble": 1}) for _ in range(members)])
    architecture = find_architecture(description["architecture"])
    # On "meta", no memory is allocated, because all weights come from the file. timm's networks have tables that are
    # not in the file, so they need real memory.
    with torch.device("cpu" if architecture.of_timm else "meta"):
        return build_model(
            architecture.name,
            classes=description["classes"],
            pooling=Pooling(description.get("pooling", Pooling.MEAN)),
            top_places=description.get("top_places", 3),
            stride=description.get("stride", 32),
            level=Level(description.get("level", Level.IMAGE)),
            other_side=description.get("views", {}).get("other_side", False),
            initialise=False,  # On "meta", a normal distribution would import torch's compiler, which takes a second.
        )


def _read_weights(path: Path, digest: str) -> dict[str, Tensor]:
    content = verified(path, digest, f"weights_sha256 of {DESCRIPTION_FILE}")
    try:
        return load_tensors(content)
    except SafetensorError as error:
        raise ConfigError(f"{path}: not a safetensors file: {error}") from None
