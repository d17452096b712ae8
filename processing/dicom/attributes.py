"""The attributes of a DICOM data set that the reader may see, and typed reading of their raw bytes.

Only attributes named in `Tag` (or asked for by number) are kept, so nothing that identifies a patient is ever held.
pydicom finds the elements (`mammopipe.processing.dicom.file`); their values are read here, because pydicom's own
conversion warns and guesses where a value is malformed. Source: PS3.5 6.2 (value representations).
"""

import re
import struct
from collections.abc import Mapping
from enum import IntEnum

from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import RawDataElement

from mammopipe.processing.errors import CorruptImageError


class Tag(IntEnum):
    """The attributes that the reader uses; none of them identifies a patient."""

    IMAGE_TYPE = 0x00080008
    SOP_CLASS_UID = 0x00080016
    MODALITY = 0x00080060
    PRESENTATION_INTENT_TYPE = 0x00080068
    MANUFACTURER = 0x00080070
    CODE_VALUE = 0x00080100
    CODING_SCHEME_DESIGNATOR = 0x00080102
    MANUFACTURER_MODEL_NAME = 0x00081090
    BODY_PART_EXAMINED = 0x00180015
    INTERVENTION_SEQUENCE = 0x00180036
    ESTIMATED_MAGNIFICATION = 0x00181114
    IMAGER_PIXEL_SPACING = 0x00181164
    PADDLE_DESCRIPTION = 0x001811A4
    BIOPSY_TARGET_SEQUENCE = 0x00182041
    VIEW_POSITION = 0x00185101
    PATIENT_ORIENTATION = 0x00200020
    LATERALITY = 0x00200060
    IMAGE_LATERALITY = 0x00200062
    SAMPLES_PER_PIXEL = 0x00280002
    PHOTOMETRIC_INTERPRETATION = 0x00280004
    NUMBER_OF_FRAMES = 0x00280008
    ROWS = 0x00280010
    COLUMNS = 0x00280011
    PIXEL_SPACING = 0x00280030
    PIXEL_ASPECT_RATIO = 0x00280034
    BITS_ALLOCATED = 0x00280100
    BITS_STORED = 0x00280101
    HIGH_BIT = 0x00280102
    PIXEL_REPRESENTATION = 0x00280103
    PIXEL_PADDING_VALUE = 0x00280120
    PIXEL_PADDING_RANGE_LIMIT = 0x00280121
    QUALITY_CONTROL_IMAGE = 0x00280300
    BURNED_IN_ANNOTATION = 0x00280301
    WINDOW_CENTER = 0x00281050
    WINDOW_WIDTH = 0x00281051
    RESCALE_INTERCEPT = 0x00281052
    RESCALE_SLOPE = 0x00281053
    VOI_LUT_FUNCTION = 0x00281056
    BREAST_IMPLANT_PRESENT = 0x00281300
    PARTIAL_VIEW = 0x00281350
    LOSSY_IMAGE_COMPRESSION = 0x00282110
    MODALITY_LUT_SEQUENCE = 0x00283000
    LUT_DESCRIPTOR = 0x00283002
    LUT_DATA = 0x00283006
    VOI_LUT_SEQUENCE = 0x00283010
    CONTAINER_IDENTIFIER = 0x00400512
    SPECIMEN_SEQUENCE = 0x00400550
    SPECIMEN_DESCRIPTION_SEQUENCE = 0x00400560
    VIEW_CODE_SEQUENCE = 0x00540220
    VIEW_MODIFIER_CODE_SEQUENCE = 0x00540222
    PRESENTATION_LUT_SHAPE = 0x20500020


_BINARY = {
    "US": "H",
    "SS": "h",
    "UL": "I",
    "SL": "i",
    "FL": "f",
    "FD": "d",
    "OW": "H",
    "US or SS": "H",
    "UN": "H",
    "US or OW": "H",
    "US or SS or OW": "H",
}
_DECIMAL = ("DS", "IS")


def label(tag: int) -> str:
    """Return the attribute's keyword and number, as errors name it."""
    return f"{keyword_for_tag(tag)} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


