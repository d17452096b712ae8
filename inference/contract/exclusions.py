"""Images that the model is not intended for, and the action for each kind: warn, refer, leave out, or refuse.

`RULES` is the default table. A deployment can make it stricter (`MAMMOPIPE_EXCLUSIONS`), never milder. The flags come
from the image reader, so an image is treated alike in Prepare, in an evaluation and at the endpoint.
`python -m mammopipe.inference.contract.exclusions` prints the table as docs/reference/endpoint.md shows it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from mammopipe.processing.errors import ConfigError, ImageError
from mammopipe.processing.image_flags import ImageFlag


class Action(StrEnum):
    """The action for an image that the model is not intended for, from the mildest to the strictest."""

    WARN = "warn"
    """The image is scored; the answer has a warning."""
    REFER = "refer"
    """The image is scored; the answer refers it, its breast and its exam to a reader and names the reason."""
    LEAVE_OUT = "leave-out"
    """The image is not scored. A request of this image alone is answered 422. In an exam the other images are judged;
    the answer names this one and refers its breast and the exam to a reader."""
    REFUSE = "refuse"
    """Neither the image nor its exam is scored; the request is answered 422, which names the image and the reason."""

    @property
    def strictness(self) -> int:
        """Return the rank of the action, 0 for the mildest."""
        return list(Action).index(self)


@dataclass(frozen=True)
class Rule:
    """The action for one kind of image, and its reason."""

    action: Action
    where: str
    """The attributes that mark an image as of this kind."""
    reason: str


_REFUSE, _REFER, _WARN, _FLAG = Action.REFUSE, Action.REFER, Action.WARN, ImageFlag

RULES: Mapping[ImageFlag, Rule] = MappingProxyType(
    {
        _FLAG.FOR_PROCESSING: Rule(
            _REFUSE, "Presentation Intent Type, SOP Class", "raw detector data; models learn from processed images"
        ),
        _FLAG.UNDER_18: Rule(_REFUSE, "Patient's Age, Birth Date", "the patient is under 18; models learn from adults"),
        _FLAG.FOR_PROCESSING_CONVERTED: Rule(
            _REFER,
            "Presentation Intent Type, SOP Class",
            "raw detector data that were converted here, not by the manufacturer",
        ),
        _FLAG.MALE: Rule(_REFER, "Patient's Sex", "the patient is male; models learn from women"),
        _FLAG.IMPLANT: Rule(_REFER, "Breast Implant Present, the picture", "an implant hides tissue"),
        _FLAG.IMPLANT_DISPLACED: Rule(
            _REFER, "View Modifier Code", "an implant was displaced; part of the breast is seen"
        ),
        _FLAG.PARTIAL_VIEW: Rule(_REFER, "Partial View", "part of the breast is not in the image"),
        _FLAG.SYNTHETIC_2D: Rule(_REFER, "Image Type, SOP Class", "computed from tomosynthesis, never exposed"),
        _FLAG.SECONDARY_CAPTURE: Rule(_REFER, "SOP Class", "not stored by the modality; its grey scale is unknown"),
        _FLAG.LOSSY_HIGH_RATIO: Rule(
            _REFER, "Lossy Image Compression Ratio", "compressed by more than 15; fine detail is lost"
        ),
        _FLAG.LOW_ENERGY: Rule(_REFER, "Image Type", "the low-energy image of a contrast study"),
        _FLAG.LATERALITY_CONFLICT: Rule(_REFER, "Laterality, View Position", "attributes name both breasts"),
        _FLAG.LOSSY: Rule(_WARN, "Lossy Image Compression", "compressed with a loss; fine detail may be lost"),
        _FLAG.DIGITISED: Rule(_WARN, "Image Type, SOP Class", "a digitised film"),
        _FLAG.EXAGGERATED_VIEW: Rule(_WARN, "View Code, View Position", "the view leaves out part of the breast"),
        _FLAG.VIEW_CONFLICT: Rule(_WARN, "View Code, View Position", "attributes name different views"),
        _FLAG.BURNED_IN: Rule(_WARN, "Burned In Annotation", "text in the picture may name the patient"),
        _FLAG.SPACING_UNUSABLE: Rule(_WARN, "Pixel Spacing", "the size of the pixels is not known"),
        _FLAG.WINDOW_UNUSABLE: Rule(
            _WARN, "Window, VOI LUT", "the grey scale differs from the one that the file asks for"
        ),
        _FLAG.RESCALE_UNUSABLE: Rule(_WARN, "Rescale Slope and Intercept", "the grey scale may be wrong"),
        _FLAG.ATTRIBUTE_IGNORED: Rule(_WARN, "an optional attribute", "it was unusable and counts as absent"),
        _FLAG.VALUES_BEYOND_BITS: Rule(_WARN, "Bits Stored", "pixels have values that Bits Stored does not allow"),
        _FLAG.TURNED: Rule(_WARN, "Patient Orientation", "the picture was turned or mirrored, as the file asks"),
    }
)
"""Rules by flag, the strictest first; other flags have no effect."""


class ExcludedImageError(ImageError):
    """The model is not intended for this kind of image, and the policy leaves it out or refuses it."""

    def __init__(self, flag: ImageFlag, rule: Rule) -> None:
        super().__init__(f"excluded ({flag}): {rule.reason}; stated by {rule.where}")
        self.flag = flag
        self.action = rule.action


@dataclass(frozen=True)
class Exclusion(Rule):
    """The rule for one flag of an image: a reason why the model is not intended for it, with the action."""

    flag: ImageFlag


@dataclass(frozen=True)
class ExclusionPolicy:
    """The default table with the stricter actions of a deployment."""

    stricter: Mapping[ImageFlag, Action] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse an action that is milder than the default."""
        for flag, action in self.stricter.items():
            rule = RULES.get(flag)
            if rule is not None and action.strictness < rule.action.strictness:
                raise ConfigError(
                    f"{flag}={action} is milder than {rule.action}, the default, which can only be tightened"
                )

    @classmethod
    def parse(cls, text: str) -> "ExclusionPolicy":
        """Return the policy for a text `FLAG=ACTION,...`.

        Raises:
            ConfigError: A flag or action is unknown, a flag is repeated, or an action is milder than the default.
        """
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
        # A `MappingProxyType` cannot be pickled; the fork server sends the settings to its workers.
        return ExclusionPolicy, (dict(self.stricter),)

    def __str__(self) -> str:
        return ",".join(f"{flag}={action}" for flag, action in self.stricter.items())

    def rule(self, flag: ImageFlag) -> Rule | None:
        """Return the rule for a flag, or `None` if the flag has no effect."""
        rule = RULES.get(flag)
        if flag not in self.stricter:
            return rule
        return Rule(self.stricter[flag], rule.where if rule else "the reader", rule.reason if rule else "excluded here")

    def apply(self, flags: Iterable[ImageFlag]) -> tuple[Exclusion, ...]:
        """Return the exclusions for an image with these flags, the strictest first.

        Raises:
            ExcludedImageError: The policy leaves out or refuses an image with one of the flags.
        """
        # Each flag once, in the order of the reader; `sort` keeps that order among equal actions.
        rules = [(flag, self.rule(flag)) for flag in dict.fromkeys(flags)]
        found = [Exclusion(rule.action, rule.where, rule.reason, flag) for flag, rule in rules if rule is not None]
        found.sort(key=lambda each: -each.action.strictness)
        if found and found[0].action.strictness >= Action.LEAVE_OUT.strictness:
            raise ExcludedImageError(found[0].flag, found[0])
        return tuple(found)


DEFAULT_POLICY = ExclusionPolicy()
"""The default table without changes."""


def table() -> str:
    """Return the default table as Markdown."""
    rows = ["| flag | action | stated by | reason |", "|---|---|---|---|"]
    rows += [f"| `{flag}` | {rule.action} | {rule.where} | {rule.reason} |" for flag, rule in RULES.items()]
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
