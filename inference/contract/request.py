"""Requests of the endpoint as pydantic models: options, JSON body, and where options are read from."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from enum import StrEnum
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mammopipe.inference.contract.errors import BadBodyError, BadOptionError
from mammopipe.inference.contract.media_types import unpack_attributes
from mammopipe.processing.datasets.manifest import Label, Laterality, View

_LIKE = 0.8
"""Similarity (difflib's ratio) to an option's name above which another name counts as a misspelling."""
_LONGEST_VALUE = 24
"""Longest value of an unknown name that may be an option. Longer values are ids, such as AWS X-Ray's `Root=1-...`."""
_SHOWN = 60
"""Most characters of a name or value that an error message repeats."""


class StrictModel(BaseModel):
    """A part of a request or an answer: frozen, without unknown fields, with finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class OperatingPoint(StrEnum):
    """The stored threshold that decides: the one chosen for sensitivity or the one chosen for specificity."""

    SENSITIVITY = "sensitivity"
    SPECIFICITY = "specificity"


class DicomResult(StrEnum):
    """The kind of DICOM result in an answer as `application/dicom`."""

    REPORT = "report"
    """A structured report with the measurements (TID 1500)."""
    CAD_REPORT = "cad-sr"
    """A Mammography CAD SR (TID 4000) with the heatmap's regions, for mammography workstations."""
    PRESENTATION_STATE = "gsps"
    """A Grayscale Softcopy Presentation State with the heatmap's regions."""
    ALL = "all"
    """All results and the JSON answer in one ZIP archive, with the type `application/zip`."""
    OVERLAY = "overlay"
    """A secondary capture: the image with its heat in colour; for one image only."""


class OverlayLayer(StrEnum):
    """The layer that an answer as `image/png` shows over the image."""

    HEAT = "heat"
    NONE = "none"
    """The image alone, as it was read: for programs that cannot display the format sent."""


class Priors(StrEnum):
    """The handling of images from an earlier study of the same patient."""

    REFUSE = "refuse"
    """The request is answered 422, `mixed_studies`."""
    IGNORE = "ignore"
    """Only the latest study is judged; the answer names the images that were skipped."""


class RequestOptions(StrictModel):
    """Options of a request, in its custom attributes, its query or its JSON body; each name at most once."""

    laterality: Laterality | None = Field(
        default=None, description="laterality, if the file does not state it; for a single image only"
    )
    view: View | None = Field(default=None, description="view, if the file does not state it; for a single image only")
    operating_point: OperatingPoint = Field(default=OperatingPoint.SENSITIVITY, description="threshold that decides")
    heatmap: bool = Field(default=False, description="add the heatmaps to a JSON answer")
    target: Label = Field(
        default=Label.MALIGNANT,
        description="class whose evidence the heatmap and the overlay show; one of the model's: normal, benign and "
        "malignant, or negative and malignant",
    )
    result: DicomResult = Field(
        default=DicomResult.REPORT, description="kind of DICOM result in an answer as application/dicom"
    )
    overlay: OverlayLayer = Field(
        default=OverlayLayer.HEAT, description="layer that an answer as image/png shows over the image"
    )
    priors: Priors = Field(
        default=Priors.REFUSE, description="whether images of earlier studies are refused or ignored; for an exam only"
    )


class ExamImage(StrictModel):
    """One image of an exam: its bytes or their location."""

    data: str | None = Field(default=None, description="the DICOM, PGM or PNG file, base64 (RFC 4648, section 4)")
    s3_uri: str | None = Field(
        default=None,
        description="s3://BUCKET/KEY of the file, below the prefix that the deployment allows, if any",
    )
    laterality: Laterality | None = Field(default=None, description="laterality; may not contradict the file")
    view: View | None = Field(default=None, description="view; may not contradict the file")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.data is None) == (self.s3_uri is None):
            raise ValueError("exactly one of data and s3_uri is needed")
        return self


class ExamRequest(StrictModel):
    """The JSON body of a request: an exam of one patient."""

    images: list[ExamImage] = Field(min_length=1, description="the images, at most the deployment's max_views")
    options: RequestOptions = Field(
        default=RequestOptions(),
        description="options of the exam; laterality and view are stated for each image instead",
    )


def split_attributes(header: str) -> tuple[str, str]:
    """Return the options in a custom attributes header, and the caller's own value.

    AWS passes the header on unchanged as an opaque value, such as an id for tracing a request. This server reads the
    header as options if it contains the name of an option, exactly or misspelled, or if it is a list of `name=value`
    with word-like names and short values. Options that break a rule are refused later. Any other header is the caller's
    own value, as is a list with a name such as `request_id` or `trace`. One of the two results is always "".

    Source: SageMaker Runtime API, InvokeEndpoint, CustomAttributes.
    """
    parts = [part.strip() for part in header.replace(";", ",").split(",") if part.strip()]
    names = [part.partition("=")[0].strip() for part in parts]
    known = list(RequestOptions.model_fields)
    if any(get_close_matches(name.lower(), known, 1, _LIKE) for name in names):
        return header, ""
    listed = all(re.fullmatch(rf"[A-Za-z_]+=[^=]{{1,{_LONGEST_VALUE}}}", part) for part in parts)
    traced = any(
        re.search(r"(^|_)(id|ids|uuid|trace|request|correlation|span)(_|$)|id$", name.lower()) for name in names
    )
    return (header, "") if listed and not traced else ("", header.strip())


def read_options(attributes: str, query: Iterable[tuple[str, str]]) -> RequestOptions:
    """Return the options in the custom attributes header and in the query.

    Raises:
        BadOptionError: A name is unknown or given twice, or a value breaks its rule.
    """
    values: dict[str, str] = {}
    try:
        pairs = [*unpack_attributes(attributes), *query]
    except ValueError as error:
        raise BadOptionError("bad_option", str(error)) from None
    for name, value in pairs:
        if name in values:
            raise BadOptionError("bad_option", f"option {name[:_SHOWN]!r} is given twice")
        values[name] = value
    try:
        return RequestOptions.model_validate(values)
    except ValidationError as error:
        raise BadOptionError("bad_option", _bad_option(error)) from None


def join_options(given: RequestOptions, body: RequestOptions) -> RequestOptions:
    """Return the options of headers and query combined with those of the body.

    Raises:
        BadOptionError: An option is in both.
    """
    if twice := sorted(given.model_fields_set & body.model_fields_set):
        raise BadOptionError("bad_option", f"option {twice[0]!r} is given twice")
    return RequestOptions.model_validate(given.model_dump(exclude_unset=True) | body.model_dump(exclude_unset=True))


def read_exam(body: bytes) -> ExamRequest:
    """Return the JSON body of an exam.

    Raises:
        BadBodyError: The body breaks the schema. The message names the location and the rule, never the value.
    """
    try:
        return ExamRequest.model_validate_json(body)
    except ValidationError as error:
        # Without the input: it could be an image's data or a name.
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(map(str, problem["loc"]))[:_SHOWN]
    raise BadBodyError("bad_json", f"{place}: {problem['msg']}" if place else problem["msg"])


def _bad_option(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_context=False)[0]
    name = ".".join(map(str, problem["loc"]))[:_SHOWN]
    if problem["type"] == "extra_forbidden":
        return f"option {name!r} is unknown; the options are {', '.join(RequestOptions.model_fields)}"
    return f"option {name}={str(problem['input'])[:_SHOWN]!r}: {problem['msg']}"
