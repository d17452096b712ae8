"""Reads the files of a ZIP archive in memory; nothing is written to disk.

A ZIP bomb is refused before unpacking, by the sizes that the archive announces; unpacking stops at these sizes.

Source: APPNOTE.TXT 6.3.10 (PKWARE), 4.3.16 for the end of central directory record.
"""

import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePosixPath

from mammopipe.inference.contract.errors import BadBodyError, TooLargeError
from mammopipe.inference.payload.limits import HandlerLimits

_END = b"PK\x05\x06"
_END_SIZE = 22
_LARGEST_COMMENT = 65_535
_ZIP64_LOCATOR, _ZIP64_LOCATOR_SIZE = b"PK\x06\x07", 20
_DIRECTORY_BYTES = 2**20
"""Most bytes of the central directory; listing one with a million names takes a gigabyte."""
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1
_FAULTS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, RuntimeError, OverflowError)
"""Errors that `zipfile` raises for damaged archives; `NotImplementedError` is a `RuntimeError`."""

IMAGE_EXTENSIONS = (".dcm", ".dic", ".dicom", ".ima", ".pgm", ".png")
PROGRAM_EXTENSIONS = (
    *(".exe", ".dll", ".jar", ".app", ".bat", ".cmd", ".sh", ".com", ".msi", ".ico", ".gif", ".svg"),
    *(".css", ".js", ".class", ".ttf", ".so", ".dylib", ".cfg", ".ini", ".inf", ".cab", ".lib", ".mp4", ".avi", ".wav"),
)
DOCUMENT_EXTENSIONS = (
    *(".pdf", ".doc", ".docx", ".xls", ".xlsx", ".ppt", ".pptx", ".rtf", ".odt"),
    *(".htm", ".html", ".xml", ".json", ".csv"),
)
TEXT_EXTENSIONS = (".txt", ".md", ".log", ".nfo")
_KNOWN_SUFFIXES = {
    *IMAGE_EXTENSIONS,
    *PROGRAM_EXTENSIONS,
    *DOCUMENT_EXTENSIONS,
    *TEXT_EXTENSIONS,
    *(".jpg", ".jpeg", ".jp2", ".tif", ".tiff", ".bmp", ".zip", ".gz", ".7z", ".rar", ".tar", ".bz2", ".xz"),
    *(".bin", ".dat", ".db", ".idx", ".img", ".raw", ".tmp", ".bak", ".lnk", ".chm", ".iso", ".sig", ".p7s"),
}


def extension(name: str) -> str:
    """Return a name's extension if it is a known one, else "". In `ANNA.MUELLER` the text after the dot is personal."""
    suffix = PurePosixPath(name).suffix.lower()
    return suffix if suffix in _KNOWN_SUFFIXES else ""


def place(index: int, suffix: str) -> str:
    """Return how messages refer to a file of an archive: by its position and extension, never by its name."""
    return f"file {index} ({suffix})" if suffix else f"file {index}"


@dataclass(frozen=True)
class ArchiveFile:
    """One file of an archive, without its name, which may contain a patient's name."""

    data: bytes
    extension: str
    """Extension in lower case with the dot, if it is a known one; "" otherwise."""


def read(body: bytes, limits: HandlerLimits) -> list[ArchiveFile]:
    """Return the archive's files in the sorted order of their names.

    Args:
        body: The archive.
        limits: Limits on files and bytes.

    Raises:
        BadBodyError: The body is not a plain archive, is encrypted, names a file twice or a path outside the archive,
            or uses a compression other than deflate.
        TooLargeError: The archive announces more files or bytes than the limits allow; raised before unpacking.
    """
    _check_directory(body)
    try:
        with zipfile.ZipFile(BytesIO(body)) as archive:
            entries = _entries(archive.infolist(), limits)
            return [ArchiveFile(_unpack(archive, entry), extension(entry.filename)) for entry in entries]
    except _FAULTS:
        raise BadBodyError("bad_zip", "the archive is damaged") from None


def _check_directory(body: bytes) -> None:
    """Refuse an archive without one complete end record, and a central directory that is too long to list."""
    # The end record has a comment of at most 65,535 bytes behind it, so it lies within this distance from the end.
    at = body.rfind(_END, max(0, len(body) - _END_SIZE - _LARGEST_COMMENT))
    if at < 0 or len(body) - at < _END_SIZE:
        raise BadBodyError("bad_zip", "no end of central directory: not a whole zip archive")
    size, _, comment = struct.unpack_from("<LLH", body, at + 12)
    # Two programs could otherwise read two different archives from the same bytes.
    if at + _END_SIZE + comment != len(body):
        raise BadBodyError("bad_zip", "bytes follow the end of the archive")
    before = max(0, at - _ZIP64_LOCATOR_SIZE)
    if body[before : before + 4] == _ZIP64_LOCATOR:
        raise BadBodyError("bad_zip", "zip64 is not supported: no exam is that large")
    if size > _DIRECTORY_BYTES:
        raise TooLargeError(
            "too_many_views", f"the archive's table of contents has {size} bytes; the limit is {_DIRECTORY_BYTES}"
        )


def _entries(infos: Sequence[zipfile.ZipInfo], limits: HandlerLimits) -> list[zipfile.ZipInfo]:
    """Return the entries that are files, sorted by name, after checking what they announce against the rules."""
    _check_names([info.filename for info in infos])
    entries = sorted((info for info in infos if not _is_ignored(info)), key=lambda info: info.filename)
    if len(entries) > limits.max_files:
        raise TooLargeError("too_many_views", f"{len(entries)} files are over the limit of {limits.max_files}")
    for index, info in enumerate(entries):
        where = place(index, extension(info.filename))
        if info.flag_bits & _ENCRYPTED:
            raise BadBodyError("bad_zip", "the file is encrypted").at(index, where)
        if info.compress_type not in _METHODS:
            raise BadBodyError("bad_zip", f"compression method {info.compress_type}; only deflate is read").at(
                index, where
            )
        if info.file_size > limits.max_bytes:
            raise TooLargeError("too_large", f"{info.file_size} bytes are over the limit of {limits.max_bytes}").at(
                index, where
            )
    if (total := sum(info.file_size for info in entries)) > limits.exam_bytes:
        raise TooLargeError("too_large", f"{total} bytes unpacked are over the limit of {limits.exam_bytes}")
    return entries


def _check_names(names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        raise BadBodyError("bad_zip", "the archive names a file twice")
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
            raise BadBodyError("bad_zip", "the archive names a path outside itself")


def _is_ignored(info: zipfile.ZipInfo) -> bool:
    parts = PurePosixPath(info.filename).parts
    return info.is_dir() or any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Return an entry's bytes; `zipfile` stops at the announced size, and the checksum reveals hidden data."""
    with archive.open(info) as stream:
        data = stream.read(info.file_size + 1)
    if len(data) != info.file_size:
        raise BadBodyError("bad_zip", "a file does not have the size that the archive announces")
    return data
