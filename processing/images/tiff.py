"""Reads greyscale TIFF files of 8 and 16 bits as pixels on the full 16-bit scale.

Source: Adobe, TIFF Revision 6.0, sections 4 (greyscale) and 8 (baseline fields).
"""

import warnings
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from mammopipe.processing.errors import CorruptImageError, NotAMammogramError, UnsupportedImageError
from mammopipe.processing.read_config import Limits

TIFF_SIGNATURES = (b"II*\0", b"MM\0*")
_COLUMNS, _ROWS, _BITS, _PHOTOMETRIC, _ORIENTATION, _SAMPLES, _FORMAT = 256, 257, 258, 262, 274, 277, 339
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _UNSIGNED = 0, 1, 1


def read_tiff(data: bytes, *, where: str, limits: Limits) -> tuple[NDArray[np.uint16], dict[str, Any]]:
    """Return the pixels of a greyscale TIFF and the facts of its header.

    The header is checked before any pixel is decoded.

    Args:
        data: The file.
        where: The name of the file in errors.
        limits: The greatest size that the file may announce.

    Returns:
        The pixels, uint16, (rows, columns), on the full 16-bit scale with 0 = black, and the facts.

    Raises:
        NotAMammogramError: The file is in colour or has several pages.
        UnsupportedImageError: The file has an encoding that is not decoded here.
        CorruptImageError: The file is damaged or contradicts itself.
        ImageTooLargeError: The file announces more than the limits allow.
    """
    fields = _first_page(data, where)
    rows = _number(fields, _ROWS, "ImageLength", where)
    columns = _number(fields, _COLUMNS, "ImageWidth", where)
    limits.check_size(rows, columns, where)
    photometric = _number(fields, _PHOTOMETRIC, "PhotometricInterpretation", where)
    samples = _number(fields, _SAMPLES, "SamplesPerPixel", where, 1)
    if photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO) or samples != 1:
        raise NotAMammogramError(
            f"{where}: TIFF PhotometricInterpretation {photometric}, SamplesPerPixel {samples}; a mammogram is "
            "greyscale (0 or 1) with one sample a pixel"
        )
    orientation = _number(fields, _ORIENTATION, "Orientation", where, 1)
    if orientation != 1:
        raise UnsupportedImageError(
            f"{where}: TIFF Orientation {orientation}; only 1, the first row on top and the first column left, is read"
        )
    bits, kind = _number(fields, _BITS, "BitsPerSample", where, 1), _number(fields, _FORMAT, "SampleFormat", where, 1)
    if bits not in (8, 16) or kind != _UNSIGNED:
        raise UnsupportedImageError(
            f"{where}: TIFF of {bits} bits, SampleFormat {kind}; 8 and 16 bits unsigned are read"
        )
    try:
        image = imagecodecs.tiff_decode(data)
    except (imagecodecs.TiffError, ValueError) as error:
        raise CorruptImageError(f"{where}: the TIFF's data cannot be decoded: {str(error).splitlines()[0]}") from None
    if image.shape != (rows, columns) or image.dtype != np.dtype(f"uint{bits}"):
        raise CorruptImageError(f"{where}: the TIFF's data is no image of {rows} x {columns} with {bits} bits")
    pixels = image.astype(np.uint16) * np.uint16(257 if bits == 8 else 1)
    if photometric == _WHITE_IS_ZERO:
        pixels = np.uint16(65535) - pixels
    return np.ascontiguousarray(pixels), {"format": "TIFF", "bits_stored": bits}


def _first_page(data: bytes, where: str) -> ImageFileDirectory_v2:
    """Return the fields of the only page; a file with more pages is refused."""
    try:
        # Pillow only warns where a directory ends early, and goes on with the part that it has.
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fields = ImageFileDirectory_v2(data[:8])
            stream = BytesIO(data)
            stream.seek(fields.next)
            fields.load(stream)
    except (OSError, SyntaxError, ValueError, TypeError, UserWarning) as error:
        raise CorruptImageError(f"{where}: TIFF header cannot be read: {error}") from None
    if fields.next:
        raise NotAMammogramError(f"{where}: TIFF of several pages; a mammogram is one")
    return fields


def _number(fields: ImageFileDirectory_v2, tag: int, name: str, where: str, default: int | None = None) -> int:
    value: Any = fields.get(tag, default)
    if isinstance(value, tuple) and len(value) == 1:
        value = value[0]
    if value is None or isinstance(value, tuple):
        raise CorruptImageError(f"{where}: TIFF field {name} must be one number")
    return int(value)
