"""Predictions of many images as a table."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mammopipe.inference.engines.base import EngineKind, EngineSettings
from mammopipe.inference.prediction.predictor import Predictor
from mammopipe.inference.prediction.table import columns
from mammopipe.processing.classes import THREE
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Laterality, View
from mammopipe.processing.files import write_bytes
from mammopipe.processing.images.mammogram import read_mammogram


@pytest.fixture(scope="module")
def predictor(base: Path) -> Predictor:
    return Predictor(base / "model", engine=EngineSettings(EngineKind.TORCH))


def test_one_row_an_image_and_a_bad_one_costs_only_itself(predictor: Predictor, phantom: Any, tmp_path: Path) -> None:
    write_bytes(tmp_path / "a.pgm", phantom.pgm)
    write_bytes(tmp_path / "b.png", b"no image")
    table = predictor.predict_table([tmp_path / "a.pgm", str(tmp_path / "b.png"), tmp_path / "missing.dcm"])
    assert list(table.columns) == columns(predictor) and len(table) == 3
    assert list(table["image_id"]) == ["a", "b", "missing"]
    good, bad, missing = (table.iloc[row] for row in range(3))
    prediction = predictor.predict(read_mammogram(phantom.pgm))
    assert [good[f"probability_{label}"] for label in THREE] == list(prediction.probabilities.values())
    assert good["malignancy"] == prediction.malignancy_score / 100 and good["error"] == ""
    assert (good["laterality"], good["finding"], good["referred"]) == ("R", "suspicious", False)
    assert "laterality-inferred" in good["warnings"].split(";")
    assert bad["error"].startswith("unsupported_image: ") and str(tmp_path / "b.png") in bad["error"]
    assert missing["error"].startswith("corrupt_image: ") and np.isnan(missing["malignancy"])


def test_records_say_what_the_file_does_not_and_the_peak_is_a_place_of_the_image(
    predictor: Predictor, phantom: Any, tmp_path: Path
) -> None:
    write_bytes(tmp_path / "a.pgm", phantom.pgm)
    record = ImageRecord("image-1", "patient-1", "mias", Laterality.RIGHT, View.MLO, Label.NORMAL)
    table = predictor.predict_table([tmp_path / "a.pgm"], records=[record], explain=True)
    row = table.iloc[0]
    assert (row["image_id"], row["patient_id"], row["laterality"], row["view"]) == ("image-1", "patient-1", "R", "MLO")
    rows, image_columns = phantom.pixels.shape
    assert 0 <= row["peak_x"] < image_columns and 0 <= row["peak_y"] < rows


def test_without_images_there_is_a_table_without_rows(predictor: Predictor) -> None:
    table = predictor.predict_table([])
    assert len(table) == 0 and list(table.columns) == columns(predictor)
