"""What the endpoint says, as frozen types: standard library only, made from the JSON of schema version 2."""

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from mammopipe.inference.client.errors import EndpointFaultError

T = TypeVar("T")
Json = Mapping[str, Any]
Interval = tuple[float, float]
_RATES = ("sensitivity", "specificity", "recall_rate")

SCHEMA_VERSION = 2
"""The version of the answers that this client reads."""


class Finding(StrEnum):
    """What an operating point says."""

    SUSPICIOUS = "suspicious"
    NOT_SUSPICIOUS = "not_suspicious"


@dataclass(frozen=True)
class Decision:
    """What the operating point says, and what it is worth."""

    operating_point: str
    threshold: float
    """On the calibrated probability of malignant, 0 to 1."""
    finding: Finding
    sensitivity: float | None
    """Of the threshold on the validation data of the same level: images, breasts or patients."""
    specificity: float | None
    sensitivity_interval: Interval | None = None
    """95 %: low and high; of the malignant validation cases alone, of which there may be few."""
    specificity_interval: Interval | None = None
    recall_rate: float | None = None
    """Share of all validation cases that the threshold calls suspicious."""
    recall_rate_interval: Interval | None = None
    n: int | None = None
    """Validation cases of the level."""
    positives: int | None = None
    """Of them malignant."""
    prevalence: float | None = None
    """Share of the validation cases that are malignant."""

    @classmethod
    def from_json(cls, values: Json | None) -> "Decision | None":
        """Return the decision, or `None` where the model has no operating points."""
        if values is None:
            return None
        return cls(
            str(values["operating_point"]),
            values["threshold"],
            Finding(values["finding"]),
            values.get("sensitivity"),
            values.get("specificity"),
            **{f"{rate}_interval": _interval(values.get(f"{rate}_interval")) for rate in _RATES},
            recall_rate=values.get("recall_rate"),
            n=values.get("n"),
            positives=values.get("positives"),
            prevalence=values.get("prevalence"),
        )


def _interval(values: Any) -> Interval | None:
    return None if values is None else (float(values[0]), float(values[1]))


@dataclass(frozen=True)
class Prevalence:
    """The share of malignant cases for which a probability holds; where it is another, the probability is another."""

    value: float | None
    """0 to 1; `None` where the model does not state it."""
    of: str
    """`validation`, or `deployment` where the deployment states its own."""
    level: str
    """image, breast or patient."""

    @classmethod
    def from_json(cls, values: Json | None) -> "Prevalence | None":
        """Return the typed form; `None` of an answer that does not say it."""
        return None if values is None else cls(values["value"], str(values["of"]), str(values["level"]))


@dataclass(frozen=True)
class Exclusion:
    """Why the model is not for an image that it scored all the same."""

    flag: str
    action: str
    """`refer` where a reader must judge, `warn` otherwise."""
    message: str

    @classmethod
    def from_json(cls, values: Json) -> "Exclusion":
        """Return the typed form."""
        return cls(str(values["flag"]), str(values["action"]), str(values["message"]))


@dataclass(frozen=True)
class Reason:
    """Why a score deserves less trust, or none: a code for programs and a sentence for people."""

    code: str
    message: str

    @classmethod
    def all_of(cls, values: list[Json]) -> "tuple[Reason, ...]":
        """Return a list of `{"code", "message"}`."""
        return tuple(cls(str(item["code"]), str(item["message"])) for item in values)


QualityWarning = Reason


@dataclass(frozen=True)
class Referral:
    """Whether the model abstains: where `refer` is true a reader must judge, whatever scores and decision say."""

    refer: bool
    reasons: tuple[Reason, ...]

    @classmethod
    def from_json(cls, values: Json) -> "Referral":
        """Return the typed form."""
        return cls(bool(values["refer"]), Reason.all_of(values["reasons"]))


@dataclass(frozen=True)
class Region:
    """A warm area of the heatmap, in pixels of the image that was sent; right and bottom are exclusive."""

    left: int
    top: int
    right: int
    bottom: int
    peak_x: int
    peak_y: int
    strength: float
    """Heat at the peak, 0 to 1."""

    @classmethod
    def from_json(cls, values: Json) -> "Region":
        """Return the typed form."""
        left, top, right, bottom = (int(values[name]) for name in ("left", "top", "right", "bottom"))
        return cls(left, top, right, bottom, int(values["peak_x"]), int(values["peak_y"]), float(values["strength"]))


@dataclass(frozen=True)
class ImageAnswer:
    """What the endpoint says of one image."""

    probabilities: Mapping[str, float]
    """Calibrated, by class: normal, benign, malignant; they sum to 1."""
    malignancy_score: float
    """0 to 100."""
    decile: int | None
    """1 to 10, where the score lies among those of the validation images; `None` for a model without reference."""
    entropy: float
    """Of the probabilities, in nats: 0 is certain, ln 3 is ignorant."""
    decision: Decision | None
    """`None` where the model has no operating points."""
    referral: Referral
    warnings: tuple[Reason, ...]
    laterality: str | None
    """L or R: as the file or the request says, or as found in the image (then a warning says so)."""
    view: str | None
    regions: tuple[Region, ...] = ()
    """Where the evidence lies, strongest first; empty unless a heatmap was asked for."""
    heatmap_png: bytes | None = field(default=None, repr=False)
    """8-bit greyscale PNG of the image's size, where a heatmap was asked for."""
    index: int = 0
    """The image's place in the request."""
    flags: tuple[str, ...] = ()
    """What the image reader warns of, such as `implant` or `lossy`."""
    exclusions: tuple[Exclusion, ...] = ()
    """Why the model is not for this image."""
    prevalence: Prevalence | None = None
    """For which the probabilities hold."""

    @classmethod
    def from_json(cls, values: Json) -> "ImageAnswer":
        """Return the typed form of one image of an exam; `EndpointFaultError` where a part of it is missing."""
        return _reading(lambda: cls(**_image_fields(values)))


