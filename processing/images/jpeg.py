"""Reads greyscale JPEG files (JFIF), in which copies of public collections are distributed.

Source: ITU-T T.81, annex B (marker segments). Such files have lost grey levels and detail, so they have the flag
`lossy`.
"""

import struct
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from mammopipe.processing.dicom.codecs import Codec
from mammopipe.processing.dicom.codestreams.jpeg import check_coded_data, check_scans, scans
from mammopipe.processing.errors import CorruptImageError, NotAMammogramError, UnsupportedImageError
from mammopipe.processing.image_flags import ImageFlag
from mammopipe.processing.images.exif import EXIF_START, check_square, check_upright
from mammopipe.processing.read_config import Limits

JPEG_SIGNATURE = b"\xff\xd8\xff"
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""Markers of a frame header, SOF0 to SOF15 (T.81 table B.1)."""
_APP0, _APP1, _END = 0xE0, 0xE1, b"\xff\xd9"
_GREY_TOLERANCE = 4
"""Greatest difference between the channels of a grey image that was stored in colour."""


def read_jpeg(data: bytes, *, where: str, limits: Limits) -> tuple[NDArray[np.uint16], dict[str, Any], set[ImageFlag]]:
    """Return the pixels of a JPEG file of 8 bits, the facts of its header, and flags.

    Args:
        data: The file.
        where: The name of the file in errors.
        limits: The greatest size that the file may announce.

    Returns:
        The pixels, uint16, (rows, columns), on the full 16-bit scale; the facts; the flags.

    Raises:
        NotAMammogramError: The file is in colour or holds several images.
        UnsupportedImageError: The file has another precision than 8 bits, or its image is stored turned.
        CorruptImageError: The file is damaged or cut off.
        ImageTooLargeError: The file announces more than the limits allow.
    """
    precision, rows, columns, components = _frame(data, where)
    limits.check_size(rows, columns, where)
    if precision != 8:
        raise UnsupportedImageError(f"{where}: JPEG of {precision} bits; 8 bits are read")
    if components not in (1, 3):
        raise NotAMammogramError(f"{where}: JPEG with {components} components; a mammogram is greyscale")
    try:
        _check_one_image(data, scans(data)[-1][1], where)
        image = np.asarray(imagecodecs.jpeg8_decode(data))
        _check_complete(data, image, where)
    except (imagecodecs.Jpeg8Error, ValueError, struct.error) as error:
        raise CorruptImageError(f"{where}: the JPEG's data cannot be decoded: {str(error).splitlines()[0]}") from None
    flags = {ImageFlag.LOSSY}
    if components == 3:
        spread = image.max(axis=2).astype(np.int16) - image.min(axis=2)
        if int(spread.max()) > _GREY_TOLERANCE:
            raise NotAMammogramError(f"{where}: JPEG in colour; a mammogram is greyscale")
        image, flags = image[..., 1], flags | {ImageFlag.COLOUR_REMOVED}
    return np.ascontiguousarray(image, np.uint16) * np.uint16(257), {"format": "JPEG", "bits_stored": 8}, flags


def _check_one_image(data: bytes, end: int, where: str) -> None:
    """Raise unless the image ends with its last scan, and no other image follows, as in a multi-picture file.

    Args:
        data: The file.
        end: Where the coded data of the last scan end.
        where: The name of the file in errors.
    """
    after = len(data) - len(data[end:].lstrip(b"\xff")) - 1  # Fill bytes (FF) may stand before a marker (B.1.1.2).
    if data[after : after + 2] != _END:
        raise CorruptImageError(f"{where}: JPEG without an end of image (EOI): the file is cut off")
    if data.find(JPEG_SIGNATURE, after) >= 0:
        raise NotAMammogramError(f"{where}: a second JPEG follows the first; a mammogram is one frame")


def _check_complete(data: bytes, image: NDArray[Any], where: str) -> None:
    """Raise `CorruptImageError` where the coded data do not determine all pixels, about which libjpeg only warns."""
    restarts = b"\xff\xdd" in data
    if len(scans(data)) == 1 and not (restarts and image.ndim == 3):
        check_coded_data(data, image, imagecodecs.jpeg8_decode, Codec.JPEG, where, "JPEG file")
    elif not restarts:
        check_scans(data, image, imagecodecs.jpeg8_decode, where)


def _frame(data: bytes, where: str) -> tuple[int, int, int, int]:
    """Return precision, rows, columns and components of the frame header; raises if Exif or JFIF exclude the image."""
    position = 2
    while position + 10 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == _APP1 and data[position + 4 : position + 10] == EXIF_START:
            length = int.from_bytes(data[position + 2 : position + 4], "big")
            check_upright(data[position + 10 : position + 2 + length], where, "JPEG")
        if marker == _APP0 and data[position + 4 : position + 9] == b"JFIF\0" and position + 16 <= len(data):
            across, down = struct.unpack_from(">HH", data, position + 12)
            check_square(across, down, where, "JPEG density (JFIF)")
        if marker in _FRAMES:
            rows, columns = (int.from_bytes(data[position + at : position + at + 2], "big") for at in (5, 7))
            return data[position + 4], rows, columns, data[position + 9]
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    raise CorruptImageError(f"{where}: JPEG without a frame header (SOF)")
