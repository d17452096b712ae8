"""Selects the images among an exam's files; other files that a PACS adds are skipped, and the answer names them.

A study exported as a whole includes structured reports, presentation states, a DICOMDIR, texts, previews and a viewer.
None of them is an image of a breast, and none is a reason to refuse the images. A file that could be an image counts as
one, so that a damaged image is refused and never skipped. A file in which nothing shows its kind is skipped as
`unknown`; the exam is then referred to a reader, because the file may be an image that is damaged beyond recognition.

Source: PS3.4 B.5 (storage SOP classes), PS3.6 A (names of SOP classes), PS3.3 F (DICOMDIR).
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from io import BytesIO

from pydicom import config
from pydicom.filereader import read_partial
from pydicom.uid import UID

from mammopipe.inference.contract.media_types import sniff
from mammopipe.inference.contract.schema import Skipped, SkipReason
from mammopipe.inference.payload import zip
from mammopipe.processing.dicom.file import is_dicom

SOP_CLASS_UID, ROWS = 0x00080016, 0x00280010
_STORAGE = "1.2.840.10008.5.1.4.1.1."
_OBJECTS: Mapping[str, SkipReason] = {
    "1.2.840.10008.1.3.10": SkipReason.DICOMDIR,
    f"{_STORAGE}88": SkipReason.STRUCTURED_REPORT,
    f"{_STORAGE}11": SkipReason.PRESENTATION_STATE,
    f"{_STORAGE}104": SkipReason.DOCUMENT,
    **dict.fromkeys(
        (
            *(
                f"{_STORAGE}{number}"
                for number in ("9", "66", "67", "68", "77.1.5", "78", "79", "80", "81", "90", "91")
            ),
            *(f"{_STORAGE}481.{number}" for number in ("3", "4", "5", "6", "7", "8", "9")),
            *("1.2.840.10008.5.1.4.34", "1.2.840.10008.5.1.4.38", "1.2.840.10008.5.1.4.39"),
        ),
        SkipReason.OTHER_OBJECT,
    ),
}
"""SOP classes, and UID prefixes of groups of SOP classes, whose objects hold no image."""
_SIGNATURES: Mapping[bytes, SkipReason] = {
    b"%PDF": SkipReason.DOCUMENT,
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": SkipReason.DOCUMENT,  # Thumbs.db and documents of older offices
    b"MZ": SkipReason.PROGRAM,
    b"\x7fELF": SkipReason.PROGRAM,
    b"ITSF": SkipReason.PROGRAM,  # help of a Windows program
    b"wOFF": SkipReason.PROGRAM,
    b"wOF2": SkipReason.PROGRAM,
    b"\0\1\0\0\0": SkipReason.PROGRAM,  # TrueType font
    b"\xca\xfe\xba\xbe": SkipReason.PROGRAM,  # Java class, and a program of macOS, as the next two
    b"\xcf\xfa\xed\xfe": SkipReason.PROGRAM,
    b"\xce\xfa\xed\xfe": SkipReason.PROGRAM,
    b"!<arch>\n": SkipReason.PROGRAM,
    b"SQLite format 3\0": SkipReason.PROGRAM,  # database of a viewer
    b"RIFF": SkipReason.PROGRAM,
    b"L\0\0\0\1\x14\2\0": SkipReason.PROGRAM,  # shortcut of Windows
    b"PK\x03\x04": SkipReason.ARCHIVE,
    b"PK\x05\x06": SkipReason.ARCHIVE,
    b"7z\xbc\xaf\x27\x1c": SkipReason.ARCHIVE,
    b"Rar!": SkipReason.ARCHIVE,
    b"MSCF": SkipReason.ARCHIVE,
    b"\x1f\x8b": SkipReason.ARCHIVE,
    b"BZh": SkipReason.ARCHIVE,
    b"\xfd7zXZ\0": SkipReason.ARCHIVE,
    b"\x28\xb5\x2f\xfd": SkipReason.ARCHIVE,
    b"\xff\xd8\xff": SkipReason.PICTURE,
    b"\0\0\0\x0cjP  ": SkipReason.PICTURE,
    b"\xff\x4f\xff\x51": SkipReason.PICTURE,
    b"II*\0": SkipReason.PICTURE,
    b"MM\0*": SkipReason.PICTURE,
    b"GIF8": SkipReason.PICTURE,
    b"BM": SkipReason.PICTURE,
    b"\0\0\1\0": SkipReason.PICTURE,  # ICO
}
"""First bytes of files that cannot be one of the endpoint's images, whatever their name says."""
_ICON_SIDE = 128
"""Most pixels along each side of a PNG that is an icon or a preview."""
_TEXT_BYTES = 4096
"""Bytes at the start of a file that are checked for text."""
_UID_ROOT = b"1.2.840.10008."
"""Start of the UIDs of the DICOM standard; the header of every DICOM image has some."""
_PIXEL_DATA = re.compile(rb"\xe0\x7f\x10\0O[BW]|\x7f\xe0\0\x10O[BW]", re.DOTALL)
_ELEMENT = re.compile(
    rb"(?:[\x02\x08\x10\x18\x20\x28]\0..|\0[\x02\x08\x10\x18\x20\x28]..)(?:A[EST]|CS|D[AST]|I[S]|L[OT]|PN|S[HQST]|U[ILS]|TM)",
    re.DOTALL,
)
"""Tag and VR of an element of a mammogram's header in explicit VR, of either byte order (PS3.5 7.1.2)."""
_HEADER_BYTES, _LEAST_ELEMENTS = 65_536, 3
"""Bytes that are searched for elements, and how many show a header; random bytes have three once in 10^8 files."""
_PREAMBLE = 128
_PNG_CHUNKS = (b"IHDR", b"IEND\xaeB`\x82")
_PRINTED = frozenset(b"\t\n\r\f") | frozenset(range(0x20, 0x7F)) | frozenset(range(0x80, 0x100))


