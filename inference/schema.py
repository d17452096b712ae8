"""The endpoint's contract as pydantic models: the options of a request and the versioned JSON of an answer."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from inference.errors import BadOptionError
from inference.media import unpack_attributes
from processing.records import Label, Laterality, View

SCHEMA_VERSION: Literal[1] = 1
NOTICE = "research use only: not for diagnosis"


class OperatingPoint(StrEnum):
    """Which of the model's stored thresholds decides: the one that holds sensitivity, or specificity."""

    SENSITIVITY = "sensitivity"
    SPECIFICITY = "specificity"


class Finding(StrEnum):
    """What an operating point says of a malignancy probability."""

    SUSPICIOUS = "suspicious"
    NOT_SUSPICIOUS = "not_suspicious"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RequestOptions(_Model):
    """What a request may ask for, in its custom attributes or its query; each name at most once."""

    laterality: Laterality | None = Field(None, description="side of the body, where the file does not say it")
    view: View | None = Field(None, description="projection, where the file does not say it")
    operating_point: OperatingPoint = Field(OperatingPoint.SENSITIVITY, description="threshold that decides")
    heatmap: bool = Field(False, description="add the heatmap to a JSON answer")
    target: Label = Field(Label.MALIGNANT, description="class whose evidence the heatmap and the overlay show")


class ModelInfo(_Model):
    """Which model answered."""

    id: str
    architecture: str
    weights_sha256: str
    preprocess_digest: str


class ImageInfo(_Model):
    """What was read: rows and columns are those of the file's image."""

    sha256: str
    rows: int
    columns: int
    laterality: Laterality | None
    view: View | None
    quality: dict[str, Any]


class Decision(_Model):
    """What an operating point says: suspicious where the malignancy probability reaches the threshold."""

    operating_point: OperatingPoint
    threshold: float
    finding: Finding
    sensitivity: float | None = Field(None, description="of the threshold, on the validation images")
    specificity: float | None = Field(None, description="of the threshold, on the validation images")


class QualityWarning(_Model):
    """A reason to trust the scores less."""

    code: str
    message: str


class Region(_Model):
    """Where the heatmap is warm: a box (right and bottom exclusive) and its peak, in pixels of the file's image."""

    left: int
    top: int
    right: int
    bottom: int
    peak_x: int
    peak_y: int
    strength: float = Field(description="heat at the peak, 0 to 1")


class Heatmap(_Model):
    """Where the evidence for a class lies, over the file's image."""

    target: Label
    rows: int
    columns: int
    png: str = Field(description="8-bit greyscale PNG of rows x columns, 255 = most evidence, base64")
    regions: list[Region] = Field(description="where the heat reaches half of its maximum, strongest peak first")
    outside_share: float = Field(description="of the heat: lay outside of the tissue and was taken out, 0 to 1")


class Answer(_Model):
    """The JSON answer to one image."""

    schema_version: Literal[1] = SCHEMA_VERSION
    request_id: str
    notice: str = NOTICE
    model: ModelInfo
    image: ImageInfo
    probabilities: dict[Label, float] = Field(description="calibrated; they sum to 1")
    malignancy_score: float = Field(ge=0, le=100, description="100 times the calibrated probability of malignant")
    decision: Decision | None = Field(description="null where the model has no operating points")
    warnings: list[QualityWarning]
    heatmap: Heatmap | None = None
    timings_ms: dict[str, float]


def read_options(attributes: str, query: Iterable[tuple[str, str]]) -> RequestOptions:
    """Return the options in the custom attributes header and in the query.

    Raises `BadOptionError` for an unknown name, one that is given twice, or a value that breaks its rule.
    """
    values: dict[str, str] = {}
    try:
        pairs = [*unpack_attributes(attributes), *query]
    except ValueError as error:
        raise BadOptionError("bad_option", str(error)) from None
    for name, value in pairs:
        if name in values:
            raise BadOptionError("bad_option", f"option {name!r} is given twice")
        values[name] = value
    try:
        return RequestOptions.model_validate(values)
    except ValidationError as error:
        raise BadOptionError("bad_option", _first_problem(error)) from None


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_context=False)[0]
    name = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        return f"option {name!r} is unknown; the options are {', '.join(RequestOptions.model_fields)}"
    return f"option {name}={problem['input']!r}: {problem['msg']}"
