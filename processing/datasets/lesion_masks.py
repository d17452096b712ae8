"""Reads the circles of lesions from binary mask images: PNG, JPEG, TIFF or DICOM."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mammopipe.processing.datasets.collection import circle_around, is_dicom_name
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Lesion
from mammopipe.processing.errors import LabelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SMALLEST_PART = 16
"""Least number of pixels of a separate part of a mask; smaller parts are noise of lossy compression."""
_SAME_SHAPE = 0.02
"""Greatest relative difference between the proportions of a mask and of its image."""


@dataclass(frozen=True)
class Mask:
    """A mask of one image's lesions."""

    paths: tuple[str, ...]
    """The files that may hold the mask, relative to the folder of the images. If a collection's table confuses the mask
    with the cropped lesion, both are given: the mask is the one with the proportions of the image."""
    label: Label
    finding: str = ""
    one: bool = False
    """Whether all parts of the mask are one lesion; otherwise each part is a lesion."""


def with_lesions(record: ImageRecord, masks: Iterable[Mask], folder: Path) -> ImageRecord:
    """Return the record with the lesions that its masks show (`read_masks`), in addition to those that it has."""
    return read_masks(record, masks, folder)[0]


def read_masks(record: ImageRecord, masks: Iterable[Mask], folder: Path) -> tuple[ImageRecord, int]:
    """Return the record with the lesions that its masks show, and the number of masks that show none.

    A mask whose proportions are not those of the image is left out, because its position is then unknown.

    Args:
        record: The image's record.
        masks: The image's masks.
        folder: Folder that the paths of record and masks are relative to.

    Raises:
        LabelError: A mask cannot be read.
    """
    masks = list(masks)
    if not masks:
        return record, 0
    size = _size(folder / record.path)
    shown = [_lesions(mask, folder, size) for mask in masks]
    lesions = (*record.lesions, *(lesion for each in shown for lesion in each))
    return replace(record, lesions=lesions), sum(not each for each in shown)


def _lesions(mask: Mask, folder: Path, size: tuple[int, int]) -> list[Lesion]:
    rows, columns = size
    fitting = []
    for path in (folder / name for name in mask.paths):
        height, width = _size(path)
        if abs(height * columns / (width * rows) - 1) <= _SAME_SHAPE and min(height, width) > 1:
            fitting.append((abs(height - rows), path))
    for _, path in sorted(fitting):
        pixels = _pixels(path)
        inside = pixels > int(pixels.max()) // 2
        # A cropped lesion may have the proportions of the image; unlike a mask it is grey.
        if pixels.max() == 0 or _is_grey(pixels):
            continue
        boxes = [_box(inside)] if mask.one else _parts(inside)
        vertical, horizontal = rows / pixels.shape[0], columns / pixels.shape[1]
        return [
            circle_around(left * horizontal, top * vertical, right * horizontal, bottom * vertical, mask.label,
                          mask.finding)
            for left, top, right, bottom in boxes
        ]  # fmt: skip
    return []


def _is_grey(pixels: "NDArray[Any]") -> bool:
    """Return whether more than a hundredth of the pixels lie between the two values of a mask."""
    top = float(pixels.max())
    between = (pixels > 0.1 * top) & (pixels < 0.9 * top)
    return float(between.mean()) > 0.01


def _box(inside: "NDArray[np.bool_]") -> tuple[int, int, int, int]:
    import numpy as np

    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def _parts(inside: "NDArray[np.bool_]") -> list[tuple[int, int, int, int]]:
    import cv2

    count, _, figures, _ = cv2.connectedComponentsWithStats(inside.astype("uint8"), connectivity=8)
    parts = [figures[number] for number in range(1, count) if figures[number][4] >= SMALLEST_PART]
    return [(int(x), int(y), int(x + width - 1), int(y + height - 1)) for x, y, width, height, _ in parts]


def _size(path: Path) -> tuple[int, int]:
    """Return rows and columns of an image file without decoding its pixels."""
    if is_dicom_name(path):
        header = _dicom(path, header_only=True)
        return int(header.Rows), int(header.Columns)
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, ValueError) as error:
        raise LabelError(f"{path}: cannot be read as an image: {error}") from None


def _pixels(path: Path) -> "NDArray[Any]":
    import numpy as np

    if is_dicom_name(path):
        try:
            stored: NDArray[Any] = np.asarray(_dicom(path).pixel_array)
            return stored if stored.ndim == 2 else np.asarray(stored.reshape(*stored.shape[:2], -1).max(axis=2))
        except (ValueError, RuntimeError, AttributeError, NotImplementedError) as error:
            raise LabelError(f"{path}: the mask's pixels cannot be decoded: {error}") from None
    import cv2

    pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
    if pixels is None:
        raise LabelError(f"{path}: the mask's pixels cannot be decoded")
    return np.asarray(pixels)


def _dicom(path: Path, *, header_only: bool = False) -> Any:
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        found = pydicom.dcmread(path, stop_before_pixels=header_only)
        if "Rows" not in found or "Columns" not in found:
            raise LabelError(f"{path}: Rows and Columns must be given")
        return found
    except (InvalidDicomError, OSError, EOFError) as error:
        raise LabelError(f"{path}: cannot be read as DICOM: {error}") from None
