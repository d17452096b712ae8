"""Draws pictures for visual inspection: the contact sheet of augmented copies and the montage of segmented images."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mammopipe.processing.breast.segmentation import BreastRegion
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Lesion
from mammopipe.processing.errors import ImageError, LabelError
from mammopipe.processing.files import write_bytes
from mammopipe.processing.images.image_files import ImageFiles
from mammopipe.processing.images.mammogram import read_mammogram
from mammopipe.processing.jobs.split_settings import image_place
from mammopipe.processing.read_config import DEFAULT_CONFIG, ReadConfig

Picture = NDArray[np.uint8]

CELL = 220
"""Longer side of an image on a sheet, in pixels."""
CAPTION = 26
"""Height of the caption below each image, in pixels."""
FONT, FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.36
MONTAGE_COLUMNS, OVERVIEW_COLUMNS = 16, 8
OVERVIEW_IMAGES = 32
COPIES_SHOWN = 6
COLOURS = {
    Label.NORMAL: (200, 200, 200),
    Label.NEGATIVE: (200, 200, 200),
    Label.BENIGN: (120, 200, 255),
    Label.MALIGNANT: (255, 120, 120),
}
"""RGB colour of the caption for each class."""


def draw_contours(
    pixels: NDArray[np.uint16], region: BreastRegion, lesions: Sequence[Lesion] = (), *, height: int = 320
) -> NDArray[np.uint8]:
    """Return a thumbnail with the outline of the breast in green, the pectoral muscle in red and lesions in yellow.

    Args:
        pixels: uint16, (rows, columns).
        region: The segmentation of `pixels`.
        lesions: Circles in pixels of the image.
        height: Rows of the thumbnail.

    Returns:
        uint8 RGB, (`height`, columns, 3).
    """
    scale = height / pixels.shape[0]
    size = (max(1, round(pixels.shape[1] * scale)), height)
    grey = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 65535
    canvas = cv2.cvtColor((255 * np.sqrt(grey)).astype(np.uint8), cv2.COLOR_GRAY2RGB)
    for mask, colour in ((region.mask, (0, 255, 0)), (region.pectoral, (255, 0, 0))):
        small = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_AREA)
        outline, _ = cv2.findContours(small, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, outline, -1, colour, 1)
    for lesion in lesions:
        centre = (round(lesion.x * scale), round(lesion.y * scale))
        cv2.circle(canvas, centre, max(2, round(lesion.radius * scale)), (255, 255, 0), 1)
    return np.asarray(canvas, np.uint8)


def contact_sheet(
    originals: Sequence[ImageRecord], images: Path, copies: Sequence[ImageRecord], folder: Path, target: Path
) -> None:
    """Write a sheet with one row per augmented original: the original and its copies, with lesions in yellow.

    Every row shows as many copies as the original with the fewest copies has, so that no cell is empty. If no original
    has copies, all originals are shown in one row.

    Args:
        originals: The originals.
        images: The folder of the originals.
        copies: Their copies.
        folder: The folder of the copies.
        target: The PNG to write.
    """
    of = {
        original.image_id: sorted(
            (copy for copy in copies if copy.source_image_id == original.image_id), key=lambda copy: copy.image_id
        )
        for original in originals
    }
    shown = [original for original in originals if of[original.image_id]]
    if not shown:
        cells = [_cell(_picture(images / image_place(original), original), original) for original in originals]
        write_picture(target, _row(cells, len(cells)))
        return
    count = min(COPIES_SHOWN, *(len(of[original.image_id]) for original in shown))
    rows = []
    for original in shown:
        cells = [_cell(_picture(images / image_place(original), original), original)]
        cells += [_cell(_picture(folder / copy.path, copy), copy) for copy in of[original.image_id][:count]]
        rows.append(_row(cells, count + 1))
    write_picture(target, np.vstack(rows))


def montage(records: Sequence[ImageRecord], thumbnails: Path, target: Path) -> None:
    """Write a montage of all existing thumbnails of the records, each with its id, class and flags."""
    found = {record.image_id: thumbnails / f"{record.image_id}.png" for record in records}
    shown = sorted((record for record in records if found[record.image_id].is_file()), key=lambda item: item.image_id)
    cells = [_cell(_read_picture(found[record.image_id]), record) for record in shown]
    if cells:
        write_picture(target, _grid(cells, MONTAGE_COLUMNS))


def overview(
    records: Sequence[ImageRecord],
    images: Path,
    target: Path,
    *,
    reading: ReadConfig = DEFAULT_CONFIG,
) -> None:
    """Write a montage of up to `OVERVIEW_IMAGES` images of a folder; unreadable images are left out.

    Rare classes come first, so that the montage of a large dataset shows every class.

    Args:
        records: Rows of the images.
        images: Folder that their paths are relative to; its images are single files, or lie in shards.
        target: The PNG to write.
        reading: How images are read.

    Raises:
        LabelError: None of the images can be read.
    """
    frequency, files = Counter(record.label for record in records), ImageFiles(images)
    cells = []
    for record in sorted(records, key=lambda item: (frequency[item.label], item.image_id)):
        try:
            cells.append(_cell(_picture(files.source(record.path), record, reading), record))
        except ImageError:
            continue
        if len(cells) == OVERVIEW_IMAGES:
            break
    if not cells:
        raise LabelError(f"{images}: none of the {len(records)} images can be read")
    write_picture(target, _grid(cells, OVERVIEW_COLUMNS))


def write_picture(path: Path, picture: Picture) -> None:
    """Write a uint8 RGB picture as PNG, complete or not at all."""
    encoded, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not encoded:
        raise OSError(f"{path}: the picture could not be encoded as PNG")
    write_bytes(path, data.tobytes())


def _read_picture(path: Path) -> Picture:
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise OSError(f"{path}: the picture could not be read")
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


def _picture(source: Path | bytes, record: ImageRecord, reading: ReadConfig = DEFAULT_CONFIG) -> Picture:
    pixels = read_mammogram(source, config=reading).pixels
    scale = CELL / max(pixels.shape)
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    grey = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    picture = cv2.cvtColor((np.asarray(grey, np.uint16) >> 8).astype(np.uint8), cv2.COLOR_GRAY2RGB)
    for lesion in record.lesions:
        centre = (round(lesion.x * scale), round(lesion.y * scale))
        cv2.circle(picture, centre, max(2, round(lesion.radius * scale)), (255, 255, 0), 1, cv2.LINE_AA)
    return np.asarray(picture, np.uint8)


def _cell(picture: Picture, record: ImageRecord) -> Picture:
    scale = CELL / max(picture.shape)
    if scale < 1:
        picture = np.asarray(cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
    cell = np.full((CELL + CAPTION, CELL, 3), 24, np.uint8)
    left = (CELL - picture.shape[1]) // 2
    cell[: picture.shape[0], left : left + picture.shape[1]] = picture
    flags = " ".join(record.quality.get("flags", ()))
    for line, text in enumerate((shortened(record.image_id, f" {record.label}"), flags)):
        place = (3, CELL + 11 + 12 * line)
        cv2.putText(cell, text, place, FONT, FONT_SCALE, COLOURS[record.label], 1, cv2.LINE_AA)
    return cell


def shortened(name: str, rest: str) -> str:
    """Return a name and the text after it; a name that is too wide keeps its end, in which names differ most."""
    shown = name
    while len(shown) > 1 and cv2.getTextSize(f"..{shown}{rest}", FONT, FONT_SCALE, 1)[0][0] > CELL - 6:
        shown = shown[1:]
    return f"{name if shown == name else f'..{shown}'}{rest}"


def _grid(cells: Sequence[Picture], most: int) -> Picture:
    """Return the cells in rows of at most `most` cells."""
    columns = min(most, len(cells))
    return np.vstack([_row(cells[start : start + columns], columns) for start in range(0, len(cells), columns)])


def _row(cells: Sequence[Picture], columns: int) -> Picture:
    blank = np.full((CELL + CAPTION, CELL, 3), 24, np.uint8)
    return np.hstack([*cells, *[blank] * (columns - len(cells))])
