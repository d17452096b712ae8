"""The DICOM attributes that the reader uses, and typed access to their raw bytes.

Only attributes in `Tag` (or requested by number) are kept. `mammopipe.processing.dicom.data_set` finds them. This
module converts their values, because pydicom's own conversion warns and guesses if a value is malformed.
Sources: PS3.5 6.2 (value representations), 7.4 (an empty value means absent or unknown); PS3.3 C.7.6.16 (functional
groups).
"""

import math
import re
import struct
from enum import IntEnum
from typing import Any

from pydicom.datadict import dictionary_VM, dictionary_VR, keyword_for_tag

from mammopipe.processing.dicom.data_set import Element, Elements
from mammopipe.processing.errors import CorruptImageError

Facts = dict[str, str | int | float | bool]
"""What the reader records about an image, by name; no fact identifies a patient."""


class Tag(IntEnum):
    """The attributes that the reader uses.

    None of them names a patient. The descriptions are free text; the reader searches them for words and never shows
    them. Dates, age and sex leave the reader only as the flags `under-18` and `male`.
    """

    IMAGE_TYPE = 0x00080008
    STUDY_DATE = 0x00080020
    SERIES_DATE = 0x00080021
    ACQUISITION_DATE = 0x00080022
    CONTENT_DATE = 0x00080023
    SOP_CLASS_UID = 0x00080016
    MODALITY = 0x00080060
    CONVERSION_TYPE = 0x00080064
    PRESENTATION_INTENT_TYPE = 0x00080068
    MANUFACTURER = 0x00080070
    CODE_VALUE = 0x00080100
    CODING_SCHEME_DESIGNATOR = 0x00080102
    CODE_MEANING = 0x00080104
    LONG_CODE_VALUE = 0x00080119
    URN_CODE_VALUE = 0x00080120
    SERIES_DESCRIPTION = 0x0008103E
    MANUFACTURER_MODEL_NAME = 0x00081090
    ANATOMIC_REGION_SEQUENCE = 0x00082218
    ANATOMIC_REGION_MODIFIER_SEQUENCE = 0x00082220
    PRIMARY_ANATOMIC_STRUCTURE_SEQUENCE = 0x00082228
    PRIMARY_ANATOMIC_STRUCTURE_MODIFIER_SEQUENCE = 0x00082230
    DERIVATION_DESCRIPTION = 0x00082111
    FRAME_TYPE = 0x00089007
    VOLUMETRIC_PROPERTIES = 0x00089206
    PATIENT_BIRTH_DATE = 0x00100030
    PATIENT_SEX = 0x00100040
    PATIENT_AGE = 0x00101010
    QUALITY_CONTROL_SUBJECT = 0x00100200
    BODY_PART_EXAMINED = 0x00180015
    INTERVENTION_SEQUENCE = 0x00180036
    SLICE_THICKNESS = 0x00180050
    PROTOCOL_NAME = 0x00181030
    DISTANCE_SOURCE_TO_DETECTOR = 0x00181110
    DISTANCE_SOURCE_TO_PATIENT = 0x00181111
    ESTIMATED_MAGNIFICATION = 0x00181114
    IMAGER_PIXEL_SPACING = 0x00181164
    PADDLE_DESCRIPTION = 0x001811A4
    PROCESSING_DESCRIPTION = 0x00181400
    TOMO_LAYER_HEIGHT = 0x00181460
    TOMO_CLASS = 0x00181491
    SHUTTER_SHAPE = 0x00181600
    SHUTTER_LEFT = 0x00181602
    SHUTTER_RIGHT = 0x00181604
    SHUTTER_UPPER = 0x00181606
    SHUTTER_LOWER = 0x00181608
    SHUTTER_CENTER = 0x00181610
    SHUTTER_RADIUS = 0x00181612
    SHUTTER_VERTICES = 0x00181620
    BIOPSY_TARGET_SEQUENCE = 0x00182041
    VIEW_POSITION = 0x00185101
    ACQUISITION_PROTOCOL_NAME = 0x00189423
    X_RAY_3D_FRAME_TYPE_SEQUENCE = 0x00189504
    PATIENT_ORIENTATION = 0x00200020
    LATERALITY = 0x00200060
    IMAGE_LATERALITY = 0x00200062
    FRAME_ANATOMY_SEQUENCE = 0x00209071
    FRAME_LATERALITY = 0x00209072
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
    PIXEL_INTENSITY_RELATIONSHIP = 0x00281040
    PIXEL_INTENSITY_RELATIONSHIP_SIGN = 0x00281041
    WINDOW_CENTER = 0x00281050
    WINDOW_WIDTH = 0x00281051
    RESCALE_INTERCEPT = 0x00281052
    RESCALE_SLOPE = 0x00281053
    VOI_LUT_FUNCTION = 0x00281056
    BREAST_IMPLANT_PRESENT = 0x00281300
    PARTIAL_VIEW = 0x00281350
    PARTIAL_VIEW_DESCRIPTION = 0x00281351
    PARTIAL_VIEW_CODE_SEQUENCE = 0x00281352
    LOSSY_IMAGE_COMPRESSION = 0x00282110
    LOSSY_IMAGE_COMPRESSION_RATIO = 0x00282112
    LOSSY_IMAGE_COMPRESSION_METHOD = 0x00282114
    MODALITY_LUT_SEQUENCE = 0x00283000
    LUT_DESCRIPTOR = 0x00283002
    LUT_DATA = 0x00283006
    VOI_LUT_SEQUENCE = 0x00283010
    PIXEL_MEASURES_SEQUENCE = 0x00289110
    FRAME_VOI_LUT_SEQUENCE = 0x00289132
    PIXEL_VALUE_TRANSFORMATION_SEQUENCE = 0x00289145
    CONTAINER_IDENTIFIER = 0x00400512
    SPECIMEN_SEQUENCE = 0x00400550
    SPECIMEN_DESCRIPTION_SEQUENCE = 0x00400560
    CALIBRATION_IMAGE = 0x00500004
    VIEW_CODE_SEQUENCE = 0x00540220
    VIEW_MODIFIER_CODE_SEQUENCE = 0x00540222
    PRESENTATION_LUT_SEQUENCE = 0x20500010
    PRESENTATION_LUT_SHAPE = 0x20500020
    SHARED_FUNCTIONAL_GROUPS_SEQUENCE = 0x52009229
    PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE = 0x52009230
    EXTENDED_OFFSET_TABLE = 0x7FE00001


