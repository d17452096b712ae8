"""Writes small DICOM files, valid ones and those with the faults that a test needs."""

import zlib
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.pixels.encoders import RLELosslessEncoder

settings.register_profile(
    "repeatable", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")

PREFIX = "1.2.840.10008.1.2"
IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN, RLE = PREFIX, PREFIX + ".1", PREFIX + ".1.99", PREFIX + ".2", PREFIX + ".5"
ENCAPSULATED = PREFIX + ".1.98"


def _rle(cells: NDArray[Any], bits: int) -> bytes:
    return bytes(
        RLELosslessEncoder.encode(
            _unsigned(cells, 8 * cells.itemsize),
            rows=cells.shape[0],
            columns=cells.shape[1],
            samples_per_pixel=1,
            bits_allocated=8 * cells.itemsize,
            bits_stored=8 * cells.itemsize,
            photometric_interpretation="MONOCHROME2",
            number_of_frames=1,
            pixel_representation=0,
        )
    )


def _unsigned(cells: NDArray[Any], bits: int) -> NDArray[Any]:
    """Return the bit patterns of the cells, for codecs without signed samples."""
    return cells.view(f"u{cells.itemsize}") & np.array((1 << bits) - 1, f"u{cells.itemsize}")


def _jpeg(**options: Any) -> Callable[[NDArray[Any], int], bytes]:
    def encode(cells: NDArray[Any], bits: int) -> bytes:
        samples = _unsigned(cells, bits).astype(np.uint8 if bits == 8 else np.uint16)
        return bytes(imagecodecs.jpeg8_encode(samples, bitspersample=bits, **options))

    return encode


ENCODERS: dict[str, Callable[[NDArray[Any], int], bytes]] = {
    RLE: _rle,
    ENCAPSULATED: lambda cells, bits: cells.astype(cells.dtype.newbyteorder("<")).tobytes(),
    PREFIX + ".4.50": _jpeg(level=95),
    PREFIX + ".4.51": _jpeg(level=95),
    PREFIX + ".4.57": _jpeg(lossless=True, predictor=4),
    PREFIX + ".4.70": _jpeg(lossless=True, predictor=1),
    PREFIX + ".4.80": lambda cells, bits: imagecodecs.jpegls_encode(_unsigned(cells, bits)),
    PREFIX + ".4.81": lambda cells, bits: imagecodecs.jpegls_encode(_unsigned(cells, bits), level=2),
    PREFIX + ".4.90": lambda cells, bits: imagecodecs.jpeg2k_encode(
        cells, codecformat="j2k", reversible=True, level=0, bitspersample=bits
    ),
    PREFIX + ".4.91": lambda cells, bits: imagecodecs.jpeg2k_encode(
        cells, codecformat="j2k", reversible=False, level=60, bitspersample=bits
    ),
    PREFIX + ".4.201": lambda cells, bits: imagecodecs.htj2k_encode(cells),
    PREFIX + ".4.202": lambda cells, bits: imagecodecs.htj2k_encode(cells),
    PREFIX + ".4.203": lambda cells, bits: imagecodecs.htj2k_encode(cells),
}
LOSSLESS = (
    IMPLICIT,
    EXPLICIT,
    DEFLATED,
    BIG_ENDIAN,
    RLE,
    ENCAPSULATED,
    *(PREFIX + suffix for suffix in (".4.57", ".4.70", ".4.80", ".4.90", ".4.201", ".4.202", ".4.203")),
)
LOSSY = tuple(PREFIX + suffix for suffix in (".4.50", ".4.51", ".4.81", ".4.91"))


REPEATING = {"OverlayBitPosition": 0x60000102, "OverlayBitsAllocated": 0x60000100}
"""Attributes of repeating groups, which pydicom's dictionary does not know by keyword, in the first group."""


def element(keyword: str, value: Any, vr: str | None = None) -> DataElement:
    """Return a data element that pydicom does not check, so that a test can write what no scanner should."""
    tag = tag_for_keyword(keyword) or REPEATING.get(keyword)
    assert tag is not None, keyword
    return DataElement(tag, vr or dictionary_VR(tag).split(" ")[0], value, validation_mode=0)


def item(**values: Any) -> Dataset:
    """Return a sequence item; a value may be a pair (VR, value)."""
    dataset = Dataset()
    for keyword, value in values.items():
        vr, plain = value if isinstance(value, tuple) else (None, value)
        dataset.add(element(keyword, plain, vr))
    return dataset


def write_dicom(
    cells: NDArray[Any],
    *,
    syntax: str = EXPLICIT,
    bits: int | None = None,
    pixel_data: bytes | None = None,
    leave_out: tuple[str, ...] = (),
    **values: Any,
) -> bytes:
    """Return a DICOM file with the bytes of `cells` and with further attributes; a value may be (VR, value)."""
    stored = bits or 8 * cells.itemsize
    attributes: dict[str, Any] = {
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": cells.shape[0],
        "Columns": cells.shape[1],
        "BitsAllocated": 8 * cells.itemsize,
        "BitsStored": stored,
        "HighBit": stored - 1,
        "PixelRepresentation": int(cells.dtype.kind == "i"),
        **values,
    }
    dataset = item(**{name: value for name, value in attributes.items() if name not in leave_out})
    if pixel_data is None:
        pixel_data = _pixel_bytes(cells, syntax, int(attributes["BitsStored"]))
    if "PixelData" not in leave_out:
        dataset.add(element("PixelData", pixel_data, "OB" if syntax in ENCODERS else "OW"))
        dataset["PixelData"].is_undefined_length = syntax in ENCODERS
    return _file(dataset, syntax)


def _pixel_bytes(cells: NDArray[Any], syntax: str, bits: int) -> bytes:
    if syntax in ENCODERS:
        return encapsulate([ENCODERS[syntax](cells, bits)])
    data = cells.astype(cells.dtype.newbyteorder(">" if syntax == BIG_ENDIAN else "<")).tobytes()
    data += b"\0" * (len(data) % 2)
    if syntax == BIG_ENDIAN and cells.itemsize == 1:  # two 8-bit pixels in one word of VR OW, PS3.5 8.1.1
        return np.frombuffer(data, ">u2").astype("<u2").tobytes()
    return data


def _file(dataset: Dataset, syntax: str) -> bytes:
    body, meta = DicomBytesIO(), DicomBytesIO()
    body.is_little_endian, body.is_implicit_VR = syntax != BIG_ENDIAN, syntax == IMPLICIT
    write_dataset(body, dataset)
    header = FileMetaDataset()
    header.TransferSyntaxUID = syntax
    write_file_meta_info(meta, header, enforce_standard=False)
    data = body.getvalue()
    if syntax == DEFLATED:
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        data = deflater.compress(data) + deflater.flush()
    return b"\0" * 128 + b"DICM" + meta.getvalue() + data


@pytest.fixture(scope="session")
def make_dicom() -> Callable[..., bytes]:
    """Return `write_dicom`, which makes the bytes of a DICOM file from cells and attributes."""
    return write_dicom


@pytest.fixture(scope="session")
def make_item() -> Callable[..., Dataset]:
    """Return `item`, which makes one item of a sequence from attributes."""
    return item


@pytest.fixture(scope="session")
def syntaxes() -> dict[str, tuple[str, ...]]:
    """The transfer syntaxes that `make_dicom` writes, by whether they keep every value."""
    return {
        "lossless": LOSSLESS,
        "lossy": LOSSY,
        "native": (IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN, RLE, ENCAPSULATED),
    }