@dataclass(frozen=True)
class Answer(ImageAnswer):
    """The answer to a request of one image. Research use only: not for diagnosis."""

    model: str = ""
    """Id of the model that answered."""
    request_id: str = ""
    """Under which the server's log has the request."""
    raw: Json = field(default_factory=dict, repr=False)
    """The whole JSON answer."""

    @classmethod
    def from_json(cls, values: Json) -> "Answer":
        """Return the typed form of a JSON answer; `EndpointFaultError` where it is of an unknown schema."""
        _check_version(values)
        return _reading(lambda: cls(**_image_fields(values), **_request_fields(values)))


@dataclass(frozen=True)
class ExamScore:
    """What the endpoint says of a whole exam: the rule of the model's training, at the level of patients."""

    malignancy_score: float
    """0 to 100."""
    decision: Decision | None
    referral: Referral
    prevalence: Prevalence | None = None
    """For which the score, a probability, holds."""

    @classmethod
    def from_json(cls, values: Json) -> "ExamScore":
        """Return the typed form."""
        decision, prevalence = Decision.from_json(values["decision"]), Prevalence.from_json(values.get("prevalence"))
        return cls(values["malignancy_score"], decision, Referral.from_json(values["referral"]), prevalence)


@dataclass(frozen=True)
class BreastAnswer:
    """What the endpoint says of one breast, from its views."""

    laterality: str | None
    """L or R; `None` for images whose side nobody knows."""
    images: tuple[int, ...]
    """The places of its images in the request."""
    rule: str
    """How the scores of the views became one: mean, max or noisy-or."""
    malignancy_score: float
    """0 to 100."""
    decision: Decision | None
    referral: Referral
    compared: bool = False
    """Whether the breast was scored beside the other one, which its images never are."""
    prevalence: Prevalence | None = None
    """For which the score, a probability, holds."""

    @classmethod
    def from_json(cls, values: Json) -> "BreastAnswer":
        """Return the typed form."""
        return cls(
            values["laterality"],
            tuple(values["images"]),
            str(values["rule"]),
            values["malignancy_score"],
            Decision.from_json(values["decision"]),
            Referral.from_json(values["referral"]),
            bool(values.get("compared", False)),
            Prevalence.from_json(values.get("prevalence")),
        )


@dataclass(frozen=True)
class ExamAnswer:
    """The answer to a request of several images. Research use only: not for diagnosis."""

    images: tuple[ImageAnswer, ...]
    """In the order of the request."""
    breasts: tuple[BreastAnswer, ...]
    exam: ExamScore
    warnings: tuple[Reason, ...]
    """Of breasts and exam; those of an image are its own."""
    model: str
    """Id of the model that answered."""
    request_id: str
    """Under which the server's log has the request."""
    raw: Json = field(default_factory=dict, repr=False)
    """The whole JSON answer."""

    @classmethod
    def from_json(cls, values: Json) -> "ExamAnswer":
        """Return the typed form of a JSON answer; `EndpointFaultError` where it is of an unknown schema."""
        _check_version(values)
        return _reading(
            lambda: cls(
                images=tuple(ImageAnswer.from_json(image) for image in values["images"]),
                breasts=tuple(BreastAnswer.from_json(breast) for breast in values["breasts"]),
                exam=ExamScore.from_json(values["exam"]),
                warnings=Reason.all_of(values["warnings"]),
                **_request_fields(values),
            )
        )


def _check_version(values: Any) -> None:
    version = values.get("schema_version") if isinstance(values, Mapping) else None
    if version != SCHEMA_VERSION:
        raise EndpointFaultError("unknown_schema", f"schema_version={version!r}; this client reads {SCHEMA_VERSION}")


def _request_fields(values: Json) -> dict[str, Any]:
    return {"model": str(values["model"]["id"]), "request_id": str(values["request_id"]), "raw": values}


def _image_fields(values: Json) -> dict[str, Any]:
    image, heatmap = values["image"], values.get("heatmap")
    return {
        "probabilities": values["probabilities"],
        "malignancy_score": values["malignancy_score"],
        "decile": values["decile"],
        "entropy": values["entropy"],
        "decision": Decision.from_json(values["decision"]),
        "referral": Referral.from_json(values["referral"]),
        "warnings": Reason.all_of(values["warnings"]),
        "laterality": image.get("laterality"),
        "view": image.get("view"),
        "regions": tuple(Region.from_json(region) for region in heatmap["regions"]) if heatmap else (),
        "heatmap_png": base64.b64decode(heatmap["png"], validate=True) if heatmap else None,
        "index": int(values.get("index", 0)),
        "flags": tuple(map(str, values.get("flags", []))),
        "exclusions": tuple(map(Exclusion.from_json, values.get("exclusions", []))),
        "prevalence": Prevalence.from_json(values.get("prevalence")),
    }


def _reading(make: Callable[[], T]) -> T:
    """Return what `make` makes of an answer, or raise `EndpointFaultError` naming what the answer lacks."""
    try:
        return make()
    except KeyError as missing:
        raise EndpointFaultError("unreadable_answer", f"the answer has no {missing.args[0]!r}") from None
    except (TypeError, AttributeError, ValueError, binascii.Error) as error:
        raise EndpointFaultError("unreadable_answer", f"the answer breaks its schema: {error}") from None
