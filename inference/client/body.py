"""What the client sends: an image as it is, several as one ZIP, or as JSON where something is said of each."""

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
"""Two of the server's `ExamType`, whose module needs more than the standard library."""
SUFFIXES = {ImageType.PGM: "pgm", ImageType.PNG: "png", ImageType.DICOM: "dcm"}


@dataclass(frozen=True)
class ExamImage:
    """One image of an exam, with what its file does not say."""

    source: Source
    laterality: str | None = None
    """L or R."""
    view: str | None = None
    """CC, MLO, ..."""


@dataclass(frozen=True)
class Body:
    """The bytes of a request and their media type."""

    data: bytes
    content_type: str


def image_body(data: bytes) -> Body:
    """Return the request of one image; `RequestRefusedError` where it is of none of the types that are read."""
    return Body(data, str(_kind(data, "the image")))


def exam_body(images: Sequence[ExamImage], load: Callable[[Source], bytes], *, by_reference: bool = False) -> Body:
    """Return the request of an exam, its images loaded by `load`, in their order.

    A ZIP, whose members are named by their place (`000.dcm`, never a file's own name, which may be a patient's);
    JSON with base64, a third larger, only where a side or view is given, or where the container itself is to fetch
    the S3 objects (`by_reference`). Raises `RequestRefusedError`.
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
            # PNG is compressed already; level 1 takes most of what raw pixels have to give.
            method = zipfile.ZIP_STORED if kind is ImageType.PNG else zipfile.ZIP_DEFLATED
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
