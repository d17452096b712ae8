"""From the body of a request to the files in it; what it announces is refused before it is unpacked.

    one image       the body itself
    JSON            the images in the order of the list: base64, or S3 objects
    (`mammopipe.inference.payload.s3_objects`) multipart       the file parts in their order (RFC 7578)
    zip             the files in the sorted order of their names, folders included; what systems add (directories, names
                    that begin with a dot, `__MACOSX`) is passed over

A file's name says nothing here, and nothing repeats it: people call files after patients.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from mammopipe.inference.contract.errors import (
    BadBodyError,
    RequestError,
    TooLargeError,
    UnsupportedTypeError,
    UnusableImageError,
    from_image_error,
)
from mammopipe.inference.contract.media_types import ImageType, sniff
from mammopipe.inference.contract.schema import ExamImage, RequestOptions, read_exam
from mammopipe.inference.contract.task import ExamType, body_type
from mammopipe.inference.payload import multipart, s3_objects, zip
from mammopipe.inference.payload.limits import HandlerLimits
from mammopipe.processing.datasets.manifest import Laterality, View
from mammopipe.processing.dicom.file import is_dicom, parse
from mammopipe.processing.errors import ImageError
from mammopipe.processing.read_config import Limits

_PATIENT_ID = 0x00100020


@dataclass(frozen=True)
class Source:
    """One image as it was sent."""

    data: bytes
    """The file."""
    laterality: Laterality | None = None
    """What the request says of it; may not contradict the file."""
    view: View | None = None
    digest: str = ""
    """SHA-256 of the file in hexadecimal, where it is known already; empty: it is made when it is asked for."""

    @cached_property
    def sha256(self) -> str:
        """Of the file, hexadecimal."""
        return self.digest or hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True)
class Parcel:
    """The content of a body."""

    sources: tuple[Source, ...]
    is_exam: bool
    options: RequestOptions = RequestOptions()
    """Those of a JSON body."""


def unpack(content_type: str, body: bytes, limits: HandlerLimits) -> Parcel:
    """Return the images of a body.

    Raises `UnsupportedTypeError` for a type that is not read or that the body contradicts, `BadBodyError` for a body
    that breaks its format's rules, `TooLargeError` for more images or bytes than the limits allow, `UnusableImageError`
    for an image that is there twice, and what `mammopipe.inference.payload.s3_objects` raises.
    """
    kind = body_type(content_type)
    if kind is None:
        known = ", ".join([*ImageType, *ExamType])
        raise UnsupportedTypeError("unsupported_type", f"Content-Type must be one of {known}")
    if isinstance(kind, ImageType):
        _check_size(body, limits)
        _check_kind(body, kind)
        return Parcel((Source(body),), is_exam=False)
    if kind is ExamType.JSON:
        return _json(body, limits)
    files = zip.read(body, limits) if kind is ExamType.ZIP else multipart.read(content_type, body, limits)
    return Parcel(_distinct([Source(data) for data in files]), is_exam=True)


def _check_size(data: bytes, limits: HandlerLimits) -> None:
    if len(data) > limits.max_bytes:
        raise TooLargeError("too_large", f"the image is over the limit of {limits.max_bytes} bytes")


def _check_kind(data: bytes, told: ImageType) -> None:
    found = sniff(data)
    if found is not None and found is not told:
        raise UnsupportedTypeError("content_type_mismatch", f"Content-Type says {told}; the body begins as {found}")


def _json(body: bytes, limits: HandlerLimits) -> Parcel:
    request = read_exam(body)
    if len(request.images) > limits.max_views:
        raise TooLargeError("too_many_views", f"{len(request.images)} images are over the limit of {limits.max_views}")
    sources = _distinct(list(_sources(request.images, limits)))
    return Parcel(sources, is_exam=True, options=request.options)


def _sources(images: Sequence[ExamImage], limits: HandlerLimits) -> Iterator[Source]:
    room = limits.exam_bytes
    for index, image in enumerate(images):
        allowed = min(room, limits.max_bytes)
        if image.data is not None:
            data = _decode(image.data, allowed, index)
        else:
            data = _fetch(str(image.s3_uri), limits.s3_prefix, allowed, index)
        room -= len(data)
        yield Source(data, image.laterality, image.view)


def _fetch(uri: str, prefix: str, allowed: int, index: int) -> bytes:
    try:
        return s3_objects.fetch(uri, prefix=prefix, max_bytes=allowed)
    except RequestError as error:
        raise error.at(index) from None


def _decode(text: str, allowed: int, index: int) -> bytes:
    """Return the bytes of strict base64, whose length is known before it is decoded."""
    if len(text) // 4 * 3 - text[-2:].count("=") > allowed:
        raise TooLargeError("too_large", f"more than {allowed} bytes, the limit").at(index)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadBodyError("bad_base64", "data must be base64 (RFC 4648, section 4)").at(index) from None


def _distinct(sources: Sequence[Source]) -> tuple[Source, ...]:
    """Return the images; `UnusableImageError` where one is there twice: its breast would be weighed twice."""
    seen: dict[str, int] = {}
    for index, source in enumerate(sources):
        first = seen.setdefault(source.sha256, index)
        if first != index:
            raise UnusableImageError("duplicate_image", f"the same file as image {first}").at(index)
    if not sources:
        raise BadBodyError("no_images", "an exam needs at least one image")
    return tuple(sources)


def check_one_patient(sources: Sequence[Source], limits: Limits) -> None:
    """Raise `UnusableImageError`, without naming either, where DICOM files state different Patient IDs (0010,0020).

    Files that state none, and PGM and PNG, are taken as the same patient's: their sender says so.
    """
    first = b""
    for index, source in enumerate(sources):
        found = _patient(source.data, limits, index)
        first = first or found
        if found and found != first:
            raise UnusableImageError(
                "mixed_patients", "the DICOM files state different Patient IDs (0010,0020); an exam is one patient's"
            ).at(index)


def _patient(data: bytes, limits: Limits, index: int) -> bytes:
    if not is_dicom(data):
        return b""
    try:
        return parse(data, where="<bytes>", limits=limits, tags=(_PATIENT_ID,)).tags.data(_PATIENT_ID).strip(b" \0")
    except ImageError as error:
        raise from_image_error(error).at(index) from None
