"""Request bodies of the client: one image as its file, several as a ZIP archive, or as JSON with a side or view."""

import base64
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mammopipe.inference.client.errors import RequestRefusedError
from mammopipe.inference.contract.media_types import ImageType, sniff

Source = Path | str | bytes
"""A path, an `s3://` URI, or the bytes of a PGM, PNG or DICOM file."""
ZIP_TYPE, JSON_TYPE = "application/zip", "application/json"
"""Copies of two values of the server's `ExamType`, whose module needs more than the standard library."""
SUFFIXES = {ImageType.PGM: "pgm", ImageType.PNG: "png", ImageType.DICOM: "dcm"}


@dataclass(frozen=True)
class ExamImage:
    """One image of an exam, with the laterality and view that its file does not state."""

    source: Source
    laterality: str | None = None
    """L or R; `None` if the file states it."""
    view: str | None = None
    """CC, MLO, ...; `None` if the file states it."""


@dataclass(frozen=True)
class Body:
    """The bytes of a request and their media type."""

    data: bytes
    content_type: str


def image_body(data: bytes) -> Body:
    """Return the body of a request of one image; raises `RequestRefusedError` for an unknown file type."""
    return Body(data, str(_kind(data, "the image")))


def exam_body(images: Sequence[ExamImage], load: Callable[[Source], bytes], *, by_reference: bool = False) -> Body:
    """Return the body of an exam request, with the images in the given order.

    The body is a ZIP archive. Its members are named by position (`000.dcm`), because a file's own name may identify a
    patient. The body is JSON with base64, which is a third larger, only if an image has a laterality or view, or if
    the container fetches the S3 objects itself.

    Args:
        images: The images of the exam.
        load: Returns the bytes of an image.
        by_reference: Whether the container fetches S3 objects itself.

    Raises:
        RequestRefusedError: An image cannot be sent.
    """
    if not images:
        raise RequestRefusedError("no_images", "an exam needs at least one image")
    referred = by_reference and any(_is_s3(image.source) for image in images)
    if referred or any(image.laterality or image.view for image in images):
        return _json_body(images, load, by_reference)
    return _zip_body([load(image.source) for image in images])


def _zip_body(files: Sequence[bytes]) -> Body:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for index, data in enumerate(files):
            kind = _kind(data, f"image {index}")
            # PNG is compressed already; level 1 achieves most of the compression of raw pixels.
            method = zipfile.ZIP_STORED if kind is ImageType.PNG else zipfile.ZIP_DEFLATED
            # `ZipInfo` has a fixed date, so that the same exam is always sent as the same bytes.
            member = zipfile.ZipInfo(f"{index:03d}.{SUFFIXES[kind]}")
            archive.writestr(member, data, compress_type=method, compresslevel=1)
    return Body(packed.getvalue(), ZIP_TYPE)


def _json_body(images: Sequence[ExamImage], load: Callable[[Source], bytes], by_reference: bool) -> Body:
    entries = []
    for index, image in enumerate(images):
        entry = {"laterality": image.laterality, "view": image.view}
        if by_reference and _is_s3(image.source):
            entry["s3_uri"] = str(image.source)
        else:
            data = load(image.source)
            _kind(data, f"image {index}")
            entry["data"] = base64.b64encode(data).decode()
        entries.append({name: value for name, value in entry.items() if value is not None})
    return Body(json.dumps({"images": entries}).encode(), JSON_TYPE)


def _is_s3(source: Source) -> bool:
    return isinstance(source, str) and source.startswith("s3://")


def _kind(data: bytes, name: str) -> ImageType:
    kind = sniff(data)
    if kind is None:
        raise RequestRefusedError("unsupported_type", f"{name} is none of {', '.join(ImageType)}")
    return kind
