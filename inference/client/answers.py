"""The endpoint's answers as frozen dataclasses, read from JSON of schema version 2. Needs the standard library only."""

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
"""The schema version that this client reads."""


class Finding(StrEnum):
    """The decision at an operating point."""

    SUSPICIOUS = "suspicious"
    NOT_SUSPICIOUS = "not_suspicious"


@dataclass(frozen=True)
class Decision:
    """The decision at an operating point, with the operating point's performance in validation."""

    operating_point: str
    threshold: float
    """Threshold on the calibrated probability of malignant, 0 to 1."""
    finding: Finding
    sensitivity: float | None
    """Sensitivity of the threshold on the validation cases of the same level (images, breasts or patients)."""
    specificity: float | None
    sensitivity_interval: Interval | None = None
    """95 % interval (low, high). It rests on the malignant validation cases alone, which may be few."""
    specificity_interval: Interval | None = None
    recall_rate: float | None = None
    """Share of all validation cases that are suspicious at this threshold."""
    recall_rate_interval: Interval | None = None
    n: int | None = None
    """Number of validation cases of this level."""
    positives: int | None = None
    """Number of malignant validation cases of this level."""
    prevalence: float | None = None
    """Share of the validation cases that are malignant."""

    @classmethod
    def from_json(cls, values: Json | None) -> "Decision | None":
        """Return the decision, or `None` if the model has no operating points."""
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
    """The share of malignant cases that a probability assumes; the probability is valid only at this prevalence."""

    value: float | None
    """0 to 1; `None` if the model does not state it."""
    of: str
    """`validation`, or `deployment` if the deployment states its own prevalence."""
    level: str
    """`image`, `breast` or `patient`."""

    @classmethod
    def from_json(cls, values: Json | None) -> "Prevalence | None":
        """Return the typed form, or `None` if the answer does not state the prevalence."""
        return None if values is None else cls(values["value"], str(values["of"]), str(values["level"]))


@dataclass(frozen=True)
class Exclusion:
    """A reason why the model is not intended for an image, although it scored the image."""

    flag: str
    action: str
    """`refer` if a reader must judge the image, `warn` otherwise."""
    message: str

    @classmethod
    def from_json(cls, values: Json) -> "Exclusion":
        """Return the typed form."""
        return cls(str(values["flag"]), str(values["action"]), str(values["message"]))


@dataclass(frozen=True)
class Reason:
    """A reason to trust a score less or not at all: a code for programs and a sentence for people."""

    code: str
    message: str

    @classmethod
    def all_of(cls, values: list[Json]) -> "tuple[Reason, ...]":
        """Return the typed form of a list of `{"code", "message"}` objects."""
        return tuple(cls(str(item["code"]), str(item["message"])) for item in values)


QualityWarning = Reason


@dataclass(frozen=True)
class Referral:
    """Whether the model abstains: if `refer` is true, a reader must judge, whatever the score and decision."""

    refer: bool
    reasons: tuple[Reason, ...]

    @classmethod
    def from_json(cls, values: Json) -> "Referral":
        """Return the typed form."""
        return cls(bool(values["refer"]), Reason.all_of(values["reasons"]))


@dataclass(frozen=True)
class Region:
    """A region of high heat in the heatmap, in pixels of the image sent; `right` and `bottom` are exclusive."""

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
    """The endpoint's answer for one image."""

    probabilities: Mapping[str, float]
    """Calibrated probability of each class (normal, benign, malignant; or negative, malignant); they sum to 1."""
    malignancy_score: float
    """0 to 100."""
    decile: int | None
    """Decile of the score among the validation images, 1 to 10; `None` if the model has no reference."""
    entropy: float
    """Entropy of the probabilities in nats: 0 is certain, ln 3 is fully uncertain among three classes."""
    decision: Decision | None
    """`None` if the model has no operating points."""
    referral: Referral
    warnings: tuple[Reason, ...]
    laterality: str | None
    """L or R, from the file or the request; if inferred from the image, a warning says so."""
    view: str | None
    regions: tuple[Region, ...] = ()
    """Regions of the heatmap, strongest first; empty unless the request asked for a heatmap."""
    heatmap_png: bytes | None = field(default=None, repr=False)
    """8-bit greyscale PNG of the image's size; `None` unless the request asked for a heatmap."""
    index: int = 0
    """Position of the image in the request, from 0."""
    flags: tuple[str, ...] = ()
    """Warnings of the image reader, such as `implant` or `lossy`."""
    exclusions: tuple[Exclusion, ...] = ()
    """Reasons why the model is not intended for this image."""
    prevalence: Prevalence | None = None
    """Prevalence that the probabilities assume."""

    @classmethod
    def from_json(cls, values: Json) -> "ImageAnswer":
        """Return the typed form of one image of an exam.

        Raises:
            EndpointFaultError: A field is missing or malformed.
        """
        return reading(lambda: cls(**_image_fields(values)))


@dataclass(frozen=True)
class Answer(ImageAnswer):
    """The answer to a request of one image. Research use only: not for diagnosis."""

    model: str = ""
    """Id of the model that answered."""
    request_id: str = ""
    """Id of the request in the server's log."""
    raw: Json = field(default_factory=dict, repr=False)
    """The whole JSON answer."""

    @classmethod
    def from_json(cls, values: Json) -> "Answer":
        """Return the typed form of a JSON answer.

        Raises:
            EndpointFaultError: The schema version is unknown, or a field is missing or malformed.
        """
        check_version(values)
        return reading(lambda: cls(**_image_fields(values), **request_fields(values)))


def check_version(values: Any) -> None:
    """Raise `EndpointFaultError` unless the answer has the schema version that this client reads."""
    version = values.get("schema_version") if isinstance(values, Mapping) else None
    if version != SCHEMA_VERSION:
        raise EndpointFaultError("unknown_schema", f"schema_version={version!r}; this client reads {SCHEMA_VERSION}")


def request_fields(values: Json) -> dict[str, Any]:
    """Return the fields of an answer that concern the request and the model."""
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


def reading(make: Callable[[], T]) -> T:
    """Return the result of `make`; turn errors of a malformed answer into `EndpointFaultError`."""
    try:
        return make()
    except KeyError as missing:
        raise EndpointFaultError("unreadable_answer", f"the answer has no {missing.args[0]!r}") from None
    except (TypeError, AttributeError, ValueError, binascii.Error) as error:
        raise EndpointFaultError("unreadable_answer", f"the answer breaks its schema: {error}") from None
