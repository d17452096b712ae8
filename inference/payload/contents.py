"""Selects the images among an exam's files; other files that a PACS adds are skipped, and the answer names them.

A study exported as a whole includes structured reports, presentation states, a DICOMDIR, texts and a viewer. None of
them is an image of a breast, and none is a reason to refuse the images. A file that could be an image counts as one, so
that a damaged image is refused and never skipped.

Source: PS3.4 B.5 (storage SOP classes), PS3.3 F (DICOMDIR).
"""

from collections.abc import Mapping
from io import BytesIO

from pydicom.filereader import read_partial

from mammopipe.inference.contract.media_types import sniff
from mammopipe.inference.contract.schema import SkipReason
from mammopipe.inference.payload import zip
from mammopipe.processing.dicom.file import is_dicom

SOP_CLASS_UID = 0x00080016
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
_TEXT_BYTES = 4096
"""Bytes at the start of a file that are checked for text."""
_PRINTED = frozenset(b"\t\n\r\f") | frozenset(range(0x20, 0x7F)) | frozenset(range(0x80, 0x100))


def skip_reason(data: bytes, *, archived: bool = False, extension: str = "") -> SkipReason | None:
    """Return why a file of an exam is skipped, or `None` if it is an image or may be a damaged one.

    Args:
        data: The bytes of the file.
        archived: Whether the file is from an archive. Texts, documents and programs are skipped only in archives.
        extension: Extension of the file's name (`zip.extension`).
    """
    if is_dicom(data):
        return _of_object(_sop_class(data))
    if not archived or sniff(data) is not None or extension in zip.IMAGE_EXTENSIONS:
        return None
    if extension in zip.DOCUMENT_EXTENSIONS or data.startswith(b"%PDF"):
        return SkipReason.DOCUMENT
    if extension in zip.PROGRAM_EXTENSIONS or data.startswith((b"MZ", b"\x7fELF")):
        return SkipReason.PROGRAM
    if extension in zip.TEXT_EXTENSIONS or _is_text(data[:_TEXT_BYTES]):
        return SkipReason.TEXT
    return None


def _of_object(sop_class: str) -> SkipReason | None:
    while sop_class:
        if sop_class in _OBJECTS:
            return _OBJECTS[sop_class]
        sop_class = sop_class.rpartition(".")[0]
    return None


def _sop_class(data: bytes) -> str:
    """Return the SOP Class UID; "" if it cannot be read, because the image reader then reports the error."""
    try:
        found = read_partial(
            BytesIO(data),
            stop_when=lambda tag, vr, length: tag > SOP_CLASS_UID,
            specific_tags=[SOP_CLASS_UID],
            force=True,
        )
        meta = found.file_meta.get("MediaStorageSOPClassUID") or ""
        return str(found.get("SOPClassUID") or meta).strip(" \0")
    except Exception:  # pydicom may raise any error on bad input; the reader then refuses the file with a reason
        return ""


def _is_text(start: bytes) -> bool:
    """Return whether the bytes are printable text other than the header of a PGM file."""
    return bool(start) and set(start) <= _PRINTED and not (start[:1] == b"P" and start[1:2].isdigit())
