"""Decodes pixel data into cells: the stored integers and the number of their bits that hold the value.

Each transfer syntax has one decoder. If it fails, the file is refused; no other decoder is tried.
Source: PS3.3 C.7.6.3 (Image Pixel Module), PS3.5 8.1 and 8.2.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mammopipe.processing.dicom.attributes import OVERLAY_BIT_POSITIONS, Tag, Tags, label, quoted
from mammopipe.processing.dicom.codecs import Announced, Codec
from mammopipe.processing.dicom.codestreams import jpeg, jpeg2000
from mammopipe.processing.dicom.codestreams.encapsulation import decode_rle, only_frame
from mammopipe.processing.dicom.codestreams.jpeg2000_damage import MOST_BLOCKS, MOST_BYTES, VERBOSE, differences
from mammopipe.processing.dicom.data_set import UNDEFINED
from mammopipe.processing.dicom.file import DicomFile
from mammopipe.processing.errors import CorruptImageError, NotAMammogramError, UnsupportedImageError
from mammopipe.processing.read_config import DEFAULT_CONFIG, Limits, ReadConfig

_DECODERS: dict[Codec, Callable[[bytes, int], Any]] = {
    Codec.JPEG: lambda data, threads: imagecodecs.jpeg8_decode(data),
    Codec.JPEG_LOSSLESS: lambda data, threads: imagecodecs.jpeg8_decode(data),
    Codec.JPEG_LS: lambda data, threads: imagecodecs.jpegls_decode(data),
    Codec.JPEG_2000: lambda data, threads: imagecodecs.jpeg2k_decode(data, numthreads=threads, verbose=VERBOSE),
}
# A lack of memory and a missing codec (`DelayedImportError`) are no faults of the file, so they are not among these.
_DECODER_FAILURES = (
    RuntimeError,
    ValueError,
    TypeError,
    IndexError,
    OverflowError,
    NotImplementedError,
    OSError,
    SyntaxError,
    struct.error,
)
"""What imagecodecs, and Pillow at half resolution, raise for data that they cannot decode."""

SMALL_IMAGE = 2**20
"""Images of up to this number of pixels may have any compression ratio."""
MOST_PIXELS_PER_BYTE = {Codec.JPEG_LOSSLESS: 8, Codec.JPEG: 256, Codec.JPEG_LS: 2**12, Codec.JPEG_2000: 2**12}
"""Greatest number of pixels per byte of a large image. JPEG Lossless needs at least one bit per pixel, and JPEG two
bits per block of 64 pixels. The other codecs have no such minimum, but the noise of a film or detector alone needs a
thousand times as many bytes."""

LEAST_BITS = 6
"""Least number of bits stored that PS3.3 C.8.11.3 allows."""


@dataclass(frozen=True)
class Layout:
    """The layout of a frame with one sample per pixel (Image Pixel Module)."""

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool

    @property
    def shift(self) -> int:
        """Index of the lowest bit of the stored value in its cell."""
        return self.high_bit + 1 - self.bits_stored


@dataclass(frozen=True)
class Cells:
    """A decoded frame; bits `shift` to `shift + bits - 1` of each cell are the stored value."""

    array: NDArray[Any]
    """uint8 or uint16, (rows, columns)."""
    bits: int
    shift: int
    reduction: int = 1
    """Number of pixels of the file's frame per cell, in each direction."""
    beyond: bool = False
    """Whether values exceed the range of Bits Stored."""
    lossy: bool = False
    """Whether the codestream itself shows that it is lossy."""


def read_layout(tags: Tags, limits: Limits) -> Layout:
    """Return the frame's layout; raises if it has colour or several frames, is too large, or contradicts itself."""
    samples, frames = tags.integer(Tag.SAMPLES_PER_PIXEL), tags.number(Tag.NUMBER_OF_FRAMES)
    photometric = tags.code(Tag.PHOTOMETRIC_INTERPRETATION)
    if not photometric:
        raise tags.corrupt(Tag.PHOTOMETRIC_INTERPRETATION, "is missing or empty; it must have a value")
    if samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise NotAMammogramError(
            f"{tags.where}: {label(Tag.SAMPLES_PER_PIXEL)} is {samples} and "
            f"{label(Tag.PHOTOMETRIC_INTERPRETATION)} is {quoted(photometric)}; a mammogram has "
            "one sample, MONOCHROME1 or MONOCHROME2"
        )
    if frames not in (None, 0, 1):  # Some writers put 0 where there is one frame.
        raise NotAMammogramError(f"{tags.where}: {label(Tag.NUMBER_OF_FRAMES)} is {frames:g}; a mammogram is one frame")
    described = len(tags.items(Tag.PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE))
    if described > 1:
        raise NotAMammogramError(
            f"{tags.where}: {label(Tag.PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE)} describes {described} frames; a "
            "mammogram is one frame"
        )
    rows, columns = tags.integer(Tag.ROWS), tags.integer(Tag.COLUMNS)
    limits.check_size(rows, columns, tags.where)
    stored = tags.integer(Tag.BITS_STORED)
    high = tags.integer(Tag.HIGH_BIT) if tags.states(Tag.HIGH_BIT) else stored - 1
    layout = Layout(
        rows, columns, tags.integer(Tag.BITS_ALLOCATED), stored, high, bool(tags.integer(Tag.PIXEL_REPRESENTATION))
    )
    _check_bits(layout, tags)
    return layout


