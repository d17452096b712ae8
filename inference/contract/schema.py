"""The endpoint's answers as pydantic models."""

from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from mammopipe.inference.contract.exclusions import Action
from mammopipe.inference.contract.request import OperatingPoint, StrictModel
from mammopipe.processing.datasets.manifest import Label, Laterality, View
from mammopipe.processing.image_flags import ImageFlag
from mammopipe.training.model.architecture import Level

SCHEMA_VERSION: Literal[2] = 2
NOTICE = "research use only: not for diagnosis"
Interval = tuple[float, float]


class Finding(StrEnum):
    """The decision for a malignancy probability at an operating point."""

    SUSPICIOUS = "suspicious"
    NOT_SUSPICIOUS = "not_suspicious"


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
    PICTURE = "picture"
    """A picture of a format that is not read, such as JPEG, or an icon."""
    ARCHIVE = "archive"
    """An archive inside the archive; its files are not read."""
    UNKNOWN = "unknown"
    """A file in which nothing shows its kind. It may be an image that is damaged beyond recognition: the exam is
    referred."""
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


class ModelInfo(StrictModel):
    """The model that answered."""

    id: str = Field(description="the model package's ARN where the deployment knows it")
    architecture: str
    weights_sha256: str
    preprocess_digest: str = Field(description="differs when any setting of the preprocessing does")


class ImageInfo(StrictModel):
    """Facts about the image as read; rows and columns are those of the file's image."""

    sha256: str = Field(description="of the file's bytes")
    rows: int
    columns: int
    laterality: Laterality | None
    view: View | None
    quality: dict[str, Any] = Field(description="what the segmentation measured, and the flags it raised")


class Decision(StrictModel):
    """The decision at an operating point: suspicious if the malignancy probability reaches the threshold."""

    operating_point: OperatingPoint
    threshold: float
    finding: Finding
    level: Level | None = Field(default=None, description="of the case, and of the validation cases below")
    n: int | None = Field(default=None, description="validation cases of this level")
    positives: int | None = Field(
        default=None, description="malignant ones among them; the sensitivity is measured on these only"
    )
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


class Prevalence(StrictModel):
    """The share of malignant cases that probabilities assume; for another prevalence they must be converted."""

    value: float | None = Field(description="0 to 1; null where the model does not state it")
    of: PrevalenceSource
    level: Level


class ImageExclusion(StrictModel):
    """A reason why the model is not intended for an image, although the image was scored."""

    flag: ImageFlag
    action: Action
    attribute: str = Field(description="where the image says so")
    message: str


class QualityWarning(StrictModel):
    """A reason to trust the scores less."""

    code: str
    message: str


class Reason(StrictModel):
    """One reason to refer a case to a reader."""

    code: ReferralCode
    message: str


class Referral(StrictModel):
    """Whether a reader should judge the case, whatever the score and the decision."""

    refer: bool
    reasons: list[Reason] = Field(description="empty where refer is false")

    @model_validator(mode="after")
    def _has_reasons(self) -> Self:
        if self.refer != bool(self.reasons):
            raise ValueError("refer must be true exactly if there are reasons")
        return self


class Region(StrictModel):
    """A region of high heat: its box (right and bottom exclusive) and its peak, in pixels of the file's image."""

    left: int
    top: int
    right: int
    bottom: int
    peak_x: int
    peak_y: int
    strength: float = Field(description="heat at the peak, 0 to 1")


class Heatmap(StrictModel):
    """The evidence for a class over the file's image."""

    target: Label
    rows: int
    columns: int
    png: str = Field(description="8-bit greyscale PNG of rows x columns, 255 = most evidence, base64")
    regions: list[Region] = Field(description="where the heat reaches half of its maximum, strongest peak first")
    outside_share: float = Field(description="of the heat: lay outside of the tissue and was taken out, 0 to 1")


class _Scores(StrictModel):
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


class _Envelope(StrictModel):
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


class ViewsRule(StrEnum):
    """How the views of a breast become its score."""

    MEAN = "mean"
    MAX = "max"
    NOISY_OR = "noisy-or"
    ATTENTION = "attention"
    """By the network itself, from all views at once."""


class BreastAnswer(StrictModel):
    """The answer for one breast, from all its views.

    Its score ranks breasts, and its decision follows from the score. Its probability is calibrated.
    """

    prevalence: Prevalence | None = Field(default=None, description="that the breast's score and probability assume")

    laterality: Laterality | None = Field(description="null: the images whose side is not known, taken as one breast")
    images: list[int] = Field(description="indices of its views")
    rule: ViewsRule = Field(
        description="how the scores of the views became one; attention: the model judged all views at once"
    )
    compared: bool = Field(
        default=False,
        description="whether the breast was scored beside the other one; its score "
        "then is not that of its images, which are scored alone",
    )
    malignancy_score: float = Field(ge=0, le=100)
    probability: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="calibrated, that the breast has a cancer; null where the model has no map for breasts: model.json "
        "has the reason",
    )
    decision: Decision | None = Field(description="by the model's threshold for breasts; null where it has none")
    referral: Referral = Field(description="that of any of its views")


class ExamResult(StrictModel):
    """The answer for the whole exam, from its most suspicious breast.

    Its score ranks women, and its decision follows from the score. Its probability is calibrated.
    """

    prevalence: Prevalence | None = Field(default=None, description="that the exam's score and probability assume")

    malignancy_score: float = Field(ge=0, le=100)
    probability: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="calibrated, that the woman has a cancer; null where the model has no map for patients: model.json "
        "has the reason",
    )
    decision: Decision | None = Field(description="by the model's threshold for patients; null where it has none")
    referral: Referral = Field(description="that of any of its images")


class Skipped(StrictModel):
    """A file of an exam that was not judged."""

    index: int = Field(ge=0, description="its place in the request, counted as that of the images")
    place: str = Field(description="the same in words; of an archive's file with its extension, never its name")
    reason: SkipReason


class RefusedView(StrictModel):
    """An image of an exam that was read and not judged; it is in no score."""

    index: int = Field(ge=0, description="its place in the request, counted as that of the images")
    code: str = Field(description="the error's code that a request of this image alone has")
    message: str
    flag: ImageFlag | None = Field(default=None, description="of an image that the model is not intended for")
    laterality: Laterality | None = Field(default=None, description="of the breast that it shows, where it is known")


class ExamAnswer(_Envelope):
    """The JSON answer to an exam."""

    images: list[ImageAnswer]
    refused: list[RefusedView] = Field(
        default=[], description="images that are in no score; their indices are missing above"
    )
    skipped: list[Skipped] = Field(
        default=[], description="files that were not judged; their indices are missing above"
    )
    breasts: list[BreastAnswer] = Field(description="left before right")
    exam: ExamResult
    warnings: list[QualityWarning] = Field(description="of breasts and exam; those of an image lie there")


class ErrorInfo(StrictModel):
    """Why there is no answer."""

    code: str
    message: str
    detail: dict[str, Any] | None = Field(default=None, description="where in the request: image, an exam's index")


class ErrorAnswer(StrictModel):
    """The JSON body of every error."""

    error: ErrorInfo
