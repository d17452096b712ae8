"""Extracts the files from a request's body. Announced sizes over the limits are refused before unpacking.

    one image       the body itself
    JSON            the images in the order of the list: base64, or S3 objects (`payload.s3_objects`)
    multipart       the file parts in their order (RFC 7578)
    zip             the files in the sorted order of their full names; entries that systems add (directories, names that
                    begin with a dot, `__MACOSX`) are ignored

Files that are not images are skipped and listed in the answer (`payload.contents`). File names are not interpreted
beyond their extension and never repeated, because they may contain patients' names.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from mammopipe.inference.contract.errors import (
    BadBodyError,
    DuplicateImageError,
    RequestError,
    TooLargeError,
    UnsupportedTypeError,
)
from mammopipe.inference.contract.media_types import ImageType, sniff
from mammopipe.inference.contract.request import ExamImage, RequestOptions, read_exam
from mammopipe.inference.contract.schema import Skipped
from mammopipe.inference.contract.task import ExamType, body_type
from mammopipe.inference.payload import multipart, s3_objects, zip
from mammopipe.inference.payload.contents import named_reasons, skip_reason
from mammopipe.inference.payload.digest import Digest
from mammopipe.inference.payload.limits import HandlerLimits
from mammopipe.processing.datasets.manifest import Laterality, View

_NO_OPTIONS = RequestOptions()


@dataclass(frozen=True)
class ReceivedImage:
    """One image as sent."""

    data: bytes
    """The bytes of the file."""
    laterality: Laterality | None = None
    """Laterality in the request; it may not contradict the file."""
    view: View | None = None
    digest: Digest | None = None
    """SHA-256 of the file that is computed beside the forward pass; `None` computes it on first use."""
    index: int = 0
    """Position in the request, from 0; skipped files count."""
    extension: str = ""
    """Extension of a file from an archive, if it is a known one."""
    archived: bool = False
    """Whether the image is from an archive."""

    @property
    def place(self) -> str:
        """Location in an archive for messages, such as `file 3 (.dcm)`; "" outside archives."""
        return zip.place(self.index, self.extension) if self.archived else ""

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file, hexadecimal."""
        return self.digest.result() if self.digest is not None else hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True)
class Payload:
    """The images and options of a request's body."""

    sources: tuple[ReceivedImage, ...]
    is_exam: bool
    options: RequestOptions = RequestOptions()
    """Options in a JSON body."""
    skipped: tuple[Skipped, ...] = ()
    """Files of an exam that are not images."""


def unpack(content_type: str, body: bytes, limits: HandlerLimits) -> Payload:
    """Return the images of a body.

    Args:
        content_type: The Content-Type header.
        body: The body.
        limits: Limits on images and bytes.

    Raises:
        UnsupportedTypeError: The type is not supported, or does not match the body.
        BadBodyError: The body breaks the rules of its format.
        TooLargeError: More images or bytes than the limits allow.
        DuplicateImageError: An image is in the body twice.
        RequestError: As `mammopipe.inference.payload.s3_objects.fetch` raises.
    """
    kind = body_type(content_type)
    if kind is None:
        known = ", ".join([*ImageType, *ExamType])
        raise UnsupportedTypeError("unsupported_type", f"Content-Type must be one of {known}")
    if isinstance(kind, ImageType):
        _check_size(body, limits)
        _check_kind(body, kind)
        return Payload((ReceivedImage(body),), is_exam=False)
    if kind is ExamType.JSON:
        return _json(body, limits)
    if kind is ExamType.MULTIPART:
        parts = multipart.read(content_type, body, limits)
        return _images([ReceivedImage(data, index=index) for index, data in enumerate(parts)], limits)
    files = zip.read(body, limits)
    return _images(
        [
            ReceivedImage(file.data, index=index, extension=file.extension, archived=True)
            for index, file in enumerate(files)
        ],
        limits,
    )


def _check_size(data: bytes, limits: HandlerLimits) -> None:
    if len(data) > limits.max_bytes:
        raise TooLargeError("too_large", f"the image is over the limit of {limits.max_bytes} bytes")


def _check_kind(data: bytes, stated: ImageType) -> None:
    found = sniff(data)
    if found is not None and found is not stated:
        raise UnsupportedTypeError("content_type_mismatch", f"Content-Type says {stated}; the body begins as {found}")


def _json(body: bytes, limits: HandlerLimits) -> Payload:
    request = read_exam(body)
    if len(request.images) > limits.max_views:
        raise TooLargeError("too_many_views", f"{len(request.images)} images are over the limit of {limits.max_views}")
    return _images(list(_sources(request.images, limits)), limits, request.options)


def _sources(images: Sequence[ExamImage], limits: HandlerLimits) -> Iterator[ReceivedImage]:
    # Counted while decoding, so that a request is refused before all its images are in memory.
    room = limits.exam_bytes
    for index, image in enumerate(images):
        allowed = min(room, limits.max_bytes)
        if image.data is not None:
            data = _decode(image.data, allowed, index)
        else:
            data = _fetch(str(image.s3_uri), limits.s3_prefix, allowed, index)
        room -= len(data)
        yield ReceivedImage(data, image.laterality, image.view, index=index)


def _fetch(uri: str, prefix: str, allowed: int, index: int) -> bytes:
    try:
        return s3_objects.fetch(uri, prefix=prefix, max_bytes=allowed)
    except RequestError as error:
        raise error.at(index) from None


def _decode(text: str, allowed: int, index: int) -> bytes:
    """Return the bytes of strict base64; checks the length before decoding."""
    # Four characters encode three bytes, less one byte for each padding character.
    if len(text) // 4 * 3 - text[-2:].count("=") > allowed:
        raise TooLargeError("too_large", f"more than {allowed} bytes, the limit").at(index)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadBodyError("bad_base64", "data must be base64 (RFC 4648, section 4)").at(index) from None


def _images(files: Sequence[ReceivedImage], limits: HandlerLimits, options: RequestOptions = _NO_OPTIONS) -> Payload:
    """Return the images among an exam's files, and the skipped files.

    Raises:
        DuplicateImageError: A file is in the exam twice.
        TooLargeError: More images than the limit allows.
        BadBodyError: There is no image.
    """
    sources, skipped, seen = [], [], set()
    for source in files:
        reason = skip_reason(source.data, archived=source.archived, extension=source.extension)
        if reason is not None:
            skipped.append(Skipped(index=source.index, place=source.place or f"image {source.index}", reason=reason))
            continue
        if source.sha256 in seen:
            raise DuplicateImageError("duplicate_image", "the same file as an earlier image").at(
                source.index, source.place
            )
        seen.add(source.sha256)
        sources.append(source)
    if len(sources) > limits.max_views:
        raise TooLargeError("too_many_views", f"{len(sources)} images are over the limit of {limits.max_views}")
    if not sources:
        of_skipped = f"; skipped files: {named_reasons(skipped)}" if skipped else ""
        raise BadBodyError("no_images", f"an exam needs at least one image{of_skipped}")
    return Payload(tuple(sources), is_exam=True, options=options, skipped=tuple(skipped))