def _check_bits(layout: Layout, tags: Tags) -> None:
    if layout.bits_allocated not in (8, 16):
        raise UnsupportedImageError(
            f"{tags.where}: {label(Tag.BITS_ALLOCATED)} is {layout.bits_allocated}; 8 and 16 are read"
        )
    if not LEAST_BITS <= layout.bits_stored <= layout.bits_allocated:
        raise tags.corrupt(
            Tag.BITS_STORED,
            f"is {layout.bits_stored}; it must be between {LEAST_BITS} and the {layout.bits_allocated} bits allocated",
        )
    if not layout.bits_stored - 1 <= layout.high_bit < layout.bits_allocated:
        raise tags.corrupt(
            Tag.HIGH_BIT,
            f"is {layout.high_bit}; with {layout.bits_stored} bits stored it must be from "
            f"{layout.bits_stored - 1} to {layout.bits_allocated - 1}",
        )
    if tags.integer(Tag.PIXEL_REPRESENTATION) not in (0, 1):
        raise tags.corrupt(Tag.PIXEL_REPRESENTATION, "must be 0 (unsigned) or 1 (two's complement)")


def decode(file: DicomFile, layout: Layout, config: ReadConfig = DEFAULT_CONFIG) -> Cells:
    """Return the stored values of the frame, decoded by the one decoder of its transfer syntax.

    A JPEG 2000 frame is decoded at half the resolution if `config.enough_rows` allows it (`Cells.reduction` is then 2).

    Raises:
        CorruptImageError: The pixel data are missing, damaged or undecodable, or contradict the attributes.
        NotAMammogramError: The pixel data hold several frames.
        ImageTooLargeError: Decoding would be too expensive for a mammogram.
        UnsupportedImageError: The pixel data have an encoding that is not supported.
    """
    tags, codec = file.tags, file.syntax.codec
    if codec is Codec.NATIVE and not file.syntax.encapsulated:
        return _uncompressed(_native(file, layout), layout, tags)
    if file.pixel_length != UNDEFINED:
        raise CorruptImageError(
            f"{tags.where}: Pixel Data (7FE0,0010) has a given length; transfer syntax "
            f"{file.syntax.name} encapsulates it in fragments"
        )
    if codec is Codec.NATIVE:
        pixels = memoryview(only_frame(tags, file.pixel_data, codec))
        return _uncompressed(_native(replace(file, pixel_data=pixels, pixel_length=len(pixels)), layout), layout, tags)
    if codec is Codec.RLE:
        frame = only_frame(tags, file.pixel_data, codec)
        cells = decode_rle(frame, layout.rows, layout.columns, layout.bits_allocated // 8, tags.where)
        return _uncompressed(cells, layout, tags)
    if layout.shift:
        raise UnsupportedImageError(
            f"{tags.where}: {label(Tag.HIGH_BIT)} is {layout.high_bit} in a compressed image of "
            f"{layout.bits_stored} bits stored; {layout.bits_stored - 1} is read"
        )
    return _codestream(file, layout, config)


def _uncompressed(array: NDArray[Any], layout: Layout, tags: Tags) -> Cells:
    """Return the cells of uncompressed pixels; raise if their values are not where High Bit says."""
    bits, shift = layout.bits_stored, layout.shift
    if shift and array.max() < 1 << bits and (array & ((1 << shift) - 1)).any():
        raise tags.corrupt(
            Tag.HIGH_BIT,
            f"is {layout.high_bit} with {bits} bits stored, but all values fit in the lowest {bits} bits: "
            f"they are aligned to the right, as {label(Tag.HIGH_BIT)} {bits - 1} would be",
        )
    if any(tags.number(tag) for tag in OVERLAY_BIT_POSITIONS):
        return Cells(array, bits, shift)
    return _with_all_bits(array, layout, layout.bits_allocated - shift, tags)


def _with_all_bits(array: NDArray[Any], layout: Layout, available: int, tags: Tags) -> Cells:
    """Return the cells with all bits of their values, also of values beyond the range of Bits Stored.

    Unused bits must be 0 or extend the sign (PS3.5 8.1.1). A value beyond Bits Stored is kept, which makes it brighter
    (or, with a sign, darker); without the higher bits it would wrap. Signed values are extended if one is negative.

    Args:
        array: The decoded cells.
        layout: The layout of the frame.
        available: Number of bits, from the lowest of the stored value, that can hold unsigned values.
        tags: The attributes, for errors.

    Raises:
        CorruptImageError: The values show that they are aligned to the left, or that their bytes are exchanged.
    """
    stored, shift, width = layout.bits_stored, layout.shift, 8 * array.itemsize
    if layout.signed and stored + shift < width:
        values = array.view(f"i{array.itemsize}")
        least, most = int(values.min()) >> shift, int(values.max()) >> shift
        beyond, available = least < 0 and max(-1 - least, most) >= 1 << stored - 1, width - shift
    else:
        beyond = available > stored and int(array.max()) >> shift >= 1 << stored
    if not beyond:
        return Cells(array, stored, shift)
    if not (array & ((1 << width - stored) - 1)).any():
        raise tags.corrupt(
            Tag.HIGH_BIT,
            f"is {layout.high_bit} with {stored} bits stored, but the lowest {width - stored} of all values are 0: "
            f"they are aligned to the left, as {label(Tag.HIGH_BIT)} {width - 1} would be",
        )
    if stored > 8 and not ((array & 0xFF) >> stored - 8).any():
        raise tags.corrupt(
            Tag.BITS_STORED, f"is {stored}, but the values are beyond it unless the two bytes of each are exchanged"
        )
    return Cells(array, available, shift, beyond=True)


def _native(file: DicomFile, layout: Layout) -> NDArray[Any]:
    """Return uncompressed pixels; the array shares the file's bytes if their byte order is this machine's."""
    where, width = file.tags.where, layout.bits_allocated // 8
    needed = layout.rows * layout.columns * width
    if file.pixel_length == UNDEFINED:
        raise CorruptImageError(f"{where}: Pixel Data (7FE0,0010) has undefined length in an uncompressed image")
    present = min(len(file.pixel_data), file.pixel_length)
    if present < needed:
        raise CorruptImageError(
            f"{where}: Pixel Data (7FE0,0010) has {present} bytes; {layout.rows} x "
            f"{layout.columns} pixels of {layout.bits_allocated} bits need {needed}"
        )
    if file.pixel_length - present > 1:  # The byte that pads to even length may be missing.
        raise CorruptImageError(
            f"{where}: Pixel Data (7FE0,0010) announces {file.pixel_length} bytes, {present} are there: truncated"
        )
    _check_surplus(file, needed, present)
    if width == 2:
        order = ">u2" if file.syntax.big_endian else "<u2"
        cells = np.frombuffer(file.pixel_data, order, needed // 2).astype(np.uint16, copy=False)
        return cells.reshape(layout.rows, layout.columns)
    data: Any = file.pixel_data
    if file.syntax.big_endian and file.pixel_vr == "OW":
        # Two 8-bit pixels per 16-bit word, with the word's bytes swapped (PS3.5 8.1.1 and 8.2).
        data = np.frombuffer(data, ">u2", len(data) // 2).astype("<u2").view(np.uint8)
        if data.size < needed:
            raise CorruptImageError(f"{where}: Pixel Data (7FE0,0010) of VR OW must have an even number of bytes")
    return np.frombuffer(data, np.uint8, needed).reshape(layout.rows, layout.columns)


def _check_surplus(file: DicomFile, needed: int, present: int) -> None:
    """Raise if the pixel data hold more than the frame: a second frame, or surplus bytes that are not zero."""
    where, surplus = file.tags.where, present - needed
    if surplus > 1 and surplus >= needed:
        raise NotAMammogramError(
            f"{where}: Pixel Data (7FE0,0010) has {present} bytes, enough for {present // needed} frames of {needed}; "
            "a mammogram is one frame"
        )
    if surplus > 1 and np.frombuffer(file.pixel_data, np.uint8, surplus, needed).any():
        raise CorruptImageError(
            f"{where}: Pixel Data (7FE0,0010) has {surplus} bytes beyond the {needed} that the attributes say, "
            "and they are no padding"
        )


def _codestream(file: DicomFile, layout: Layout, config: ReadConfig) -> Cells:
    codec, where = file.syntax.codec, file.tags.where
    frame = only_frame(file.tags, file.pixel_data, codec)
    is_2000 = codec is Codec.JPEG_2000
    head = jpeg2000.announced(frame, where) if is_2000 else jpeg.announced(frame, codec, where)
    _check_announced(head, layout, where)
    most = MOST_PIXELS_PER_BYTE[codec]
    if head.rows * head.columns > max(SMALL_IMAGE, most * len(frame)):
        raise CorruptImageError(
            f"{where}: Pixel Data (7FE0,0010) announces {head.rows} x {head.columns} pixels in {len(frame)} bytes; "
            f"by {codec}, a byte holds {most} at most"
        )
    if is_2000 and jpeg2000.check_cost(frame, where) <= MOST_BLOCKS:
        frame = jpeg2000.with_checked_ends(frame, where)
    reduction = 2 if _may_halve(head, layout, config) else 1

    def whole(data: bytes) -> NDArray[Any]:
        return np.asarray(_DECODERS[codec](data, config.threads))

    try:
        with differences(config.threads) as found:
            decoded = _half(frame, head) if reduction > 1 else whole(frame)
        if codec in (Codec.JPEG, Codec.JPEG_LOSSLESS):
            jpeg.check_coded_data(frame, decoded, whole, codec, where)
    except _DECODER_FAILURES:
        raise CorruptImageError(f"{where}: Pixel Data (7FE0,0010) cannot be decoded by {codec}") from None
    if max(found, default=0) > MOST_BYTES:
        raise CorruptImageError(
            f"{where}: Pixel Data (7FE0,0010): decoding a code-block takes {max(found)} bytes more or fewer than it "
            "has: damaged"
        )
    if decoded.shape != (-(-layout.rows // reduction), -(-layout.columns // reduction)) or decoded.dtype.itemsize > 2:
        raise CorruptImageError(f"{where}: Pixel Data (7FE0,0010) decodes to {decoded.dtype} {decoded.shape}")
    if decoded.dtype == np.int8 and layout.bits_stored > 8:
        decoded = decoded.astype(np.int16)
    cells = decoded.view(f"u{decoded.dtype.itemsize}")
    if codec is Codec.JPEG_LOSSLESS and int(cells.max()) >= 1 << head.precision:
        # Differences add up modulo 2^16 (10918-1 H.1.2.1), so a wrong one leads out of the range of the samples.
        raise CorruptImageError(
            f"{where}: Pixel Data (7FE0,0010) decodes to values beyond the {head.precision} bits of its samples: "
            "damaged"
        )
    kept = _with_all_bits(cells, layout, max(head.precision, layout.bits_stored), file.tags)
    return replace(kept, reduction=reduction, lossy=head.lossy)


def _check_announced(head: Announced, layout: Layout, where: str) -> None:
    if (head.rows, head.columns, head.components) != (layout.rows, layout.columns, 1):
        raise CorruptImageError(
            f"{where}: Pixel Data (7FE0,0010) holds an image of {head.rows} x {head.columns} and {head.components} "
            f"components; the attributes say {layout.rows} x {layout.columns} and 1"
        )
    if not 2 <= head.precision <= 16:
        raise UnsupportedImageError(
            f"{where}: Pixel Data (7FE0,0010) holds {head.precision} bits a sample; 2 to 16 are read"
        )
    if head.precision > layout.bits_allocated:
        raise CorruptImageError(
            f"{where}: Pixel Data (7FE0,0010) holds {head.precision} bits a sample; {label(Tag.BITS_ALLOCATED)} is "
            f"{layout.bits_allocated}"
        )


def _may_halve(head: Announced, layout: Layout, config: ReadConfig) -> bool:
    """Return whether half the rows are enough, and Pillow can decode the image: unsigned, within its size limit."""
    enough = config.enough_rows is not None and layout.rows >= 2 * config.enough_rows
    unsigned = not (layout.signed or head.signed)
    return enough and unsigned and head.levels > 0 and head.rows * head.columns <= (Image.MAX_IMAGE_PIXELS or 0)


def _half(frame: bytes, head: Announced) -> NDArray[Any]:
    """Return the frame at half the resolution; of the decoders used here, only Pillow's OpenJPEG can omit a level."""
    image: Any = Image.open(BytesIO(frame), formats=("JPEG2000",))
    image.reduce = 1
    # Pillow shifts samples of 9 to 15 bits up to 16 bits.
    return np.asarray(image) >> (16 - head.precision if head.precision > 8 else 0)