def skip_reason(data: bytes, *, archived: bool = False, extension: str = "") -> SkipReason | None:
    """Return why a file of an exam is skipped, or `None` if it is an image or may be a damaged one.

    Args:
        data: The bytes of the file.
        archived: Whether the file is from an archive. Texts, documents and programs are skipped only in archives.
        extension: Extension of the file's name (`zip.extension`).
    """
    if is_dicom(data):
        return _of_object(data)
    if not archived:
        return None
    if sniff(data) is not None:
        return SkipReason.PICTURE if _is_icon(data) else None
    if extension in zip.IMAGE_EXTENSIONS:
        return None
    named = SkipReason.DOCUMENT if extension in zip.DOCUMENT_EXTENSIONS else None
    named = SkipReason.PROGRAM if extension in zip.PROGRAM_EXTENSIONS else named
    reason = next((reason for start, reason in _SIGNATURES.items() if data.startswith(start)), None)
    if reason is not None:  # spreadsheets and Java programs are ZIP archives
        return named if named is not None and reason is SkipReason.ARCHIVE else reason
    if not _is_text(data[:_TEXT_BYTES]) and may_be_image(data):
        return None
    if named is not None:
        return named
    if extension in zip.TEXT_EXTENSIONS or _is_text(data[:_TEXT_BYTES]):
        return SkipReason.TEXT
    return SkipReason.UNKNOWN


def may_be_image(data: bytes) -> bool:
    """Return whether bytes of no known format may be a damaged DICOM, PNG or PGM image.

    Signs of DICOM are its magic number at another place, a preamble of zeros, a UID of the standard, elements of a
    header in explicit VR, and the element Pixel Data.
    """
    start = data[:_HEADER_BYTES]
    return bool(data) and (
        not any(data[:_PREAMBLE])
        or b"DICM" in data[: 8 * _PREAMBLE]
        or _UID_ROOT in data
        or _PIXEL_DATA.search(data) is not None
        or len(_ELEMENT.findall(start)) >= _LEAST_ELEMENTS
        or (data[:1] == b"P" and data[1:2].isdigit())
        or _PNG_CHUNKS[0] in data[:_PREAMBLE]
        or _PNG_CHUNKS[1] in data[-_PREAMBLE:]
    )


def named_reasons(skipped: Iterable[Skipped]) -> str:
    """Return how many files were skipped for each reason, such as `1 dicomdir, 2 text`."""
    counts = Counter(str(each.reason) for each in skipped)
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))


def _is_icon(data: bytes) -> bool:
    """Return whether the bytes are a PNG that is too small for a mammogram: the icons and previews of a viewer."""
    columns, rows = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    return data.startswith(b"\x89PNG") and len(data) >= 24 and max(rows, columns) <= _ICON_SIDE


def _of_object(data: bytes) -> SkipReason | None:
    """Return why a DICOM object is skipped.

    Classes of the standard without images are known by their names. A manufacturer's own class is one without images
    if the object states no rows: some modalities store raw data beside their images.
    """
    sop_class, rows = _class_and_rows(data)
    group = sop_class
    while group:
        if group in _OBJECTS:
            return _OBJECTS[group]
        group = group.rpartition(".")[0]
    # A manufacturer's UID may break the rules of PS3.5; without IGNORE, pydicom may warn or raise.
    known = UID(sop_class, validation_mode=config.IGNORE)
    if not known.type:
        return SkipReason.OTHER_OBJECT if sop_class and rows is None else None
    return SkipReason.OTHER_OBJECT if known.type == "SOP Class" and "Image" not in known.name else None


def _class_and_rows(data: bytes) -> tuple[str, int | None]:
    """Return the SOP Class UID and the rows; "" if they cannot be read, because the reader then reports the error."""
    try:
        found = read_partial(
            BytesIO(data),
            stop_when=lambda tag, vr, length: tag > ROWS,
            specific_tags=[SOP_CLASS_UID, ROWS],
            force=True,
        )
        meta = found.file_meta.get("MediaStorageSOPClassUID") or ""
        return str(found.get("SOPClassUID") or meta).strip(" \0"), found.get("Rows")
    except Exception:  # pydicom may raise any error on bad input; the reader then refuses the file with a reason
        return "", None


def _is_text(start: bytes) -> bool:
    """Return whether the bytes are printable text, or none, other than the header of a PGM file."""
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = start[: len(start) // 2 * 2].decode("utf-16", "replace")
        return all(sign.isprintable() or sign.isspace() for sign in text)
    return set(start) <= _PRINTED and not (start[:1] == b"P" and start[1:2].isdigit())
