"""A DICOM file taken apart: its transfer syntax, the few attributes that the reader may see, and its pixel data.

Only attributes named in `Tag` (or asked for by number) are kept, so nothing that identifies a patient is ever held.
pydicom finds the elements; their values are read here from the raw bytes, because pydicom's own conversion warns and
guesses where a value is malformed. Sources: PS3.5 (data elements, 6.2 value representations), PS3.10 chapter 7.
"""

import struct
import threading
import warnings
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from io import BytesIO

from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32
from pydicom.values import convert_SQ

from processing.dicom_syntaxes import Syntax, syntax_of
from processing.image_rules import CorruptImageError, Limits, UnsupportedImageError

PREAMBLE = 128
UNDEFINED = 0xFFFFFFFF
MAX_ELEMENTS = 65536
"""Top-level elements before the pixel data; scanners write a few hundred."""


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


PIXEL_GROUP = 0x7FE00000
FLOAT_PIXEL_DATA = (0x7FE00008, 0x7FE00009)
PIXEL_DATA = 0x7FE00010

_BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d", "OW": "H", "US or SS": "H", "UN": "H",
           "US or OW": "H", "US or SS or OW": "H"}
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
            raise self.corrupt(tag, f"is {clip(text)!r}; a finite number is needed")
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


def clip(text: str) -> str:
    """Return at most 32 printable ASCII characters of `text`, for a one-line message."""
    return "".join(character if " " <= character <= "~" else "?" for character in text)[:32]


@dataclass(frozen=True)
class DicomFile:
    """What a DICOM file holds that the reader may see."""

    tags: Tags
    syntax: Syntax
    pixel_data: memoryview
    """The value of Pixel Data (7FE0,0010): to its end where its length is given, to the end of the file otherwise."""
    pixel_vr: str
    pixel_length: int
    """The announced length in bytes, or 0xFFFFFFFF (undefined) for encapsulated pixel data."""


def is_dicom(data: bytes) -> bool:
    """Return whether the bytes start like a DICOM file: `DICM` after the preamble, or file meta elements at once."""
    return data[PREAMBLE : PREAMBLE + 4] == b"DICM" or data[:6] == b"\x02\0\0\0UL"


def parse(data: bytes, *, where: str, limits: Limits, tags: Iterable[int] = Tag) -> DicomFile:
    """Return the parts of a DICOM file; only the attributes in `tags` are kept.

    Raises `UnsupportedImageError` for an unknown transfer syntax or floating-point pixel data, `CorruptImageError`
    where the data set cannot be followed to its pixel data, `ImageTooLargeError` where a deflated one grows too large.
    """
    start = PREAMBLE + 4 if data[PREAMBLE : PREAMBLE + 4] == b"DICM" else 0
    uid, start = _file_meta(data, start, where)
    syntax = syntax_of(uid, where)
    if syntax.deflated:
        data, start = _inflate(data[start:], where, limits), 0
    stream = BytesIO(data)
    stream.seek(start)
    finder = _PixelFinder(where)
    found, implicit = _read(stream, syntax, finder, sorted(tags), where)
    offset = stream.tell() + (12 if not implicit and finder.vr in EXPLICIT_VR_LENGTH_32 else 8)
    end = len(data) if finder.length == UNDEFINED else offset + finder.length
    return DicomFile(found, syntax, memoryview(data)[offset:end], finder.vr or "OW", finder.length)


class _PixelFinder:
    """Stops pydicom at the pixel data, so that its bytes are neither copied nor searched."""

    def __init__(self, where: str) -> None:
        self.where, self.count, self.tag, self.length = where, 0, 0, 0
        self.vr: str | None = None

    def __call__(self, tag: BaseTag, vr: str | None, length: int) -> bool:
        self.count += 1
        if self.count > MAX_ELEMENTS:
            raise CorruptImageError(f"{self.where}: more than {MAX_ELEMENTS} elements before the pixel data")
        if tag < FLOAT_PIXEL_DATA[0]:
            return False
        self.tag, self.vr, self.length = int(tag), vr, length
        return True

    def check(self) -> None:
        if self.tag in FLOAT_PIXEL_DATA:
            raise UnsupportedImageError(f"{self.where}: {label(self.tag)}: floating-point pixels are not read")
        if self.tag != PIXEL_DATA:
            raise CorruptImageError(f"{self.where}: no Pixel Data (7FE0,0010): the file is truncated or has no image")


