"""A DICOM file taken apart: its transfer syntax, the wanted attributes before its pixel data, and the pixel data.

Sources: PS3.10 chapter 7 (file meta information), PS3.5 7.1 (data elements), 7.5 (sequences), A.5 (deflated).
"""

import struct
import threading
import warnings
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32
from pydicom.values import convert_SQ

from mammopipe.processing.dicom.attributes import Tag, Tags, label
from mammopipe.processing.dicom.codecs import Syntax, syntax_of
from mammopipe.processing.errors import CorruptImageError, UnsupportedImageError
from mammopipe.processing.read_config import Limits

PREAMBLE = 128
UNDEFINED = 0xFFFFFFFF
MAX_ELEMENTS = 65536
"""Top-level elements before the pixel data; scanners write a few hundred."""
FLOAT_PIXEL_DATA = (0x7FE00008, 0x7FE00009)
PIXEL_DATA = 0x7FE00010
MEDIA_STORAGE_SOP_CLASS_UID = 0x0002
MEDIA_STORAGE_SOP_INSTANCE_UID = 0x0003
TRANSFER_SYNTAX_UID = 0x0010
IMPLEMENTATION_VERSION_NAME = 0x0013
PHANTOM_WRITER = "MAMMOPIPEPHANTOM"
"""The Implementation Version Name of every synthetic file, by which one can tell it from a patient's."""


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
    writer: str
    """Implementation Version Name (0002,0013), the program that wrote the file; empty where it is not stated."""
    sop_class: str
    """Media Storage SOP Class UID (0002,0002); empty where it is not stated."""
    sop_instance: str
    """Media Storage SOP Instance UID (0002,0003); empty where it is not stated."""


def is_dicom(data: bytes) -> bool:
    """Return whether the bytes start like a DICOM file: `DICM` after the preamble, or file meta elements at once."""
    return data[PREAMBLE : PREAMBLE + 4] == b"DICM" or (data[:2] == b"\x02\0" and data[4:6].isalpha())


def parse(data: bytes, *, where: str, limits: Limits, tags: Iterable[int] = Tag) -> DicomFile:
    """Return the parts of a DICOM file; only the attributes in `tags` are kept.

    Raises `UnsupportedImageError` for an unknown transfer syntax or floating-point pixel data, `CorruptImageError`
    where the data set cannot be followed to its pixel data, `ImageTooLargeError` where a deflated one grows too large.
    """
    start = PREAMBLE + 4 if data[PREAMBLE : PREAMBLE + 4] == b"DICM" else 0
    meta, start = _file_meta(data, start, where)
    uid = meta.get(TRANSFER_SYNTAX_UID, "")
    if not uid:
        raise CorruptImageError(f"{where}: no TransferSyntaxUID (0002,0010) in the file meta information")
    syntax = syntax_of(uid, where)
    if syntax.deflated:
        data, start = _inflate(data[start:], where, limits), 0
    stream = BytesIO(data)
    stream.seek(start)
    finder = _PixelFinder(where)
    found, implicit = _read(stream, syntax, finder, sorted(tags), where)
    offset = stream.tell() + (12 if not implicit and finder.vr in EXPLICIT_VR_LENGTH_32 else 8)
    end = len(data) if finder.length == UNDEFINED else offset + finder.length
    names = (IMPLEMENTATION_VERSION_NAME, MEDIA_STORAGE_SOP_CLASS_UID, MEDIA_STORAGE_SOP_INSTANCE_UID)
    told = (meta.get(name, "") for name in names)
    return DicomFile(found, syntax, memoryview(data)[offset:end], finder.vr or "OW", finder.length, *told)


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
_PYDICOM_FAILURES = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    OSError,
    EOFError,
    NotImplementedError,
    RecursionError,
    struct.error,
    AssertionError,
)


def _read(stream: BytesIO, syntax: Syntax, finder: _PixelFinder, tags: list[int], where: str) -> tuple[Tags, bool]:
    """Return the attributes before the pixel data, and whether the file turned out to be in implicit VR.

    The lock and the silenced warnings belong together: Python's warning filters are global to the process. pydicom
    warns of, and reads past, what this reader checks itself or does not use.
    """
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = read_dataset(
                stream, syntax.implicit, not syntax.big_endian, stop_when=finder, specific_tags=list(tags)
            )
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


def _file_meta(data: bytes, position: int, where: str) -> tuple[dict[int, str], int]:
    """Return group 0002 by element and where the data set starts (PS3.10 7.1: explicit little endian)."""
    found: dict[int, str] = {}
    while data[position : position + 2] == b"\x02\0" and position + 8 <= len(data):
        element, vr, length = struct.unpack_from("<H2sH", data, position + 2)
        header = 8
        if vr.decode("ascii", "replace") in EXPLICIT_VR_LENGTH_32:
            length, header = int.from_bytes(data[position + 8 : position + 12], "little"), 12
        value = data[position + header : position + header + length]
        if len(value) < length:
            raise CorruptImageError(
                f"{where}: file meta element (0002,{element:04X}) announces {length} bytes, {len(value)} are there"
            )
        found[element] = value.decode("ascii", "replace").strip(" \0")
        position += header + length
    return found, position


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
