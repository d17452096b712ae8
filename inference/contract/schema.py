"""The endpoint's contract as pydantic models: options and JSON body of requests, JSON of answers."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mammopipe.inference.contract.errors import BadBodyError, BadOptionError
from mammopipe.inference.contract.exclusions import Action
from mammopipe.inference.contract.media_types import unpack_attributes
from mammopipe.processing.datasets.manifest import Label, Laterality, View
from mammopipe.processing.image_flags import ImageFlag
from mammopipe.training.model.architecture import BreastRule, Level

SCHEMA_VERSION: Literal[2] = 2
NOTICE = "research use only: not for diagnosis"
Interval = tuple[float, float]
_LIKE = 0.8
"""Similarity (difflib's ratio) to an option's name above which another name counts as a misspelling."""
_SHOWN = 60
"""Most characters of a name or value that an error message repeats."""


class OperatingPoint(StrEnum):
    """The stored threshold that decides: the one chosen for sensitivity or the one chosen for specificity."""

    SENSITIVITY = "sensitivity"
    SPECIFICITY = "specificity"


class Finding(StrEnum):
    """The decision for a malignancy probability at an operating point."""

    SUSPICIOUS = "suspicious"
    NOT_SUSPICIOUS = "not_suspicious"


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
    """What an answer as `image/png` shows over the image."""

    HEAT = "heat"
    NONE = "none"
    """The image alone, as it was read: for programs that cannot display the format sent."""


class Priors(StrEnum):
    """The handling of images from an earlier study of the same patient."""

    REFUSE = "refuse"
    """The request is answered 422, `mixed_studies`."""
    IGNORE = "ignore"
    """Only the latest study is judged; the answer names the images that were skipped."""


class SkipReason(StrEnum):
    """Why a file of an exam was not judged."""

    STRUCTURED_REPORT = "structured-report"
    PRESENTATION_STATE = "presentation-state"
    DICOMDIR = "dicomdir"
    OTHER_OBJECT = "other-object"
    """A DICOM object without an image."""
    DOCUMENT = "document"
    TEXT = "text"
    PROGRAM = "program"
    PRIOR = "prior"
    """An image of an earlier study, with `priors=ignore`."""


class ReferralCode(StrEnum):
    """The reason why a case is referred to a reader."""

    UNCERTAIN = "uncertain"
    """The entropy of the class probabilities exceeds the model's stored limit."""
    OUT_OF_DISTRIBUTION = "out-of-distribution"
    """The image differs from the training images by more than the model's stored limit."""
    SEGMENTATION = "segmentation"
    """The network's input may not show the breast, or may be mirrored."""
    EXCLUDED = "excluded"
    """The model is not intended for this kind of image (`contract.exclusions`)."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RequestOptions(_Model):
    """Options of a request, in its custom attributes, its query or its JSON body; each name at most once."""

    laterality: Laterality | None = Field(
        default=None, description="side of the body, where the file does not say it; of one image"
    )
    view: View | None = Field(default=None, description="projection, where the file does not say it; of one image")
    operating_point: OperatingPoint = Field(default=OperatingPoint.SENSITIVITY, description="threshold that decides")
    heatmap: bool = Field(default=False, description="add the heatmaps to a JSON answer")
    target: Label = Field(
        default=Label.MALIGNANT,
        description="class whose evidence the heatmap and the overlay show; one of the model's: normal, benign and "
        "malignant, or negative and malignant",
    )
    result: DicomResult = Field(default=DicomResult.REPORT, description="what an answer as application/dicom is")
    overlay: OverlayLayer = Field(default=OverlayLayer.HEAT, description="what an answer as image/png shows")
    priors: Priors = Field(default=Priors.REFUSE, description="what is done with images of earlier studies; of an exam")


class ExamImage(_Model):
    """One image of an exam: its bytes or their location."""

    data: str | None = Field(default=None, description="the DICOM, PGM or PNG file, base64 (RFC 4648, section 4)")
    s3_uri: str | None = Field(
        default=None,
        description="s3://BUCKET/KEY of the file, within the prefix that the "
        "deployment allows; refused where it allows none",
    )
    laterality: Laterality | None = Field(default=None, description="side of the body; may not contradict the file")
    view: View | None = Field(default=None, description="projection; may not contradict the file")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.data is None) == (self.s3_uri is None):
            raise ValueError("exactly one of data and s3_uri is needed")
        return self


class ExamRequest(_Model):
    """The JSON body of a request: an exam of one patient."""

    images: list[ExamImage] = Field(min_length=1, description="at most as many as the deployment's max_views")
    options: RequestOptions = Field(default=RequestOptions(), description="laterality and view belong to the images")


class ModelInfo(_Model):
    """The model that answered."""

    id: str = Field(description="the model package's ARN where the deployment knows it")
    architecture: str
    weights_sha256: str
    preprocess_digest: str = Field(description="differs when any setting of the preprocessing does")


class ImageInfo(_Model):
    """Facts about the image as read; rows and columns are those of the file's image."""

    sha256: str = Field(description="of the file's bytes")
    rows: int
    columns: int
    laterality: Laterality | None
    view: View | None
    quality: dict[str, Any] = Field(description="what the segmentation measured, and the flags it raised")


class Decision(_Model):
    """The decision at an operating point: suspicious if the malignancy probability reaches the threshold."""

    operating_point: OperatingPoint
    threshold: float
    finding: Finding
    level: Level | None = Field(default=None, description="of the case, and of the validation cases below")
    n: int | None = Field(default=None, description="validation cases of this level")
    positives: int | None = Field(default=None, description="of them malignant; the sensitivity rests on these alone")
    sensitivity: float | None = Field(default=None, description="of the threshold, on this level's validation cases")
    sensitivity_interval: Interval | None = Field(default=None, description="95 %: low, high")
    specificity: float | None = Field(default=None, description="of the threshold, on this level's validation cases")
    specificity_interval: Interval | None = Field(default=None, description="95 %: low, high")
    recall_rate: float | None = Field(default=None, description="share of all validation cases called suspicious")
    recall_rate_interval: Interval | None = Field(default=None, description="95 %: low, high")
    prevalence: float | None = Field(default=None, description="share of the validation cases that are malignant")


class PrevalenceSource(StrEnum):
    """The origin of the prevalence that probabilities assume."""

    VALIDATION = "validation"
    DEPLOYMENT = "deployment"
    """The deployment states its own prevalence (`MAMMOPIPE_PREVALENCE`)."""


class Prevalence(_Model):
    """The share of malignant cases that probabilities assume; for another prevalence they must be converted."""

    value: float | None = Field(description="0 to 1; null where the model does not state it")
    of: PrevalenceSource
    level: Level


class ImageExclusion(_Model):
    """A reason why the model is not intended for an image, although the image was scored."""

    flag: ImageFlag
    action: Action
    attribute: str = Field(description="where the image says so")
    message: str


class QualityWarning(_Model):
    """A reason to trust the scores less."""

    code: str
    message: str


class Reason(_Model):
    """One reason to refer a case to a reader."""

    code: ReferralCode
    message: str


class Referral(_Model):
    """Whether a reader should judge the case, whatever the score and the decision."""

    refer: bool
    reasons: list[Reason] = Field(description="empty where refer is false")

    @model_validator(mode="after")
    def _has_reasons(self) -> Self:
        if self.refer != bool(self.reasons):
            raise ValueError("refer is true where there are reasons, and only there")
        return self


class Region(_Model):
    """A region of high heat: its box (right and bottom exclusive) and its peak, in pixels of the file's image."""

    left: int
    top: int
    right: int
    bottom: int
    peak_x: int
    peak_y: int
    strength: float = Field(description="heat at the peak, 0 to 1")


class Heatmap(_Model):
    """The evidence for a class over the file's image."""

    target: Label
    rows: int
    columns: int
    png: str = Field(description="8-bit greyscale PNG of rows x columns, 255 = most evidence, base64")
    regions: list[Region] = Field(description="where the heat reaches half of its maximum, strongest peak first")
    outside_share: float = Field(description="of the heat: lay outside of the tissue and was taken out, 0 to 1")


class _Scores(_Model):
    """The fields about one image."""

    image: ImageInfo
    probabilities: dict[Label, float] = Field(
        description="calibrated, of each of the model's classes: normal, benign and malignant, or negative and "
        "malignant; they sum to 1"
    )
    malignancy_score: float = Field(ge=0, le=100, description="100 times the calibrated probability of malignant")
    decile: int | None = Field(
        ge=1,
        le=10,
        description="of the score among those of the validation images: 10 is the "
        "most suspicious tenth; null where the model has no reference",
    )
    entropy: float = Field(
        ge=0,
        description="of the probabilities at validation's prevalence, in nats: 0 is certain, ln 3 = 1.10 undecided; "
        "ln 2 = 0.69 with two classes",
    )
    decision: Decision | None = Field(description="null where the model has no such operating point")
    referral: Referral
    flags: list[ImageFlag] = Field(default=[], description="what the image reader warns of")
    exclusions: list[ImageExclusion] = Field(default=[], description="why the model is not for this image")
    prevalence: Prevalence | None = Field(default=None, description="that the probabilities of this image hold for")
    warnings: list[QualityWarning]
    heatmap: Heatmap | None = None


class _Envelope(_Model):
    """The fields that begin every answer."""

    schema_version: Literal[2] = SCHEMA_VERSION
    request_id: str
    notice: str = NOTICE
    model: ModelInfo
    timings_ms: dict[str, float] = Field(description="milliseconds by the name of the work, over all images")


class Answer(_Scores, _Envelope):
    """The JSON answer to one image."""


class ImageAnswer(_Scores):
    """The answer for one image of an exam."""

    index: int = Field(
        ge=0,
        description="place in the request: of the JSON list, of the form's parts, or of the "
        "archive's names in sorted order; from 0",
    )


class BreastAnswer(_Model):
    """The answer for one breast, from all its views."""

    prevalence: Prevalence | None = Field(default=None, description="that the breast's probability holds for")

    laterality: Laterality | None = Field(description="null: the images whose side is not known, taken as one breast")
    images: list[int] = Field(description="indices of its views")
    rule: BreastRule = Field(description="how the scores of the views became one")
    compared: bool = Field(
        default=False,
        description="whether the breast was scored beside the other one; its score "
        "then is not that of its images, which are scored alone",
    )
    malignancy_score: float = Field(ge=0, le=100)
    decision: Decision | None = Field(description="by the model's threshold for breasts; null where it has none")
    referral: Referral = Field(description="that of any of its views")


class ExamResult(_Model):
    """The answer for the whole exam, from its most suspicious breast."""

    prevalence: Prevalence | None = Field(default=None, description="that the exam's probability holds for")

    malignancy_score: float = Field(ge=0, le=100)
    decision: Decision | None = Field(description="by the model's threshold for patients; null where it has none")
    referral: Referral = Field(description="that of any of its images")


class Skipped(_Model):
    """A file of an exam that was not judged."""

    index: int = Field(ge=0, description="its place in the request, counted as that of the images")
    place: str = Field(description="the same in words; of an archive's file with its extension, never its name")
    reason: SkipReason


class RefusedView(_Model):
    """An image of an exam that was read and not judged; it is in no score."""

    index: int = Field(ge=0, description="its place in the request, counted as that of the images")
    code: str = Field(description="the error's code that a request of this image alone has")
    message: str
    flag: ImageFlag | None = Field(default=None, description="of an image that the model is not intended for")
    laterality: Laterality | None = Field(default=None, description="of the breast that it shows, where it is known")


class ExamAnswer(_Envelope):
    """The JSON answer to an exam."""

    images: list[ImageAnswer]
    refused: list[RefusedView] = Field(default=[], description="images that are in no score; their indices lack above")
    skipped: list[Skipped] = Field(default=[], description="files that were not judged; their indices lack above")
    breasts: list[BreastAnswer] = Field(description="left before right")
    exam: ExamResult
    warnings: list[QualityWarning] = Field(description="of breasts and exam; those of an image lie there")


class ErrorInfo(_Model):
    """Why there is no answer."""

    code: str
    message: str
    detail: dict[str, Any] | None = Field(default=None, description="where in the request: image, an exam's index")


class ErrorAnswer(_Model):
    """The JSON body of every error."""

    error: ErrorInfo


def split_attributes(header: str) -> tuple[str, str]:
    """Return the options in a custom attributes header, and the caller's own value.

    AWS passes the header on unchanged as an opaque value, such as an id for tracing a request. This server reads the
    header as options if it contains the name of an option, exactly or misspelled, or if it is a list of `name=value`
    with word-like names. Options that break a rule are refused later. Any other header is the caller's own value, as is
    a list with a name such as `request_id` or `trace`. One of the two results is always "".

    Source: SageMaker Runtime API, InvokeEndpoint, CustomAttributes.
    """
    parts = [part.strip() for part in header.replace(";", ",").split(",") if part.strip()]
    names = [part.partition("=")[0].strip() for part in parts]
    known = list(RequestOptions.model_fields)
    if any(get_close_matches(name.lower(), known, 1, _LIKE) for name in names):
        return header, ""
    listed = all(re.fullmatch(r"[A-Za-z_]+=[^=]*", part) for part in parts)
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
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(map(str, problem["loc"]))[:_SHOWN]
    raise BadBodyError("bad_json", f"{place}: {problem['msg']}" if place else problem["msg"])


def _bad_option(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_context=False)[0]
    name = ".".join(map(str, problem["loc"]))[:_SHOWN]
    if problem["type"] == "extra_forbidden":
        return f"option {name!r} is unknown; the options are {', '.join(RequestOptions.model_fields)}"
    return f"option {name}={str(problem['input'])[:_SHOWN]!r}: {problem['msg']}"
