"""Refuses PNG, JPEG and TIFF images that are stored turned or mirrored, or whose pixels are not square.

A mirrored mammogram would count as the other breast. Sources: CIPA DC-008 (Exif) 4.6.2 and 4.6.5, tag 274; PNG (third
edition) 11.3.4.3 and 11.3.4.5, pHYs and eXIf; JFIF 1.02, X and Y density; TIFF Revision 6.0, section 8.
"""

import struct

from mammopipe.processing.errors import UnsupportedImageError

_ORIENTATION, _SHORT, _LONG = 274, 3, 4
_TURNED = range(2, 9)
EXIF_START = b"Exif\0\0"
"""Start of the Exif segment (APP1) of a JPEG file; the Exif data follow."""
GREATEST_ASPECT = 1.05
"""Greatest ratio of the two resolutions of pixels that count as square."""


def check_upright(exif: bytes, where: str, name: str) -> None:
    """Raise `UnsupportedImageError` if Exif data say that the first row is not on top or the first column not left.

    Only the orientation counts, so it is read even if other entries are damaged. An image without it counts as upright.

    Args:
        exif: The Exif data, a TIFF without an image.
        where: The name of the file in errors.
        name: The format of the file, for errors.
    """
    orientation = _orientation(exif)
    if orientation in _TURNED:
        raise UnsupportedImageError(
            f"{where}: {name} with Exif Orientation {orientation}; only 1, the first row on top and the first column "
            "left, is read"
        )


def _orientation(exif: bytes) -> int:
    """Return the orientation in the first directory; 1, upright, if there is none."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 8:
        return 1
    start = struct.unpack_from(order + "I", exif, 4)[0]
    count = int.from_bytes(exif[start : start + 2], "little" if order == "<" else "big")
    for position in range(start + 2, min(start + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind, _, value = struct.unpack_from(order + "HHI4s", exif, position)
        if tag == _ORIENTATION and kind in (_SHORT, _LONG):
            return int(struct.unpack_from(order + ("H" if kind == _SHORT else "I"), value)[0])
    return 1


def check_square(across: float, down: float, where: str, name: str) -> None:
    """Raise `UnsupportedImageError` if the two resolutions of an image show that its pixels are not square.

    Args:
        across: Pixels per unit along the rows; 0 if not stated.
        down: Pixels per unit along the columns; 0 if not stated.
        where: The name of the file in errors.
        name: The field that states them, for errors.
    """
    if min(across, down) > 0 and max(across, down) > GREATEST_ASPECT * min(across, down):
        raise UnsupportedImageError(f"{where}: {name} is {across:g} x {down:g}; square pixels are read")
