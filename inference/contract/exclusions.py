"""Images that the model is not for, and what is done with each kind: refused, referred to a reader, or warned of.

`RULES` is the default table. A deployment can make it stricter (`MAMMOPIPE_EXCLUSIONS`), never milder. The flags are
the reader's, so that an image means the same in Prepare, in an evaluation and at the endpoint.
`python -m mammopipe.inference.contract.exclusions` prints the table as docs/reference/endpoint.md shows it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from mammopipe.processing.errors import ConfigError, ImageError
from mammopipe.processing.image_flags import ImageFlag


class Action(StrEnum):
    """What is done with an image that the model is not for, from the mildest to the strictest."""

    WARN = "warn"
    """The image is scored; the answer warns of it."""
    REFER = "refer"
    """The image is scored; the answer refers it, its breast and its exam to a reader and names the reason."""
    REFUSE = "refuse"
    """The image is not scored; the request is answered 422, which names the image and the reason."""

    @property
    def strictness(self) -> int:
        """Return 0 for the mildest."""
        return list(Action).index(self)


@dataclass(frozen=True)
class Rule:
    """What is done with one kind of image, and why."""

    action: Action
    where: str
    """Where an image says so."""
    reason: str


def _rules() -> Mapping[ImageFlag, Rule]:
    refuse, refer, warn = Action.REFUSE, Action.REFER, Action.WARN
    flag = ImageFlag
    return MappingProxyType(
        {
            flag.FOR_PROCESSING: Rule(
                refuse, "Presentation Intent Type, SOP Class", "raw detector data; models learn from processed images"
            ),
            flag.UNDER_18: Rule(
                refuse, "Patient's Age, Birth Date", "the patient is under 18; models learn from adults"
            ),
            flag.MALE: Rule(refer, "Patient's Sex", "the patient is male; models learn from women"),
            flag.IMPLANT: Rule(refer, "Breast Implant Present, the picture", "an implant hides tissue"),
            flag.IMPLANT_DISPLACED: Rule(
                refer, "View Modifier Code", "an implant was displaced; part of the breast is seen"
            ),
            flag.PARTIAL_VIEW: Rule(refer, "Partial View", "part of the breast is not in the image"),
            flag.SYNTHETIC_2D: Rule(refer, "Image Type, SOP Class", "computed from tomosynthesis, never exposed"),
            flag.SECONDARY_CAPTURE: Rule(refer, "SOP Class", "not stored by the modality; its grey scale is unknown"),
            flag.LOSSY_HIGH_RATIO: Rule(
                refer, "Lossy Image Compression Ratio", "compressed by more than 15; fine detail is lost"
            ),
            flag.LOW_ENERGY: Rule(refer, "Image Type", "the low-energy image of a contrast study"),
            flag.LATERALITY_CONFLICT: Rule(refer, "Laterality, View Position", "attributes name both breasts"),
            flag.LOSSY: Rule(warn, "Lossy Image Compression", "compressed with a loss; fine detail may be lost"),
            flag.DIGITISED: Rule(warn, "Image Type, SOP Class", "a digitised film"),
            flag.EXAGGERATED_VIEW: Rule(warn, "View Code, View Position", "the view leaves out part of the breast"),
            flag.VIEW_CONFLICT: Rule(warn, "View Code, View Position", "attributes name different views"),
            flag.BURNED_IN: Rule(warn, "Burned In Annotation", "text in the picture may name the patient"),
            flag.SPACING_UNUSABLE: Rule(warn, "Pixel Spacing", "the size of the pixels is not known"),
            flag.WINDOW_UNUSABLE: Rule(warn, "Window, VOI LUT", "the grey scale is not the one that the file asks for"),
            flag.RESCALE_UNUSABLE: Rule(warn, "Rescale Slope and Intercept", "the grey scale may be another one"),
            flag.ATTRIBUTE_IGNORED: Rule(warn, "an optional attribute", "it could not be used and counts as absent"),
            flag.VALUES_BEYOND_BITS: Rule(warn, "Bits Stored", "pixels have values that Bits Stored does not allow"),
            flag.TURNED: Rule(warn, "Patient Orientation", "the picture was turned or mirrored, as the file asks"),
        }
    )


RULES = _rules()
"""By flag, the strictest first; other flags change nothing."""


class ExcludedImageError(ImageError):
    """The model is not for this kind of image, and the policy refuses it."""

    def __init__(self, flag: ImageFlag, rule: Rule) -> None:
        super().__init__(f"excluded ({flag}): {rule.reason}; stated by {rule.where}")
        self.flag = flag


@dataclass(frozen=True)
class Exclusion:
    """One reason for which the model is not for an image, and what is done about it."""

    flag: ImageFlag
    action: Action
    where: str
    reason: str


@dataclass(frozen=True)
class ExclusionPolicy:
    """The default table, made stricter by a deployment."""

    stricter: Mapping[ImageFlag, Action] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what would make the table milder."""
        for flag, action in self.stricter.items():
            rule = RULES.get(flag)
            if rule is not None and action.strictness < rule.action.strictness:
                raise ConfigError(
                    f"{flag}={action} is milder than {rule.action}, the default, which can only be tightened"
                )

    @classmethod
    def parse(cls, text: str) -> "ExclusionPolicy":
        """Return the policy of `FLAG=ACTION,...`; `ConfigError` for what is neither, twice, or milder."""
        found: dict[ImageFlag, Action] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, _, action = (piece.strip() for piece in part.partition("="))
            if name not in set(ImageFlag) or action not in set(Action):
                raise ConfigError(
                    f"{part!r} must be FLAG=ACTION, a flag of {', '.join(RULES)} and an action of {', '.join(Action)}"
                )
            if ImageFlag(name) in found:
                raise ConfigError(f"{name} is named twice")
            found[ImageFlag(name)] = Action(action)
        return cls(MappingProxyType(found))

    def __reduce__(self) -> tuple[object, ...]:
        return ExclusionPolicy, (dict(self.stricter),)

    def __str__(self) -> str:
        return ",".join(f"{flag}={action}" for flag, action in self.stricter.items())

    def rule(self, flag: ImageFlag) -> Rule | None:
        """Return what is done with images of a flag, `None` where the flag changes nothing."""
        rule = RULES.get(flag)
        if flag not in self.stricter:
            return rule
        return Rule(self.stricter[flag], rule.where if rule else "the reader", rule.reason if rule else "excluded here")

    def apply(self, flags: Iterable[ImageFlag]) -> tuple[Exclusion, ...]:
        """Return what is done about an image with these flags, the strictest first.

        Raises:
            ExcludedImageError: one of them is refused.
        """
        found = []
        for flag in dict.fromkeys(flags):
            rule = self.rule(flag)
            if rule is None:
                continue
            if rule.action is Action.REFUSE:
                raise ExcludedImageError(flag, rule)
            found.append(Exclusion(flag, rule.action, rule.where, rule.reason))
        return tuple(sorted(found, key=lambda each: -each.action.strictness))


DEFAULT_POLICY = ExclusionPolicy()
"""The table as it is."""


def table() -> str:
    """Return the default table as Markdown."""
    rows = ["| flag | action | stated by | reason |", "|---|---|---|---|"]
    rows += [f"| `{flag}` | {rule.action} | {rule.where} | {rule.reason} |" for flag, rule in RULES.items()]
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
