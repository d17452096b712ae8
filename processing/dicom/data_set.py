"""Parses an untrusted data set up to the pixel data, and counts its elements, sequences and items.

This module replaces pydicom's reader. That reader does not count nested elements (450,000 empty items take ten
seconds), makes an empty value look like a sequence, and issues warnings that are global to the process.
Sources: PS3.5 7.1 (data elements), 7.5 (sequences of items), 6.2.2 (unknown representation), annex A.4 (fragments).
"""

import struct
from dataclasses import dataclass

from pydicom.datadict import dictionary_VR
from pydicom.valuerep import EXPLICIT_VR_LENGTH_16

from mammopipe.processing.errors import CorruptImageError

UNDEFINED = 0xFFFFFFFF
FIRST_PIXEL_TAG = 0x7FE00008
"""Float Pixel Data, the first attribute that holds pixels."""
MAX_ELEMENTS = 65536
"""Greatest number of elements and items before the pixel data, nested ones included; scanners write a few hundred."""
MAX_DEPTH = 24
"""Greatest depth of nested sequences."""
MAX_VALUE = 2**20
"""Greatest size of a kept value in bytes; the longest that the reader uses, a look-up table, has 128 KiB."""
_ITEM, _END_OF_ITEM, _END_OF_SEQUENCE = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_SHORT = frozenset(vr.encode() for vr in EXPLICIT_VR_LENGTH_16)
"""Representations whose length has 16 bits; all others, also those added later, have 32 (tables 7.1-1 and 7.1-2)."""
_OPAQUE, _ITEM_START = (b"", b"UN", b"OB"), b"\xfe\xff\x00\xe0"
_FRAGMENTED = (b"OB", b"OW", b"OD", b"OF", b"OL", b"OV")


@dataclass(frozen=True, slots=True)
class Element:
    """One attribute as stored in the file."""

    vr: str
    """The value representation that the file states; empty in implicit VR."""
    value: bytes
    little_endian: bool


Items = list["Elements"]
Elements = dict[int, "Element | Items"]


@dataclass(frozen=True, slots=True)
class PixelHeader:
    """The position of the first attribute with pixels."""

    tag: int
    vr: str
    length: int
    start: int
    """Offset of its value in the data."""


@dataclass(frozen=True, slots=True)
class _Header:
    tag: int
    vr: bytes
    length: int
    start: int
    implicit: bool


