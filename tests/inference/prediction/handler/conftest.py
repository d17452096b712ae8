"""An evaluated model, and phantoms as PGM and as DICOM, for the handler's tests."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mammopipe.inference.engines.base import EngineKind, EngineSettings
from mammopipe.inference.prediction.predictor import Predictor
from mammopipe.processing.datasets.manifest import Label, Laterality
from mammopipe.processing.files import write_bytes, write_json
from mammopipe.processing.phantoms.mias_tree import make_film, write_rsna_tree
from mammopipe.training.networks import model_directory
from tests.inference.prediction.handler.handler_requests import with_view
from tests.support.points import level_figures


def figures(sensitive: float, specific: float) -> dict[str, Any]:
    return level_figures(sensitivity=sensitive, specificity=specific)


@pytest.fixture(scope="package")
def predictor(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """An evaluated model: it knows thresholds of breasts and patients."""
    folder = tmp_path_factory.mktemp("evaluated")
    write_bytes(folder / "weights.safetensors", (base / "model" / "weights.safetensors").read_bytes())
    described = model_directory.read_description(base / "model")
    write_json(
        folder / "model.json",
        described
        | {
            "calibration": {**described["calibration"], "breast_rule": "max"},
            "metrics": {"validation": {"breast": figures(1e-9, 1 - 1e-9), "patient": figures(0.1, 0.9)}},
        },
    )
    return Predictor(folder, engine=EngineSettings(EngineKind.TORCH))


@pytest.fixture(scope="package")
def pgms() -> list[bytes]:
    """Two left breasts and a right one."""
    images = []
    for seed, side in ((4, Laterality.LEFT), (5, Laterality.RIGHT), (6, Laterality.LEFT)):
        image = make_film(seed, label=Label.MALIGNANT, laterality=side, height=300 + seed, width=260)
        images.append(b"P5 %d %d 255\n" % (260, 300 + seed) + (image.pixels >> 8).astype(np.uint8).tobytes())
    return images


@pytest.fixture(scope="package")
def dicoms(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The views of two patients, two and two; each file says its view."""
    folder = tmp_path_factory.mktemp("rsna")
    write_rsna_tree(folder, patients=2, height=400)
    patients = sorted(path for path in (folder / "train_images").iterdir())
    return [with_view(path) for patient in patients for path in sorted(patient.iterdir())[:2]]
