"""Reads one mammogram from a file or its bytes: pixels on a common scale, laterality, view, spacing and facts.

`read_mammogram` is the only reader of DICOM, PGM, PNG and TIFF in the project; training and serving both use it. The
facts identify no patient.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

# np.unique and np.percentile import numpy.ma at their first call. Between the images of a process that keeps its heap,
# the module would split the memory that the decoder has just freed, and the next large image would need more.
import numpy.ma  # noqa: F401
from numpy.typing import NDArray

from mammopipe.processing.datasets.manifest import ImageRecord, Laterality, View
from mammopipe.processing.dicom import deidentification
from mammopipe.processing.dicom.file import is_dicom
from mammopipe.processing.dicom.reader import DicomImage, read_dicom
from mammopipe.processing.errors import (
    CorruptImageError,
    ImageError,
    ImageTooLargeError,
    MammopipeError,
    NotAMammogramError,
    ReaderFaultError,
    UnsupportedImageError,
)
from mammopipe.processing.image_flags import ImageFlag, in_order
from mammopipe.processing.images.jpeg import JPEG_SIGNATURE, read_jpeg
from mammopipe.processing.images.pgm_png import PNG_SIGNATURE, read_pgm, read_png, write_png
from mammopipe.processing.images.tiff import TIFF_SIGNATURES, read_tiff
from mammopipe.processing.read_config import DEFAULT_CONFIG, Limits, ReadConfig
from mammopipe.processing.turn import Turn

MIN_SHARE = 0.62
"""The chest wall is on the side whose half of the image holds at least this share of the tissue."""
_STEP = 8
"""Every eighth row and column is enough to find the laterality."""
_SPARSE = 32
"""Pixels this far apart are enough to exclude a mask in most images, before all pixels are compared."""
SMALLEST_MASK = 128 * 128
"""Least number of pixels of a mask; a smaller image of two values is not taken for one."""

__all__ = [
    "CorruptImageError",
    "ImageError",
    "ImageTooLargeError",
    "Limits",
    "Mammogram",
    "NotAMammogramError",
    "ReadConfig",
    "UnsupportedImageError",
    "identity_fields",
    "read_mammogram",
    "write_png",
]


@dataclass(frozen=True)
class Mammogram:
    """One 2-D mammogram of one breast."""

    pixels: NDArray[np.uint16]
    """uint16, (rows, columns), C-contiguous, on the scale 0..65535 for every source; 0 is air, bright is dense."""
    laterality: Laterality | None = None
    view: View | None = None
    pixel_spacing_mm: float | None = None
    """Distance between the centres of neighbouring pixels, in millimetres."""
    facts: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """How the values were determined; only keys of an allow-list, so that no fact identifies a patient."""
    flags: tuple[ImageFlag, ...] = ()
    """Warnings about the file and its attributes, in the order of `ImageFlag`."""
    turn: Turn = Turn()
    """How the file's pixels were mirrored or turned; it maps points to the file's own pixels and back."""


def read_mammogram(
    source: Path | bytes, *, record: ImageRecord | None = None, config: ReadConfig = DEFAULT_CONFIG
) -> Mammogram:
    """Return the mammogram in a DICOM, PGM, PNG or TIFF file, or in the bytes of one.

    If Patient Orientation says that a DICOM image is mirrored or turned, the image is brought into the orientation in
    which mammograms are read; `turn` and the flag `turned` record this. If neither the file nor the record gives the
    laterality, it is inferred from the image where the image shows it clearly, with the flag `laterality-inferred`.

    Args:
        source: A file, or the bytes of one.
        record: Supplies laterality, view and spacing where the file does not state them.
        config: The choices where a file offers several, and the greatest size of an image.

    Returns:
        The image; its pixels are uint16, (rows, columns), 0 is air.

    Raises:
        UnsupportedImageError: The file has a format or encoding that is not decoded here.
        CorruptImageError: The file is damaged, or contradicts itself, its record or its pixels.
        NotAMammogramError: The file is not a 2-D mammogram of one breast.
        ImageTooLargeError: The file announces more than the limits allow.
        ReaderFaultError: The reader failed unexpectedly; the message names the type of the error.

        The one-line messages name the file (`<bytes>` for bytes), the attribute, its value and the rule.
    """
    where, data = _load(source, config.limits)
    with _faults_refuse(where):
        image = _decode(data, where, config, record)
        _check_not_mask(image.pixels, where)
        image = _infer_side(image)
    return replace(image, facts={**image.facts, "flags": ";".join(image.flags)})


@contextmanager
def _faults_refuse(where: str) -> Iterator[None]:
    """Turn an unexpected error into a refusal of the file, so that a hostile file affects no other image.

    The message names only the type of the error, because its text could hold values of the file.
    """
    try:
        yield
    except MammopipeError:
        raise
    except Exception as error:
        raise ReaderFaultError(f"{where}: cannot be read: the reader failed with {type(error).__name__}") from error


def identity_fields(
    source: Path | bytes, *, patient_id: bool = False, config: ReadConfig = DEFAULT_CONFIG
) -> tuple[str, ...]:
    """Return the keywords of the filled attributes that identify a person, never their values.

    `mammopipe.processing.dicom.deidentification` lists the attributes.

    Args:
        source: A file, or the bytes of one.
        patient_id: Whether `PatientID` counts; collections keep a pseudonym there.
        config: The limits of the file.

    Returns:
        The keywords; () for files other than DICOM, whose metadata this reader does not keep.

    Raises:
        ImageError: The attributes cannot be read; the subclasses are those of `read_mammogram`.
    """
    where, data = _load(source, config.limits)
    if not is_dicom(data):
        return ()
    with _faults_refuse(where):
        return deidentification.identity_fields(data, where=where, patient_id=patient_id, config=config)


def _load(source: Path | bytes, limits: Limits) -> tuple[str, bytes]:
    """Return the name used in errors and the bytes; raises where they are more than the limits allow."""
    if isinstance(source, bytes):
        limits.check_bytes(len(source), "<bytes>")
        return "<bytes>", source
    where = str(source)
    try:
        limits.check_bytes(source.stat().st_size, where)
        return where, source.read_bytes()
    except OSError as error:
        raise CorruptImageError(f"{where}: cannot be read: {error.strerror}") from None


def _decode(data: bytes, where: str, config: ReadConfig, record: ImageRecord | None) -> Mammogram:
    if is_dicom(data):
        return _turned(read_dicom(data, where=where, config=config), record, where)
    if data.startswith(PNG_SIGNATURE):
        pixels, facts, flags = read_png(data, where=where, limits=config.limits)
    elif data[:1] == b"P" and data[1:2].isdigit():
        pixels, facts = read_pgm(data, where=where, limits=config.limits)
        flags = set()
    elif data.startswith(TIFF_SIGNATURES):
        pixels, facts = read_tiff(data, where=where, limits=config.limits)
        flags = set()
    elif config.jpeg_files and data.startswith(JPEG_SIGNATURE):
        pixels, facts, flags = read_jpeg(data, where=where, limits=config.limits)
    else:
        start = data[:4].hex(" ")
        if not start:
            raise UnsupportedImageError(f"{where}: is empty")
        raise UnsupportedImageError(f"{where}: neither DICOM, PGM, PNG nor TIFF: it starts with the bytes {start!r}")
    image = Mammogram(
        pixels, facts=facts, flags=in_order(flags), turn=Turn(rows=pixels.shape[0], columns=pixels.shape[1])
    )
    return _merge(image, record, where) if record else image


def _turned(dicom: DicomImage, record: ImageRecord | None, where: str) -> Mammogram:
    """Return a DICOM image in the orientation in which mammograms are read.

    The orientation depends on the laterality, which may come from the record.
    """
    image = Mammogram(
        dicom.pixels, dicom.laterality, dicom.view, dicom.pixel_spacing_mm, dicom.facts, in_order(dicom.flags)
    )
    image = _merge(image, record, where) if record else image
    turn = dicom.orientation.turn(image.laterality, dicom.rows, dicom.columns)
    facts = dict(image.facts)
    if "reduction" in facts:
        facts |= {"rows": turn.rows, "columns": turn.columns}
    if not turn:
        return replace(image, turn=turn, facts=facts)
    pixels = turn.apply(image.pixels)
    shown = infer_laterality(pixels)
    if turn.left_right and image.laterality and shown and shown is not image.laterality:
        # Laterality and pixels agree that nothing is mirrored: some writers put the same orientation into every file.
        untouched = Turn(rows=dicom.rows, columns=dicom.columns)
        flags = in_order({*image.flags, ImageFlag.ORIENTATION_CONFLICT})
        return replace(image, turn=untouched, flags=flags)
    flags = in_order({*image.flags, ImageFlag.TURNED})
    return replace(image, pixels=pixels, turn=turn, facts=facts, flags=flags)


def _merge(image: Mammogram, record: ImageRecord, where: str) -> Mammogram:
    """Return the image completed from its record; raises where the file and the record contradict each other.

    The record's view replaces a view that was only inferred.
    """
    facts, flags = dict(image.facts), set(image.flags)
    if record.view and ImageFlag.VIEW_INFERRED in flags:
        image, flags = replace(image, view=None), flags - {ImageFlag.VIEW_INFERRED}
    if image.view is View.ML and record.view is View.MLO:
        # Some devices and file names write ML for MLO; the record is more specific.
        image, flags = replace(image, view=None), flags | {ImageFlag.VIEW_CONFLICT}
    for name in ("laterality", "view"):
        stated, known = getattr(image, name), getattr(record, name)
        if stated and known and stated is not known:
            raise CorruptImageError(
                f"{where}: {name} is {stated} in the file but {known} in its record; they must agree"
            )
        if known and not stated:
            facts[f"{name}_source"] = "record"
    spacing = image.pixel_spacing_mm
    if spacing is None and record.pixel_spacing_mm is not None:
        spacing = record.pixel_spacing_mm * int(facts.get("reduction", 1))
        facts["spacing_source"] = "record"
    return replace(
        image,
        laterality=image.laterality or record.laterality,
        view=image.view or record.view,
        pixel_spacing_mm=spacing,
        facts=facts,
        flags=in_order(flags),
    )


def _check_not_mask(pixels: NDArray[np.uint16], where: str) -> None:
    """Raise `NotAMammogramError` for an image of two values: a mask of a finding, or a bitmap."""
    if pixels.size < SMALLEST_MASK or len(np.unique(pixels[::_SPARSE, ::_SPARSE])) > 2:
        return
    high = pixels.max()
    if high and not pixels.min() and bool(((pixels == 0) | (pixels == high)).all()):
        raise NotAMammogramError(f"{where}: its pixels have two values, 0 and {high} of 65535: a mask")


def _infer_side(image: Mammogram) -> Mammogram:
    """Return the image with its laterality, inferred from the pixels where it was unknown; the facts record this."""
    side = image.laterality or infer_laterality(image.pixels)
    inferred = side is not None and image.laterality is None
    facts = dict(image.facts) | {"laterality_inferred": inferred} | ({"laterality_source": "image"} if inferred else {})
    flags = in_order({*image.flags, *({ImageFlag.LATERALITY_INFERRED} if inferred else ())})
    return replace(image, laterality=side, facts=facts, flags=flags)


def infer_laterality(pixels: NDArray[np.uint16]) -> Laterality | None:
    """Return the laterality that the image shows, `None` where it is not clear.

    Mammograms are stored unflipped: the chest wall of a left breast is at the left edge (PS3.3 C.8.11.7.1.3, ACR
    practice). So the half that holds more tissue shows the side. A flipped image would be taken for the other breast,
    so callers mark the result as inferred.

    Args:
        pixels: uint16, (rows, columns), 0 is air.
    """
    small = pixels[::_STEP, ::_STEP].astype(np.float32)
    if small.shape[1] < 8 or small.shape[0] < 8:
        return None
    air, bright = np.percentile(small, (20, 99))
    tissue = small > air + 0.25 * (bright - air)
    half = tissue.shape[1] // 2
    left, right = int(tissue[:, :half].sum()), int(tissue[:, -half:].sum())
    if max(left, right) < MIN_SHARE * max(1, left + right):
        return None
    return Laterality.LEFT if left > right else Laterality.RIGHT
