"""The endpoint's answer to an exam as frozen dataclasses. Needs the standard library only."""

from dataclasses import dataclass, field

from mammopipe.inference.client.answers import (
    Decision,
    ImageAnswer,
    Json,
    Prevalence,
    Reason,
    Referral,
    check_version,
    reading,
    request_fields,
)


@dataclass(frozen=True)
class ExamScore:
    """The endpoint's answer for a whole exam, at the level of the patient."""

    malignancy_score: float
    """0 to 100."""
    decision: Decision | None
    referral: Referral
    prevalence: Prevalence | None = None
    """Prevalence that score and probability assume."""
    probability: float | None = None
    """Calibrated probability that the woman has a cancer, 0 to 1; `None` if the model cannot give it."""

    @classmethod
    def from_json(cls, values: Json) -> "ExamScore":
        """Return the typed form."""
        return cls(
            values["malignancy_score"],
            Decision.from_json(values["decision"]),
            Referral.from_json(values["referral"]),
            Prevalence.from_json(values.get("prevalence")),
            values.get("probability"),
        )


@dataclass(frozen=True)
class BreastAnswer:
    """The endpoint's answer for one breast, from all its views."""

    laterality: str | None
    """L or R; `None` for images whose laterality is unknown."""
    images: tuple[int, ...]
    """Positions of its images in the request, from 0."""
    rule: str
    """Rule that combines the scores of the views: mean, max or noisy-or, or attention, by the network itself."""
    malignancy_score: float
    """0 to 100."""
    decision: Decision | None
    referral: Referral
    compared: bool = False
    """Whether the breast was scored in comparison with the other breast. The scores of its images never are."""
    prevalence: Prevalence | None = None
    """Prevalence that score and probability assume."""
    probability: float | None = None
    """Calibrated probability that the breast has a cancer, 0 to 1; `None` if the model cannot give it."""

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
            values.get("probability"),
        )


@dataclass(frozen=True)
class RefusedView:
    """An image of an exam that is in no score."""

    index: int
    """Position of the image in the request, from 0."""
    code: str
    """Code of the error that a request of this image alone has."""
    message: str
    flag: str | None = None
    """Flag of an image that the model is not intended for."""
    laterality: str | None = None
    """L or R, if known."""

    @classmethod
    def from_json(cls, values: Json) -> "RefusedView":
        """Return the typed form."""
        optional = (values.get("flag"), values.get("laterality"))
        return cls(int(values["index"]), str(values["code"]), str(values["message"]), *optional)


@dataclass(frozen=True)
class ExamAnswer:
    """The answer to a request of several images. Research use only: not for diagnosis."""

    images: tuple[ImageAnswer, ...]
    """In the order of the request."""
    breasts: tuple[BreastAnswer, ...]
    exam: ExamScore
    warnings: tuple[Reason, ...]
    """Warnings about breasts and exam; each image holds its own warnings."""
    model: str
    """Id of the model that answered."""
    request_id: str
    """Id of the request in the server's log."""
    refused: tuple[RefusedView, ...] = ()
    """Images in no score: they do not show one whole breast, or the model is not intended for them."""
    raw: Json = field(default_factory=dict, repr=False)
    """The whole JSON answer."""

    @classmethod
    def from_json(cls, values: Json) -> "ExamAnswer":
        """Return the typed form of a JSON answer.

        Raises:
            EndpointFaultError: The schema version is unknown, or a field is missing or malformed.
        """
        check_version(values)
        return reading(
            lambda: cls(
                images=tuple(ImageAnswer.from_json(image) for image in values["images"]),
                breasts=tuple(BreastAnswer.from_json(breast) for breast in values["breasts"]),
                exam=ExamScore.from_json(values["exam"]),
                warnings=Reason.all_of(values["warnings"]),
                refused=tuple(RefusedView.from_json(view) for view in values.get("refused", [])),
                **request_fields(values),
            )
        )
