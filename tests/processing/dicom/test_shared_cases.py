"""DICOM files that were once read wrongly are read or refused as their table states.

The files are not part of the repository; other tests of this folder make files of the same kinds. The environment
variable MAMMOPIPE_CASES names their folder; the default is `shared/cases` beside the checkout. Without the folder, the
test is skipped.
"""

import csv
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from mammopipe.processing.images.mammogram import ImageError, Mammogram, ReadConfig, read_mammogram
from mammopipe.processing.jobs.half_decode import LEAST_PSNR
from tests.conftest import SHARED_DATA

CASES = Path(os.environ.get("MAMMOPIPE_CASES") or SHARED_DATA.parent / "cases") / "dicom"
CONTROLS = {"policy": "policy-plain-mg-for-presentation.dcm", "nan": "control.dcm", "": "encaps-no-delimiter.dcm"}
OTHER_PICTURES = ("jls-",)
"""Start of the names of files whose pixels are those of no control file."""


def control_of(name: str) -> np.ndarray:
    """Return the pixels that a file of this family must give."""
    family = "policy" if name.startswith("policy") else "nan" if "_fd_" in name or name == "control.dcm" else ""
    return read_mammogram(CASES / CONTROLS[family]).pixels


def problem(name: str, expected: str) -> str:
    """Return what is wrong with the result of reading a file; "" if it is as expected."""
    try:
        image = read_mammogram(CASES / name)
    except ImageError as error:
        if type(error).__name__ == "ReaderFaultError" or "is a sequence" in str(error):
            return f"refused with a wrong reason: {error}"
        return "" if expected.startswith("refuse") else f"refused: {error}"
    return unexpected(image, name, expected)


def unexpected(image: Mammogram, name: str, expected: str) -> str:
    if expected == "refuse":
        return "read"
    if not image.pixels.any() or image.pixel_spacing_mm != image.pixel_spacing_mm:
        return "all black, or a spacing that is no number"
    if expected.startswith("read laterality "):
        return "" if image.laterality == expected.split()[-1] else f"laterality {image.laterality}"
    if expected.startswith("read, warns "):
        return "" if expected.split()[-1] in image.flags else f"flags {image.flags}"
    if expected.startswith("read mean~"):
        return "" if abs(image.pixels.mean() / float(expected.split("~")[1]) - 1) < 0.01 else "another mean"
    if expected.startswith("reduced decode"):
        rows = image.pixels.shape[0]
        half = read_mammogram(CASES / name, config=ReadConfig(enough_rows=rows // 2)).pixels
        whole = cv2.resize(image.pixels, half.shape[::-1], interpolation=cv2.INTER_AREA)
        return "" if cv2.PSNR(whole, half, R=65535) >= LEAST_PSNR else "half differs"
    if expected.startswith("read") and not name.startswith(OTHER_PICTURES):
        control = control_of(name)
        same = control.shape == image.pixels.shape and np.abs(control.astype(int) - image.pixels).max() <= 1
        return "" if same else "other pixels than its control"
    return ""


@pytest.mark.skipif(not (CASES / "expected.csv").is_file(), reason=f"no cases at {CASES}; set MAMMOPIPE_CASES")
def test_every_collected_file_is_read_or_refused_as_its_table_says() -> None:
    rows = list(csv.DictReader((CASES / "expected.csv").read_text(encoding="utf-8").splitlines()))
    found = {row["file"]: problem(row["file"], row["expected"]) for row in rows}
    assert {name: wrong for name, wrong in found.items() if wrong} == {}
    assert len(found) == len(list(CASES.iterdir())) - 1