OVERLAY_BIT_POSITIONS = tuple(0x60000102 | group << 17 for group in range(16))
"""Overlay Bit Position (60xx,0102) of each overlay group; overlays may lie in unused bits of the pixels (retired)."""
_FUNCTIONAL_GROUPS = (Tag.SHARED_FUNCTIONAL_GROUPS_SEQUENCE, Tag.PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE)
_BINARY = {
    "US": "H",
    "SS": "h",
    "UL": "I",
    "SL": "i",
    "UV": "Q",
    "SV": "q",
    "FL": "f",
    "FD": "d",
    "OW": "H",
    "US or SS": "H",
    "UN": "H",
    "US or OW": "H",
    "US or SS or OW": "H",
}
_DECIMAL = ("DS", "IS")
_TEXT = ("AE", "AS", "CS", "DA", "DT", "LO", "LT", "SH", "ST", "TM", "UC", "UT")
"""Value representations that some writers give to numbers as text."""
_DECIMAL_TEXT = re.compile(r" *[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)? *", re.ASCII)
"""A Decimal String or an Integer String, possibly with blanks around it (PS3.5 6.2)."""


def label(tag: int) -> str:
    """Return the attribute's keyword and number as shown in errors."""
    return f"{keyword_for_tag(tag)} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


class Tags:
    """Typed access to the attributes of one data set; a value that breaks its type raises `CorruptImageError`."""

    def __init__(self, elements: Elements, where: str) -> None:
        """Wrap the elements of a data set; `where` names the file in errors."""
        self._elements = elements
        self.where = where

    def corrupt(self, tag: int, rule: str) -> CorruptImageError:
        """Return an error that names the file, the attribute and the broken rule."""
        return CorruptImageError(f"{self.where}: {label(tag)} {rule}")

    def with_functional_groups(self) -> "Tags":
        """Return the attributes merged with those of the single frame's functional groups (C.7.6.16).

        An attribute of the data set itself overrides one of a group, and a group of the frame overrides a shared one.
        """
        merged: Elements = {}
        for sequence in _FUNCTIONAL_GROUPS:
            for groups in self.items(sequence)[:1]:
                for macro in groups._elements:
                    if isinstance(groups._elements[macro], list):
                        for item in groups.items(macro)[:1]:
                            merged |= item._elements
        filled = {tag: value for tag, value in self._elements.items() if tag not in merged or self.has(tag)}
        return Tags(merged | filled, self.where)

    def _raw(self, tag: int) -> Element | None:
        element = self._elements.get(tag)
        if isinstance(element, list):
            raise self.corrupt(tag, "is a sequence; a value is needed")
        return element

    def data(self, tag: int) -> bytes:
        """Return the value's bytes as stored in the file; empty if the attribute is missing."""
        element = self._raw(tag)
        return element.value if element else b""

    def states(self, tag: int) -> bool:
        """Return whether the attribute is present, with or without a value."""
        return tag in self._elements

    def has(self, tag: int) -> bool:
        """Return whether the attribute is present with a value: text other than blanks, or a sequence with items.

        PS3.5 7.4: an attribute of type 2 or 3 without a value is unknown or absent.
        """
        element = self._elements.get(tag)
        if not isinstance(element, Element):
            return bool(element)
        return bool(element.value if self.vr(tag) in _BINARY else element.value.strip(b" \0"))

    def texts(self, tag: int) -> tuple[str, ...]:
        """Return the values of a text attribute without padding; () if missing or blank."""
        text = self.data(tag).decode("ascii", "replace").strip(" \0")
        return tuple(part.strip(" \0") for part in text.split("\\")) if text else ()

    def text(self, tag: int) -> str:
        """Return the first value of a text attribute; "" if missing or blank.

        Raises:
            CorruptImageError: A code or UID that may have one value has several; free text may hold the separator.
        """
        texts = self.texts(tag)
        if len(texts) > 1 and dictionary_VR(tag) in ("CS", "UI"):
            texts = self._single(tag, tuple(text for text in texts if text))
        return next(iter(texts), "")

    def _single(self, tag: int, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the values; raise if an attribute of value multiplicity 1 has different ones (PS3.5 6.4)."""
        if dictionary_VM(tag) == "1" and len(set(values)) > 1:
            raise self.corrupt(tag, f"has {len(values)} values that differ; it must have one")
        return values

    def codes(self, tag: int) -> tuple[str, ...]:
        """Return the values of a code attribute in capitals, because some writers break the rule of CS (PS3.5 6.2)."""
        return tuple(text.upper() for text in self.texts(tag))

    def code(self, tag: int) -> str:
        """Return the first value of a code attribute in capitals; "" if missing or blank."""
        return self.text(tag).upper()

    def concept(self) -> str:
        """Return the code of this item of a code sequence, in capitals; "" if it has none (PS3.3 8.1 to 8.3).

        The code is the Code Value, the Long Code Value or the last part of the URN Code Value.
        """
        tags = (Tag.CODE_VALUE, Tag.LONG_CODE_VALUE, Tag.URN_CODE_VALUE)
        return next((re.split("[/:]", self.code(tag))[-1] for tag in tags if self.has(tag)), "")

    def vr(self, tag: int) -> str:
        """Return the value representation: the file's, or the dictionary's if the file states none."""
        element = self._raw(tag)
        return element.vr if element and element.vr not in ("", "UN") else dictionary_VR(tag)

    def numbers(self, tag: int) -> tuple[float, ...]:
        """Return the values of a numeric attribute, all finite; () if missing or blank."""
        vr, data = self.vr(tag), self.data(tag)
        if vr in (*_DECIMAL, *_TEXT) or (vr not in _BINARY and dictionary_VR(tag) in _DECIMAL):
            texts = self.texts(tag)
            while texts and not texts[-1]:
                texts = texts[:-1]
            return tuple(self._decimal(tag, text) for text in texts)
        if not data:
            return ()
        if vr not in _BINARY:
            raise self.corrupt(tag, f"has value representation {vr!r}; a numeric one is needed")
        order = "<" if self.little_endian(tag) else ">"
        width = struct.calcsize(order + _BINARY[vr])
        if len(data) % width:
            raise self.corrupt(tag, f"has {len(data)} bytes; {vr} values take {width} each")
        values = struct.unpack(f"{order}{len(data) // width}{_BINARY[vr]}", data)
        for value in values:
            if not math.isfinite(value):
                raise self.corrupt(tag, f"is {value:g}; a finite number is needed")
        return values

    def _decimal(self, tag: int, text: str) -> float:
        value = float(text) if _DECIMAL_TEXT.fullmatch(text) else math.nan
        if not abs(value) < 1e300:
            raise self.corrupt(tag, f"is {quoted(text)}; a finite number is needed")
        return value

    def number(self, tag: int) -> float | None:
        """Return the first value of a numeric attribute; `None` if missing; raises as `text` does."""
        return next(iter(self._single(tag, self.numbers(tag))), None)

    def integer(self, tag: int) -> int:
        """Return the first value of a numeric attribute; raises if it is missing or not a whole number."""
        value = self.number(tag)
        if value is None:
            raise self.corrupt(tag, "is empty; it must have a value" if self.states(tag) else "is missing")
        if value != int(value):
            raise self.corrupt(tag, f"is {value:g}; a whole number is needed")
        return int(value)

    def little_endian(self, tag: int) -> bool:
        """Return whether the value is little endian in the file."""
        element = self._raw(tag)
        return element is None or element.little_endian

    def items(self, tag: int) -> tuple["Tags", ...]:
        """Return the items of a sequence; () if missing or empty."""
        element = self._elements.get(tag, [])
        if isinstance(element, Element):
            if element.value:
                raise self.corrupt(tag, "is not a sequence")
            return ()
        return tuple(Tags(item, self.where) for item in element)

    def sequences(self) -> tuple[int, ...]:
        """Return the tags of the sequences that are kept."""
        return tuple(tag for tag, element in self._elements.items() if isinstance(element, list))


def quoted(text: str) -> str:
    """Return `text` as an error may show it: codes and numbers in quotes, other text only as a description.

    With a damaged length, a value includes bytes of the next attribute, which may be the patient's name.
    """
    if all(re.fullmatch(r"[A-Z0-9_ .+-]{0,20}", part) for part in text.split("\\")) and len(text) <= 64:
        return repr(text)
    if len(text) == 1 and text.isprintable():
        return repr(text)
    return f"text of {len(text)} characters that is no code"
