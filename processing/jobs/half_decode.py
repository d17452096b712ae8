"""Reads images at the height of a stage, optionally by decoding at half resolution, and measures the difference.

JPEG 2000 also contains an image at half its resolution, which takes a third of the time to decode. The result differs
from the area average of the full resolution: the low-pass filter is another, and its centre is a quarter of a half-size
pixel further to the upper left (ISO/IEC 15444-1, annex F). So the difference is measured on the dataset's own images.
"""

import hashlib
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2

from mammopipe.processing.breast.preprocess import reduce_height
from mammopipe.processing.datasets.manifest import ImageRecord
from mammopipe.processing.dicom.file import is_dicom, parse
from mammopipe.processing.dicom.pixel_data import read_layout
from mammopipe.processing.images.mammogram import Limits, Mammogram, ReadConfig, read_mammogram
from mammopipe.processing.jobs.parallel import Refused, map_images
from mammopipe.processing.read_config import ForProcessing

LEAST_PSNR = 40.0
"""Least PSNR in decibels of decoding at half resolution, compared with full resolution."""
SAMPLE = 8
"""Number of images on which the difference is measured."""


@dataclass(frozen=True)
class ImageFile:
    """One image file and how to read it."""

    record: ImageRecord
    path: Path
    max_height: int
    """Greatest number of rows; a taller image is reduced."""
    half: bool = False
    """Whether the decoder may omit the finest level if half the height is still enough."""
    for_processing: ForProcessing = ForProcessing.REFUSE
    """What is done with raw images."""


def read_reduced(source: ImageFile) -> tuple[Mammogram, float]:
    """Return the mammogram with at most `max_height` rows, and the scale from the file's pixels to its own.

    Size and scale do not depend on whether the decoder halved the image. Raises the errors of `read_mammogram`.
    """
    rows_needed = source.max_height if source.half else None
    config = ReadConfig(enough_rows=rows_needed, jpeg_files=True, for_processing=source.for_processing)
    image = read_mammogram(source.path, record=source.record, config=config)
    reduction = int(image.facts.get("reduction", 1))
    rows, columns = image.pixels.shape
    if reduction > 1:
        rows, columns = int(image.facts["rows"]), int(image.facts["columns"])
    pixels = reduce_height(image.pixels, source.max_height, full_size=(rows, columns))
    scale = pixels.shape[0] / rows
    spacing = image.pixel_spacing_mm / reduction / scale if image.pixel_spacing_mm else None
    return replace(image, pixels=pixels, pixel_spacing_mm=spacing), scale


def measure(sources: Sequence[ImageFile]) -> dict[str, Any]:
    """Return the difference between decoding at half and at full resolution, and the images to decode in full.

    The difference is measured on up to `SAMPLE` of the images that would be halved, chosen by a hash of their ids. If
    the PSNR of one of them is below `LEAST_PSNR`, that of others may be, too, so all images are measured.

    Returns:
        The ids of the measured images, the least and the median PSNR in decibels (`None` if no image is tall enough),
        the required PSNR, and the ids of the images below it (`whole`), which must be decoded in full.
    """
    measured: dict[str, float] = {}
    # Ordered by a hash of the id, so that the sample does not depend on the order of the table.
    drawn = sorted(sources, key=lambda item: hashlib.sha256(f"half/{item.record.image_id}".encode()).hexdigest())
    for source, psnr in _in_order(drawn):
        if psnr is not None:
            measured[source.record.image_id] = psnr
        if len(measured) == SAMPLE and min(measured.values()) >= LEAST_PSNR:
            break
    whole = sorted(image_id for image_id, psnr in measured.items() if psnr < LEAST_PSNR)
    least, median = (round(of(measured.values()), 2) if measured else None for of in (min, statistics.median))
    account = {"images": sorted(measured), "psnr_db": {"min": least, "median": median}, "required_db": LEAST_PSNR}
    return account | {"whole": whole}


def psnr_of_half(source: ImageFile) -> float | None:
    """Return the PSNR in decibels between half and full resolution decoding; `None` if the image is not halved.

    Raises the errors of `read_mammogram`.
    """
    if not _is_tall(source):
        return None
    half, _ = read_reduced(replace(source, half=True))
    if "reduction" not in half.facts:
        return None
    full, _ = read_reduced(replace(source, half=False))
    return float(cv2.PSNR(full.pixels, half.pixels, R=65535))


def _is_tall(source: ImageFile) -> bool:
    """Return whether half the rows that a DICOM file announces are enough; this decodes no pixels."""
    data = source.path.read_bytes() if source.path.stat().st_size <= Limits().max_bytes else b""
    if not is_dicom(data):
        return False
    file = parse(data, where=str(source.path), limits=Limits())
    return read_layout(file.tags, Limits()).rows >= 2 * source.max_height


def _in_order(sources: Iterable[ImageFile]) -> Iterator[tuple[ImageFile, float | None]]:
    """Yield the sources with their PSNR in the given order, so that the sample does not depend on the workers."""
    waiting = list(sources)
    results = map_images(psnr_of_half, waiting, total=len(waiting), title="prepare: half decode against whole")
    arrived: dict[str, float | Refused | None] = {}
    position = 0
    for source, psnr in results:
        arrived[source.record.image_id] = psnr
        while position < len(waiting) and waiting[position].record.image_id in arrived:
            found = arrived.pop(waiting[position].record.image_id)
            # An unreadable image is skipped here; Prepare quarantines it later for the same reason.
            yield waiting[position], None if isinstance(found, Refused) else found
            position += 1