_LOCK = threading.Lock()
_PYDICOM_FAILURES = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, OSError, EOFError,
                     NotImplementedError, RecursionError, struct.error, AssertionError)


def _read(stream: BytesIO, syntax: Syntax, finder: _PixelFinder, tags: list[int], where: str) -> tuple[Tags, bool]:
    """Return the attributes before the pixel data, and whether the file turned out to be in implicit VR.

    The lock and the silenced warnings belong together: Python's warning filters are global to the process. pydicom
    warns of, and reads past, what this reader checks itself or does not use.
    """
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = read_dataset(stream, syntax.implicit, not syntax.big_endian, stop_when=finder,
                                   specific_tags=list(tags))
            found = _tags(dataset, frozenset(tags), where)
        except _PYDICOM_FAILURES as error:
            raise CorruptImageError(f"{where}: the data set cannot be parsed ({type(error).__name__})") from None
    finder.check()
    return found, bool(dataset.original_encoding[0])


def _tags(dataset: Dataset, wanted: frozenset[int], where: str) -> Tags:
    """Return the wanted attributes as raw bytes, and sequences as the wanted attributes of their items."""
    elements: dict[int, RawDataElement | list[Tags]] = {}
    for tag in map(int, dataset.keys()):
        if tag not in wanted:
            continue
        element = dataset.get_item(tag)
        if isinstance(element, RawDataElement) and dictionary_VR(tag) != "SQ":
            elements[tag] = element
        else:
            items = _items(element) if isinstance(element, RawDataElement) else element.value
            elements[tag] = [_tags(item, wanted, where) for item in items or ()]
    return Tags(elements, where)


def _items(element: RawDataElement) -> Sequence:
    """Return a sequence's items; one of unknown representation (UN) holds implicit little endian (PS3.5 6.2.2)."""
    unknown = element.VR == "UN"
    return convert_SQ(element.value or b"", unknown or element.is_implicit_VR, unknown or element.is_little_endian)


def _file_meta(data: bytes, position: int, where: str) -> tuple[str, int]:
    """Return the transfer syntax UID and where the data set starts (PS3.10 7.1: group 0002, explicit little endian)."""
    uid = b""
    while data[position : position + 2] == b"\x02\0" and position + 8 <= len(data):
        element, vr, length = struct.unpack_from("<H2sH", data, position + 2)
        header = 8
        if vr.decode("ascii", "replace") in EXPLICIT_VR_LENGTH_32:
            length, header = int.from_bytes(data[position + 8 : position + 12], "little"), 12
        value = data[position + header : position + header + length]
        if len(value) < length:
            raise CorruptImageError(f"{where}: file meta element (0002,{element:04X}) announces {length} bytes, "
                                    f"{len(value)} are there")
        uid = value if element == 0x0010 else uid
        position += header + length
    if not uid:
        raise CorruptImageError(f"{where}: no TransferSyntaxUID (0002,0010) in the file meta information")
    return uid.decode("ascii", "replace").strip(" \0"), position


def _inflate(data: bytes, where: str, limits: Limits) -> bytes:
    """Return the deflated data set, never more of it than the limits allow (PS3.5 A.5)."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(data, limits.max_bytes + 1)
    except zlib.error:
        raise CorruptImageError(f"{where}: the deflated data set cannot be inflated") from None
    limits.check_bytes(len(inflated), where)
    if not inflater.eof:
        raise CorruptImageError(f"{where}: the deflated data set is truncated")
    return inflated
