"""Films brought to a stage's height, in full or by half the decode, and what half a decode changes.

JPEG 2000 holds an image at half its resolution, too, and gives that up for a third of the time of the whole. It is not
the average over areas that the full path makes: its low-pass filter is another, and centred a quarter of a half-size
pixel further to the upper left (ISO/IEC 15444-1, annex F). So the difference is measured on the films at hand.
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
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.images.mammogram import Limits, Mammogram, ReadConfig, read_mammogram
from mammopipe.processing.jobs.parallel import Refused, map_images

LEAST_PSNR = 40.0
"""Decibels to the full decode below which half a decode is refused."""
SAMPLE = 8
"""Films that the difference is measured on."""


@dataclass(frozen=True)
class Source:
    """One image file and what is wanted of it."""

    record: ImageRecord
    path: Path
    max_height: int
    """Rows; a taller image is reduced."""
    half: bool = False
    """Whether the decoder may leave the finest level out where half the height is still enough."""


def read_reduced(source: Source) -> tuple[Mammogram, float]:
    """Return the film at no more than `max_height` rows, and how many of its pixels one pixel of the file became.

    Size and scale are the same whether the decoder halved the image or not. Raises as `read_mammogram` does.
    """
    config = ReadConfig(enough_rows=source.max_height) if source.half else ReadConfig()
    film = read_mammogram(source.path, record=source.record, config=config)
    reduction = int(film.facts.get("reduction", 1))
    rows, columns = film.pixels.shape
    if reduction > 1:
        rows, columns = int(film.facts["rows"]), int(film.facts["columns"])
    pixels = reduce_height(film.pixels, source.max_height, full_size=(rows, columns))
    scale = pixels.shape[0] / rows
    spacing = film.pixel_spacing_mm / reduction / scale if film.pixel_spacing_mm else None
    return replace(film, pixels=pixels, pixel_spacing_mm=spacing), scale


def measure(sources: Sequence[Source]) -> dict[str, Any]:
    """Return what halving changes, on up to `SAMPLE` films that a hash of their ids chooses among those it concerns.

    The account has the films' ids and the least and the median PSNR in decibels (none where no film is tall enough).
    Raises `ConfigError` where one of them is below `LEAST_PSNR`.
    """
    measured: dict[str, float] = {}
    for source, psnr in _in_order(sorted(sources, key=_draw)):
        if psnr is not None:
            measured[source.record.image_id] = psnr
        if len(measured) == SAMPLE:
            break
    for image_id, psnr in measured.items():
        if psnr < LEAST_PSNR:
            raise ConfigError(
                f"reduced_decode=true: half a decode of image {image_id} differs from the whole by {psnr:.1f} dB "
                f"(PSNR at {sources[0].max_height} rows); at least {LEAST_PSNR:g} dB are required: set it to false"
            )
    least, median = (round(of(measured.values()), 2) if measured else None for of in (min, statistics.median))
    return {"images": sorted(measured), "psnr_db": {"min": least, "median": median}, "required_db": LEAST_PSNR}


def psnr_of_half(source: Source) -> float | None:
    """Return the PSNR, in decibels, of a film by half a decode to the same by a whole; `None` where it is not halved.

    Raises as `read_mammogram` does.
    """
    if not _is_tall(source):
        return None
    half, _ = read_reduced(replace(source, half=True))
    if "reduction" not in half.facts:
        return None
    full, _ = read_reduced(replace(source, half=False))
    return float(cv2.PSNR(full.pixels, half.pixels, R=65535))


def _is_tall(source: Source) -> bool:
    """Return whether half the rows that a DICOM file announces are enough; nothing is decoded for it."""
    data = source.path.read_bytes() if source.path.stat().st_size <= Limits.max_bytes else b""
    if not is_dicom(data):
        return False
    file = parse(data, where=str(source.path), limits=Limits())
    return read_layout(file.tags, Limits()).rows >= 2 * source.max_height


def _in_order(sources: Iterable[Source]) -> Iterator[tuple[Source, float | None]]:
    """Yield the sources in their order with their PSNR, so that which are measured does not depend on the workers."""
    waiting = list(sources)
    results = map_images(psnr_of_half, waiting, total=len(waiting), title="prepare: half decode against whole")
    arrived: dict[str, float | Refused | None] = {}
    position = 0
    for source, psnr in results:
        arrived[source.record.image_id] = psnr
        while position < len(waiting) and waiting[position].record.image_id in arrived:
            found = arrived.pop(waiting[position].record.image_id)
            # A film that cannot be read is quarantined when its turn comes, with this reason.
            yield waiting[position], None if isinstance(found, Refused) else found
            position += 1


def _draw(source: Source) -> str:
    return hashlib.sha256(f"half/{source.record.image_id}".encode()).hexdigest()
