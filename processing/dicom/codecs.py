"""The supported transfer syntaxes, each with the one codec that decodes it (PS3.5 chapter 10 and annex A)."""

import re
from dataclasses import dataclass
from enum import StrEnum

from pydicom import config
from pydicom.uid import UID

from mammopipe.processing.errors import UnsupportedImageError


class Codec(StrEnum):
    """The codec of a transfer syntax; each transfer syntax has exactly one."""

    NATIVE = "numpy"
    RLE = "imagecodecs DICOM RLE"
    JPEG = "libjpeg-turbo (imagecodecs)"
    JPEG_LOSSLESS = "libjpeg-turbo lossless (imagecodecs)"
    JPEG_LS = "CharLS (imagecodecs)"
    JPEG_2000 = "OpenJPEG (imagecodecs)"


@dataclass(frozen=True)
class Syntax:
    """How a transfer syntax encodes the data set and its pixels."""

    name: str
    codec: Codec = Codec.NATIVE
    implicit: bool = False
    big_endian: bool = False
    deflated: bool = False
    encapsulated: bool = False
    """Whether uncompressed pixels are stored in a fragment (PS3.5 A.4.11), as compressed pixels always are."""
    lossy: bool = False
    """Whether the syntax is always lossy; for the others, `LossyImageCompression` (0028,2110) states it."""


SYNTAXES: dict[str, Syntax] = {
    "1.2.840.10008.1.2": Syntax("Implicit VR Little Endian", implicit=True),
    "1.2.840.10008.1.2.1": Syntax("Explicit VR Little Endian"),
    "1.2.840.10008.1.2.1.98": Syntax("Encapsulated Uncompressed Explicit VR Little Endian", encapsulated=True),
    "1.2.840.10008.1.2.1.99": Syntax("Deflated Explicit VR Little Endian", deflated=True),
    "1.2.840.10008.1.2.2": Syntax("Explicit VR Big Endian", big_endian=True),
    "1.2.840.10008.1.2.5": Syntax("RLE Lossless", Codec.RLE),
    "1.2.840.10008.1.2.4.50": Syntax("JPEG Baseline (Process 1)", Codec.JPEG, lossy=True),
    "1.2.840.10008.1.2.4.51": Syntax("JPEG Extended (Process 2 and 4)", Codec.JPEG, lossy=True),
    "1.2.840.10008.1.2.4.57": Syntax("JPEG Lossless (Process 14)", Codec.JPEG_LOSSLESS),
    "1.2.840.10008.1.2.4.70": Syntax("JPEG Lossless (Process 14, Selection Value 1)", Codec.JPEG_LOSSLESS),
    "1.2.840.10008.1.2.4.80": Syntax("JPEG-LS Lossless", Codec.JPEG_LS),
    "1.2.840.10008.1.2.4.81": Syntax("JPEG-LS Near-lossless", Codec.JPEG_LS, lossy=True),
    "1.2.840.10008.1.2.4.90": Syntax("JPEG 2000 Lossless", Codec.JPEG_2000),
    "1.2.840.10008.1.2.4.91": Syntax("JPEG 2000", Codec.JPEG_2000),
    "1.2.840.10008.1.2.4.201": Syntax("High-Throughput JPEG 2000 Lossless", Codec.JPEG_2000),
    "1.2.840.10008.1.2.4.202": Syntax("High-Throughput JPEG 2000 Lossless with RPCL", Codec.JPEG_2000),
    "1.2.840.10008.1.2.4.203": Syntax("High-Throughput JPEG 2000", Codec.JPEG_2000),
}


_NEWER_NAMES = {
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
    "1.2.840.10008.1.2.8.1": "Deflated Image Frame Compression",
}
"""Transfer syntaxes of PS3.6 that pydicom's dictionary does not name yet."""


def syntax_of(uid: str, where: str) -> Syntax:
    """Return the transfer syntax of `uid`; raises `UnsupportedImageError`, naming it, if it is not supported."""
    if uid not in SYNTAXES:
        # With a damaged length, this value includes bytes of the following attributes, which must not be shown.
        shown = f"{len(uid)} characters that are no UID"
        if re.fullmatch(r"[0-9.]{1,64}", uid):
            name = _NEWER_NAMES.get(uid, UID(uid, validation_mode=config.IGNORE).name)
            shown = repr(uid) if name == uid else f"{uid!r} ({name})"
        raise UnsupportedImageError(
            f"{where}: TransferSyntaxUID (0002,0010) is {shown}: no decoder for this transfer syntax"
        )
    return SYNTAXES[uid]


def default_syntax() -> Syntax:
    """Return the default transfer syntax, Implicit VR Little Endian (PS3.5 10.1), for data sets that state none."""
    return SYNTAXES["1.2.840.10008.1.2"]


@dataclass(frozen=True)
class Announced:
    """Size and depth in the header of a compressed image, read before decoding.

    A decoder allocates memory for what the codestream announces, not for what the DICOM attributes state. So both are
    compared before decoding.
    """

    rows: int
    columns: int
    components: int
    precision: int
    """Bits per sample."""
    signed: bool = False
    """Whether the samples are signed (JPEG 2000)."""
    lossy: bool = False
    """Whether the codestream is certainly lossy: an irreversible transform (JPEG 2000), a tolerance (JPEG-LS)."""
    levels: int = 0
    """Number of times the resolution can be halved in decoding (JPEG 2000 decomposition levels)."""
