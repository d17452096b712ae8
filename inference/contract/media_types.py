"""Media types of requests and answers, shared by server and client. Standard library only."""

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

CUSTOM_ATTRIBUTES_HEADER = "X-Amzn-SageMaker-Custom-Attributes"
"""The only free header that InvokeEndpoint passes to the container and back (SageMaker Runtime, `CustomAttributes`)."""


class ImageType(StrEnum):
    """The image formats of requests."""

    PGM = "image/x-portable-graymap"
    PNG = "image/png"
    DICOM = "application/dicom"


class AnswerType(StrEnum):
    """The forms of answer that a request may ask for."""

    JSON = "application/json"
    OVERLAY = "image/png"
    """The image in its original geometry with the heat in colour; for one image only."""
    DICOM = "application/dicom"
    """A structured report, a presentation state, or a secondary capture of the overlay; for DICOM images only."""
    ZIP = "application/zip"
    """All DICOM results and the JSON answer in one archive; for DICOM images only."""


def sniff(data: bytes) -> ImageType | None:
    """Return the image format that the first bytes indicate, or `None`.

    Magic numbers: `P5` of PGM, the PNG signature, `DICM` at byte 128 (DICOM PS3.10, 7.1).
    """
    if data.startswith(b"P5"):
        return ImageType.PGM
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return ImageType.PNG
    return ImageType.DICOM if data[128:132] == b"DICM" else None


ANY_TYPE = "application/octet-stream"
"""Content-Type of all bodies of a batch transform, which has one type per job; the first bytes show a body's format."""


def content_type(header: str) -> ImageType | None:
    """Return the image format in a Content-Type header, ignoring parameters; `None` for any other type."""
    name = header.split(";")[0].strip().lower()
    return ImageType(name) if name in set(ImageType) else None


def acceptable(header: str) -> AnswerType | None:
    """Return the form of answer that an Accept header prefers (RFC 9110, 12.5.1), or `None` if it allows none.

    An empty header allows all forms. Without a preference the answer is JSON.
    """
    # JSON is the first form, and only a greater weight replaces it: it wins every tie.
    best, best_weight = None, 0.0
    for form in AnswerType:
        weight = _weight(form, header) if header.strip() else 1.0
        if weight > best_weight:
            best, best_weight = form, weight
    return best


def _weight(form: AnswerType, header: str) -> float:
    """Return the weight of the most specific matching range in the header; 0 if no range matches."""
    kind = form.split("/")[0]
    ranks = {"*/*": 0, f"{kind}/*": 1, str(form): 2}
    matches = [(ranks[name], weight) for name, weight in map(_media_range, header.split(",")) if name in ranks]
    return max(matches)[1] if matches else 0.0


def _media_range(text: str) -> tuple[str, float]:
    name, *parameters = (part.strip().lower() for part in text.split(";"))
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return name, float(parameter[2:])
            except ValueError:
                return name, 0.0
    return name, 1.0


def pack_attributes(values: Mapping[str, str]) -> str:
    """Return options in the format of the custom attributes header: `name=value,name=value`."""
    return ",".join(f"{name}={value}" for name, value in values.items())


def unpack_attributes(text: str) -> list[tuple[str, str]]:
    """Return the pairs in the custom attributes header, separated by commas or semicolons.

    Raises:
        ValueError: A part has no `=`.
    """
    pairs = []
    for part in filter(None, (part.strip() for part in text.replace(";", ",").split(","))):
        name, equals, value = part.partition("=")
        if not equals:
            raise ValueError("each custom attribute must have the form name=value")
        pairs.append((name.strip(), value.strip()))
    return pairs


def error_body(code: str, message: str, detail: Mapping[str, Any] | None = None) -> bytes:
    """Return the JSON body of every error: `{"error": {"code", "message", "detail"?}}`."""
    error: dict[str, Any] = {"code": code, "message": message}
    if detail is not None:
        error["detail"] = dict(detail)
    return json.dumps({"error": error}).encode()
