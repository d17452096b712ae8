"""One mammogram from a file or its bytes: pixels on one scale, side, view, spacing, and facts that identify nobody.

The only reader of DICOM, PGM, PNG and TIFF in the project: training and serving both come through `read_mammogram`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
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
from mammopipe.processing.images.pgm_png import PNG_SIGNATURE, read_pgm, read_png, write_png
from mammopipe.processing.images.tiff import TIFF_SIGNATURES, read_tiff
from mammopipe.processing.read_config import DEFAULT_CONFIG, Limits, ReadConfig
from mammopipe.processing.turn import Turn

MIN_SHARE = 0.62
"""The share of the tissue that one half must hold. Mammograms whose side is known: see the tests of this module."""

_STEP = 8
_SPARSE = 32
SMALLEST_MASK = 128 * 128
"""Pixels below which a picture of two values is not taken for a mask."""


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
    """Rows x columns, C-contiguous, on the scale 0..65535 whatever the source; 0 is air, bright is dense."""
    laterality: Laterality | None = None
    view: View | None = None
    pixel_spacing_mm: float | None = None
    """Millimetres between the centres of neighbouring pixels."""
    facts: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """How the values came about; an allow-list, so that nothing here identifies a patient."""
    flags: tuple[ImageFlag, ...] = ()
    """What the file and its attributes warn of, in the order of `ImageFlag`."""
    turn: Turn = Turn()
    """How the file's pixels were mirrored or turned; points in it lead to the file's own pixels and back."""


def read_mammogram(
    source: Path | bytes, *, record: ImageRecord | None = None, config: ReadConfig = DEFAULT_CONFIG
) -> Mammogram:
    """Return the mammogram in a DICOM, PGM, PNG or TIFF file, or in the bytes of one.

    A DICOM image that Patient Orientation says is mirrored or turned is brought to lie as mammograms are read; `turn`
    and the flag `turned` say so. A side that neither file nor record gives is inferred from the image where that shows
    it clearly, with the flag `laterality-inferred`.

    Args:
        source: a file, or the bytes of one.
        record: fills in laterality, view and spacing where the file says nothing of them.
        config: what is chosen where a file leaves a choice, and how large an image may be.

    Returns:
        The image; its pixels are uint16 (rows, columns), 0 is air.

    Raises:
        UnsupportedImageError: nothing here decodes the file.
        CorruptImageError: the file is damaged or contradicts itself, its record, or its picture.
        NotAMammogramError: the file is no 2-D mammogram of one breast.
        ImageTooLargeError: the file announces more than the limits allow.
        ReaderFaultError: the reader failed in a way that it does not foresee; the error's name is in the message.

        Their one-line messages name the file (`<bytes>` for bytes), the attribute, its value and the rule.
    """
    where, data = _load(source, config.limits)
    with _faults_refuse(where):
        image = _decode(data, where, config, record)
        _check_not_mask(image.pixels, where)
        image = _infer_side(image)
    return replace(image, facts={**image.facts, "flags": ";".join(image.flags)})


@contextmanager
def _faults_refuse(where: str) -> Iterator[None]:
    """Turn a fault on a hostile file into a refusal of that file, so that it costs no other image anything.

    Of the fault only its type is told, for its text could hold values of the file.
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
    """Return the keywords of the attributes in a DICOM file that identify a person and are filled; never their values.

    () for PGM and PNG, which carry none that this reader keeps. `PatientID` counts only where `patient_id` is true,
    because collections keep a pseudonym there. The list is that of `mammopipe.processing.dicom.deidentification`.
    Raises as `read_mammogram` does where the file's attributes cannot be read.
    """
    where, data = _load(source, config.limits)
    if not is_dicom(data):
        return ()
    with _faults_refuse(where):
        return deidentification.identity_fields(data, where=where, patient_id=patient_id, config=config)


def _load(source: Path | bytes, limits: Limits) -> tuple[str, bytes]:
    """Return the name used in errors and the bytes, no more of them than the limits allow."""
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
    else:
        start = data[:4].hex(" ")
        raise UnsupportedImageError(f"{where}: neither DICOM, PGM, PNG nor TIFF: it starts with the bytes {start!r}")
    image = Mammogram(
        pixels, facts=facts, flags=in_order(flags), turn=Turn(rows=pixels.shape[0], columns=pixels.shape[1])
    )
    return _merge(image, record, where) if record else image


def _turned(dicom: DicomImage, record: ImageRecord | None, where: str) -> Mammogram:
    """Return a DICOM image as mammograms are read; the side that it is turned by may come from its record."""
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
        # Side and picture agree that nothing is mirrored: some writers put the same orientation into every file.
        untouched = Turn(rows=dicom.rows, columns=dicom.columns)
        flags = in_order({*image.flags, ImageFlag.ORIENTATION_CONFLICT})
        return replace(image, turn=untouched, flags=flags)
    flags = in_order({*image.flags, ImageFlag.TURNED})
    return replace(image, pixels=pixels, turn=turn, facts=facts, flags=flags)


def _merge(image: Mammogram, record: ImageRecord, where: str) -> Mammogram:
    """Return the image with what its record adds; the file and the record must not contradict each other.

    A view that was only inferred gives way to the record's.
    """
    facts, flags = dict(image.facts), set(image.flags)
    if record.view and ImageFlag.VIEW_INFERRED in flags:
        image, flags = replace(image, view=None), flags - {ImageFlag.VIEW_INFERRED}
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
    """Raise `NotAMammogramError` for a picture of two values: a mask of a finding, or a bitmap."""
    if pixels.size < SMALLEST_MASK or len(np.unique(pixels[::_SPARSE, ::_SPARSE])) > 2:
        return
    high = pixels.max()
    if high and not pixels.min() and bool(((pixels == 0) | (pixels == high)).all()):
        raise NotAMammogramError(f"{where}: its pixels have two values, 0 and {high} of 65535: a mask")


def _infer_side(image: Mammogram) -> Mammogram:
    """Return the image with its side, from the picture where nothing else gave it, and the fact of which it was."""
    side = image.laterality or infer_laterality(image.pixels)
    inferred = side is not None and image.laterality is None
    facts = dict(image.facts) | {"laterality_inferred": inferred} | ({"laterality_source": "image"} if inferred else {})
    flags = in_order({*image.flags, *({ImageFlag.LATERALITY_INFERRED} if inferred else ())})
    return replace(image, laterality=side, facts=facts, flags=flags)


def infer_laterality(pixels: NDArray[np.uint16]) -> Laterality | None:
    """Return the breast's side where the image shows it, `None` where it does not show it clearly.

    Mammograms are stored as they are read, unflipped: the chest wall of a left breast is at the left edge (PS3.3
    C.8.11.7.1.3, ACR practice). So the half that holds more tissue is the side. An image that was flipped is taken for
    the other breast, which is why a result of this function is always marked as inferred.
    """
    small = pixels[::_STEP, ::_STEP].astype(np.float32)
    if small.shape[1] < 8 or small.shape[0] < 8:
        return None
    air = np.percentile(small, 20)
    tissue = small > air + 0.25 * (np.percentile(small, 99) - air)
    half = tissue.shape[1] // 2
    left, right = int(tissue[:, :half].sum()), int(tissue[:, -half:].sum())
    if max(left, right) < MIN_SHARE * max(1, left + right):
        return None
    return Laterality.LEFT if left > right else Laterality.RIGHT
