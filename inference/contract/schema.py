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
    """A file of unknown type. It may be an image that is damaged beyond recognition, so the exam is referred."""
    PRIOR = "prior"
    """An image of an earlier study, with `priors=ignore`."""


class ReferralCode(StrEnum):
    """The kind of reason for which a case is referred to a reader."""

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

    id: str = Field(description="id of the model, such as its model package's ARN")
    architecture: str
    weights_sha256: str
    preprocess_digest: str = Field(description="digest of the preprocessing settings")


class ImageInfo(StrictModel):
    """Facts about the image as read; rows and columns are those of the file's image."""

    sha256: str = Field(description="SHA-256 of the file, hexadecimal")
    rows: int
    columns: int
    laterality: Laterality | None
    view: View | None
    quality: dict[str, Any] = Field(description="measurements and flags of the segmentation")


class Decision(StrictModel):
    """The decision at an operating point: suspicious if the malignancy probability reaches the threshold."""

    operating_point: OperatingPoint
    threshold: float
    finding: Finding
    level: Level | None = Field(default=None, description="level of the case and of the validation cases")
    n: int | None = Field(default=None, description="number of validation cases of this level")
    positives: int | None = Field(
        default=None, description="number of malignant validation cases; the sensitivity is measured on these only"
    )
    sensitivity: float | None = Field(default=None, description="on the validation cases of this level")
    sensitivity_interval: Interval | None = Field(default=None, description="95 % interval: low, high")
    specificity: float | None = Field(default=None, description="on the validation cases of this level")
    specificity_interval: Interval | None = Field(default=None, description="95 % interval: low, high")
    recall_rate: float | None = Field(default=None, description="share of all validation cases that are suspicious")
    recall_rate_interval: Interval | None = Field(default=None, description="95 % interval: low, high")
    prevalence: float | None = Field(default=None, description="share of the validation cases that are malignant")


class PrevalenceSource(StrEnum):
    """The origin of the prevalence that probabilities assume."""

    VALIDATION = "validation"
    DEPLOYMENT = "deployment"
    """The deployment states its own prevalence (`MAMMOPIPE_PREVALENCE`)."""


class Prevalence(StrictModel):
    """The share of malignant cases that probabilities assume; for another prevalence they must be converted."""

    value: float | None = Field(description="0 to 1; null if the model does not state it")
    of: PrevalenceSource
    level: Level


class ImageExclusion(StrictModel):
    """A reason why the model is not intended for an image, although the image was scored."""

    flag: ImageFlag
    action: Action
    attribute: str = Field(description="attributes that state it")
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
    reasons: list[Reason] = Field(description="empty if refer is false")

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
    regions: list[Region] = Field(
        description="areas where the heat is at least half of its maximum, strongest peak first"
    )
    outside_share: float = Field(description="share of the heat outside the tissue before it was removed, 0 to 1")


class _Scores(StrictModel):
    """The fields about one image."""

    image: ImageInfo
    probabilities: dict[Label, float] = Field(
        description="calibrated probability of each class: normal, benign and malignant, or negative and malignant; "
        "they sum to 1"
    )
    malignancy_score: float = Field(ge=0, le=100, description="100 times the calibrated probability of malignant")
    decile: int | None = Field(
        ge=1,
        le=10,
        description="decile of the score among the validation images: 10 is the most suspicious tenth; null if the "
        "model has no reference data",
    )
    entropy: float = Field(
        ge=0,
        description="entropy of the probabilities at validation's prevalence, in nats: 0 is certain, ln 3 = 1.10 is "
        "fully uncertain among three classes, ln 2 = 0.69 among two",
    )
    decision: Decision | None = Field(description="null if the model does not have the operating point")
    referral: Referral
    flags: list[ImageFlag] = Field(default=[], description="warnings of the image reader")
    exclusions: list[ImageExclusion] = Field(
        default=[], description="reasons why the model is not intended for this image"
    )
    prevalence: Prevalence | None = Field(default=None, description="prevalence that the probabilities assume")
    warnings: list[QualityWarning]
    heatmap: Heatmap | None = None


class _Envelope(StrictModel):
    """The fields that begin every answer."""

    schema_version: Literal[2] = SCHEMA_VERSION
    request_id: str
    notice: str = NOTICE
    model: ModelInfo
    timings_ms: dict[str, float] = Field(description="milliseconds of each step, summed over all images")


class Answer(_Scores, _Envelope):
    """The JSON answer to one image."""


class ImageAnswer(_Scores):
    """The answer for one image of an exam."""

    index: int = Field(
        ge=0,
        description="position in the request, from 0: in the JSON list, among the form's parts, or among the archive's "
        "sorted names",
    )


class ViewsRule(StrEnum):
    """The rule that combines a breast's views into its score."""

    MEAN = "mean"
    MAX = "max"
    NOISY_OR = "noisy-or"
    ATTENTION = "attention"
    """The network itself judges all views at once."""


class BreastAnswer(StrictModel):
    """The answer for one breast, from all its views.

    Its score ranks breasts, and its decision follows from the score. Its probability is calibrated.
    """

    prevalence: Prevalence | None = Field(default=None, description="that the breast's score and probability assume")

    laterality: Laterality | None = Field(
        description="null for the images of unknown laterality, which are treated as one breast"
    )
    images: list[int] = Field(description="indices of the breast's images")
    rule: ViewsRule = Field(
        description="rule that combines the scores of the views; attention: the model judges all views at once"
    )
    compared: bool = Field(
        default=False,
        description="whether the breast was scored beside the other one; its images are always scored alone",
    )
    malignancy_score: float = Field(ge=0, le=100)
    probability: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="calibrated, that the breast has a cancer; null where the model has no map for breasts: model.json "
        "has the reason",
    )
    decision: Decision | None = Field(description="by the model's threshold for breasts; null if it has none")
    referral: Referral = Field(description="one referred view refers the breast")


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
    decision: Decision | None = Field(description="by the model's threshold for patients; null if it has none")
    referral: Referral = Field(description="one referred image refers the exam")


class Skipped(StrictModel):
    """A file of an exam that was not judged."""

    index: int = Field(ge=0, description="position in the request, counted together with the images")
    place: str = Field(
        description="the position in words; for a file of an archive with the extension, never with the name"
    )
    reason: SkipReason


class RefusedView(StrictModel):
    """An image of an exam that was read and not judged; it is in no score."""

    index: int = Field(ge=0, description="position in the request, counted together with the images")
    code: str = Field(description="error code of a request with this image alone")
    message: str
    flag: ImageFlag | None = Field(default=None, description="flag of an image that the model is not intended for")
    laterality: Laterality | None = Field(default=None, description="laterality of the image, if known")


class ExamAnswer(_Envelope):
    """The JSON answer to an exam."""

    images: list[ImageAnswer]
    refused: list[RefusedView] = Field(
        default=[], description="images in no score; their indices are absent from images"
    )
    skipped: list[Skipped] = Field(
        default=[], description="files that were not judged; their indices are absent from images"
    )
    breasts: list[BreastAnswer] = Field(description="left before right")
    exam: ExamResult
    warnings: list[QualityWarning] = Field(description="warnings about breasts and the exam; each image has its own")


class ErrorInfo(StrictModel):
    """Why there is no answer."""

    code: str
    message: str
    detail: dict[str, Any] | None = Field(
        default=None, description="location in the request: `image` is the index of an exam's image"
    )


class ErrorAnswer(StrictModel):
    """The JSON body of every error."""

    error: ErrorInfo