class Tags:
    """Typed reading of one data set's attributes; a value that breaks its type raises `CorruptImageError`."""

    def __init__(self, elements: Mapping[int, "RawDataElement | list[Tags]"], where: str) -> None:
        self._elements = elements
        self.where = where

    def corrupt(self, tag: int, rule: str) -> CorruptImageError:
        """Return the error that names the file, the attribute and the rule it breaks."""
        return CorruptImageError(f"{self.where}: {label(tag)} {rule}")

    def _raw(self, tag: int) -> RawDataElement | None:
        element = self._elements.get(tag)
        if isinstance(element, list):
            raise self.corrupt(tag, "is a sequence; a value is needed")
        return element

    def data(self, tag: int) -> bytes:
        """Return the value's bytes, as they are in the file; empty when it is missing."""
        element = self._raw(tag)
        return bytes(element.value or b"") if element else b""

    def has(self, tag: int) -> bool:
        """Return whether the attribute is there with a value: text other than blanks, or a sequence with items."""
        element = self._elements.get(tag)
        return bool(element if element is None or isinstance(element, list) else self.data(tag).strip(b" \0"))

    def texts(self, tag: int) -> tuple[str, ...]:
        """Return the values of a text attribute, without padding; () when missing or blank."""
        text = self.data(tag).decode("ascii", "replace").strip(" \0")
        return tuple(part.strip(" \0") for part in text.split("\\")) if text else ()

    def text(self, tag: int) -> str:
        """Return the first value of a text attribute, "" when missing or blank."""
        return next(iter(self.texts(tag)), "")

    def vr(self, tag: int) -> str:
        """Return the value representation: the file's, or the dictionary's where the file has none."""
        element = self._raw(tag)
        return str(element.VR if element and element.VR and element.VR != "UN" else dictionary_VR(tag))

    def numbers(self, tag: int) -> tuple[float, ...]:
        """Return the values of a numeric attribute; () when missing or blank."""
        vr = self.vr(tag)
        if vr in _DECIMAL:
            return tuple(self._decimal(tag, part) for part in self.texts(tag))
        if vr not in _BINARY:
            raise self.corrupt(tag, f"has value representation {vr!r}; a numeric one is needed")
        element, data = self._raw(tag), self.data(tag)
        order = "<" if element is None or element.is_little_endian else ">"
        width = struct.calcsize(order + _BINARY[vr])
        if len(data) % width:
            raise self.corrupt(tag, f"has {len(data)} bytes; {vr} values take {width} each")
        return struct.unpack(f"{order}{len(data) // width}{_BINARY[vr]}", data)

    def _decimal(self, tag: int, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not abs(value) < 1e300:
            raise self.corrupt(tag, f"is {quoted(text)}; a finite number is needed")
        return value

    def number(self, tag: int) -> float | None:
        """Return the first value of a numeric attribute, `None` when missing."""
        return next(iter(self.numbers(tag)), None)

    def integer(self, tag: int) -> int:
        """Return the first value of a numeric attribute that must be there and be whole."""
        value = self.number(tag)
        if value is None or value != int(value):
            raise self.corrupt(tag, "is missing" if value is None else f"is {value:g}; a whole number is needed")
        return int(value)

    def little_endian(self, tag: int) -> bool:
        """Return the byte order of the value as it is in the file."""
        element = self._raw(tag)
        return element is None or element.is_little_endian

    def items(self, tag: int) -> tuple["Tags", ...]:
        """Return the items of a sequence; () when missing or empty."""
        element = self._elements.get(tag, [])
        if not isinstance(element, list):
            raise self.corrupt(tag, "is not a sequence")
        return tuple(element)


def quoted(text: str) -> str:
    """Return `text` as an error may show it: in quotes where it is codes or a number, described where it is not.

    A damaged length makes one attribute's value run into the next, which may be the patient's name.
    """
    if all(re.fullmatch(r"[A-Z0-9_ .+-]{0,20}", part) for part in text.split("\\")) and len(text) <= 64:
        return repr(text)
    return f"text of {len(text)} characters that is no code"