class DataSetReader:
    """Reads one data set; it keeps the `wanted` attributes and skips all others.

    With `everywhere`, it also finds wanted attributes inside sequences that are not wanted themselves. Methods raise
    `CorruptImageError`, which names the file `where`.
    """

    def __init__(self, data: bytes, *, where: str, wanted: frozenset[int], everywhere: bool = False) -> None:
        self._data, self._where, self._wanted, self._everywhere = data, where, wanted, everywhere
        self._count = 0

    def read(self, start: int, *, implicit: bool, little_endian: bool) -> tuple[Elements, PixelHeader | None]:
        """Return the wanted attributes before the pixel data, and the position of the pixel data (`None`: none)."""
        order = "<" if little_endian else ">"
        implicit = self._looks_implicit(start, len(self._data), implicit)
        found: Elements = {}
        position, end = start, len(self._data)
        while position < end:
            header = self._header(position, end, implicit, order)
            if header.tag >= FIRST_PIXEL_TAG and header.tag >> 16 == 0x7FE0:
                if self._everywhere:
                    self._read_after(header, end, implicit, order, found)
                return found, PixelHeader(header.tag, header.vr.decode("ascii"), header.length, header.start)
            position = self._element(header, end, order, found, 0)
        return found, None

    def _read_after(self, pixels: _Header, end: int, implicit: bool, order: str, found: Elements) -> None:
        """Keep the attributes after the pixel data, up to the first bytes that cannot be parsed, such as padding."""
        try:
            undefined = pixels.length == UNDEFINED
            position = self._pass_fragments(pixels.start, end, "<") if undefined else pixels.start + pixels.length
            while position < end:
                position = self._element(self._header(position, end, implicit, order), end, order, found, 0)
        except CorruptImageError:
            return

    def _element(self, header: _Header, end: int, order: str, found: Elements, depth: int) -> int:
        """Keep one element if it is wanted, and return where the next one starts."""
        self._count_one()
        if header.tag >> 16 == 0xFFFE:
            raise self._corrupt("an item delimiter stands where a data element must")
        sequence = _is_sequence(header)
        wanted = header.tag in self._wanted
        if header.length == UNDEFINED:
            if header.vr in _FRAGMENTED:
                return self._pass_fragments(header.start, end, order)
            items, position = self._items(header, end, order, depth, delimited=True)
            if wanted or self._everywhere:
                self._keep(found, header.tag, items)
            return position
        stop = header.start + header.length
        if stop > end:
            raise self._corrupt(
                f"({header.tag >> 16:04X},{header.tag & 0xFFFF:04X}) announces {header.length} bytes, "
                f"{end - header.start} are there: truncated"
            )
        if sequence and (wanted or self._everywhere):
            self._keep(found, header.tag, self._items(header, stop, order, depth, delimited=False)[0])
        elif self._everywhere and not wanted and header.vr in _OPAQUE:
            self._keep_hidden(header, stop, order, found, depth)
        elif wanted:
            if header.length > MAX_VALUE:
                raise self._corrupt(
                    f"({header.tag >> 16:04X},{header.tag & 0xFFFF:04X}) has {header.length} bytes; at most "
                    f"{MAX_VALUE} are read"
                )
            vr = header.vr.decode("ascii")
            self._keep(found, header.tag, Element(vr, self._data[header.start : stop], order == "<"))
        return stop

    def _keep_hidden(self, header: _Header, stop: int, order: str, found: Elements, depth: int) -> None:
        """Keep the items of a sequence that is stored as a plain value, as private and unknown sequences often are."""
        if not self._data.startswith(_ITEM_START, header.start):
            return
        try:
            found[header.tag] = self._items(header, stop, order, depth, delimited=False)[0]
        except CorruptImageError:
            return

    def _keep(self, found: Elements, tag: int, value: Element | Items) -> None:
        """Keep an attribute; it may occur once in a data set (7.1), so another value raises `CorruptImageError`."""
        if found.setdefault(tag, value) != value:
            name = f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
            raise CorruptImageError(f"{self._where}: {name} occurs twice in a data set, with different values")

    def _items(self, header: _Header, end: int, order: str, depth: int, *, delimited: bool) -> tuple[Items, int]:
        """Return the items of a sequence and where they end; a sequence of VR UN is implicit (6.2.2)."""
        if depth >= MAX_DEPTH:
            raise self._corrupt(f"more than {MAX_DEPTH} sequences are nested in each other")
        unknown = header.vr == b"UN"
        order = "<" if unknown else order
        items: Items = []
        position = header.start
        while position + 8 <= end:
            group, element, length = struct.unpack_from(order + "HHI", self._data, position)
            tag, position = group << 16 | element, position + 8
            if tag == _END_OF_SEQUENCE:
                return items, position
            if tag != _ITEM:
                raise self._corrupt("something other than an item stands in a sequence")
            self._count_one()
            stop = end if length == UNDEFINED else position + length
            if stop > end:
                raise self._corrupt("an item is longer than its sequence: truncated")
            implicit = unknown or header.implicit
            item, position = self._item(position, stop, implicit, order, depth + 1, length == UNDEFINED)
            items.append(item)
        if delimited or position != end:
            raise self._corrupt("a sequence has no end: truncated")
        return items, position

    def _item(
        self, position: int, end: int, implicit: bool, order: str, depth: int, delimited: bool
    ) -> tuple[Elements, int]:
        found: Elements = {}
        implicit = self._looks_implicit(position, end, implicit)
        while position < end:
            header = self._header(position, end, implicit, order)
            if header.tag == _END_OF_ITEM and delimited:
                return found, header.start
            position = self._element(header, end, order, found, depth)
        if delimited:
            raise self._corrupt("an item has no end: truncated")
        return found, position

    def _pass_fragments(self, position: int, end: int, order: str) -> int:
        """Return where the encapsulated pixels of an icon end (annex A.4)."""
        while position + 8 <= end:
            group, element, length = struct.unpack_from(order + "HHI", self._data, position)
            tag, position = group << 16 | element, position + 8
            self._count_one()
            if tag == _END_OF_SEQUENCE:
                return position
            if tag != _ITEM or length == UNDEFINED:
                break
            position += length
        raise self._corrupt("an encapsulated value has no end: truncated")

    def _header(self, position: int, end: int, implicit: bool, order: str) -> _Header:
        """Return an element's header; the element is implicit if its VR is not two capital letters (7.1.3)."""
        if position + 8 > end:
            raise self._corrupt("an element's header is cut off: truncated")
        group, element = struct.unpack_from(order + "HH", self._data, position)
        tag = group << 16 | element
        vr = self._data[position + 4 : position + 6]
        if implicit or group == 0xFFFE or not (vr.isalpha() and vr.isupper()):
            return _Header(tag, b"", struct.unpack_from(order + "I", self._data, position + 4)[0], position + 8, True)
        if vr in _SHORT:
            length = struct.unpack_from(order + "H", self._data, position + 6)[0]
            return _Header(tag, vr, length, position + 8, False)
        if position + 12 > end:
            raise self._corrupt("an element's header is cut off: truncated")
        return _Header(tag, vr, struct.unpack_from(order + "I", self._data, position + 8)[0], position + 12, False)

    def _looks_implicit(self, position: int, end: int, stated: bool) -> bool:
        """Return whether a data set is in implicit VR, judged by its first element, not by the transfer syntax."""
        vr = self._data[position + 4 : position + 6]
        if position + 8 > end or self._data[position : position + 2] in (b"\xfe\xff", b"\xff\xfe"):
            return stated
        return not (vr.isalpha() and vr.isupper())

    def _count_one(self) -> None:
        self._count += 1
        if self._count > MAX_ELEMENTS:
            raise self._corrupt(f"more than {MAX_ELEMENTS} elements and items stand before the pixel data")

    def _corrupt(self, rule: str) -> CorruptImageError:
        return CorruptImageError(f"{self._where}: no Pixel Data (7FE0,0010) can be reached: {rule}")


def _is_sequence(header: _Header) -> bool:
    if header.vr == b"SQ":
        return True
    if header.vr and header.vr != b"UN":
        return False
    try:
        return dictionary_VR(header.tag) == "SQ"
    except KeyError:
        return False
