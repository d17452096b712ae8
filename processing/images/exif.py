"""Refuses PNG and JPEG images whose Exif data say that they are stored turned or mirrored, as the TIFF reader does.

A mirrored mammogram would count as the other breast. Sources: CIPA DC-008 (Exif) 4.6.5, tag 274; PNG (third edition)
11.3.4.5, eXIf; TIFF Revision 6.0, section 8, Orientation.
"""

import struct
from contextlib import suppress

from mammopipe.processing.errors import UnsupportedImageError
from mammopipe.processing.images.tiff import read_directory

_ORIENTATION = 274
_TURNED = range(2, 9)
EXIF_START = b"Exif\0\0"
"""Start of the Exif segment (APP1) of a JPEG file; the Exif data follow."""


def check_upright(exif: bytes, where: str, name: str) -> None:
    """Raise `UnsupportedImageError` if Exif data say that the first row is not on top or the first column not left.

    Exif data that cannot be read count as absent.

    Args:
        exif: The Exif data, a TIFF without an image.
        where: The name of the file in errors.
        name: The format of the file, for errors.
    """
    orientation = 1
    with suppress(OSError, SyntaxError, ValueError, TypeError, UserWarning, struct.error):
        orientation = read_directory(exif).get(_ORIENTATION, 1)
    if orientation in _TURNED:
        raise UnsupportedImageError(
            f"{where}: {name} with Exif Orientation {orientation}; only 1, the first row on top and the first column "
            "left, is read"
        )
