"""Which images are referred to a reader, and for which reasons."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mammopipe.inference.contract.exclusions import Action, Exclusion
from mammopipe.inference.contract.schema import Reason, Referral, ReferralCode
from mammopipe.inference.prediction import referral
from mammopipe.processing.image_flags import ImageFlag

REFERENCE: Any = SimpleNamespace(
    entropy_limit=0.9, strangeness_limit=2.0, strangeness=lambda features: float(np.linalg.norm(features))
)


def judged(*flags_and_coverage: Any, **facts: Any) -> list[str]:
    """Return the codes of the reasons for which an image is referred; takes what `reasons_of` takes."""
    return [code for code, _ in reasons_of(*flags_and_coverage, **facts)]


def reasons_of(
    flags: tuple[str, ...] = (),
    coverage: float = 0.4,
    *,
    side_known: bool = True,
    nats: float = 0.5,
    strange: float = 1.0,
    reference: Any = REFERENCE,
    exclusions: Sequence[Exclusion] = (),
) -> list[tuple[str, str]]:
    """Return code and message of the reasons for which an image is referred."""
    found = referral.judge(
        {"flags": list(flags), "coverage": coverage},
        side_known=side_known,
        entropy_nats=nats,
        features=np.array([strange]),
        reference=reference,
        exclusions=exclusions,
    )
    assert found.refer == bool(found.reasons)
    return [(str(reason.code), reason.message) for reason in found.reasons]


def test_an_ordinary_image_is_not_referred() -> None:
    assert judged() == []
    assert judged(nats=0.9, strange=2.0) == []


@pytest.mark.parametrize(
    ("flags", "side_known", "expected"),
    [
        (("coverage-high",), True, []),
        (("coverage-low",), True, []),
        (("skin-cut-off",), True, []),
        (("pectoral-not-found",), True, []),
        (("chest-side-unclear",), True, []),
        (("chest-side-unclear",), False, ["segmentation"]),
        (("chest-side-against-laterality",), True, ["segmentation"]),
        (("coverage-high", "skin-cut-off"), True, ["segmentation"]),
    ],
)
def test_which_flags_refer(flags: tuple[str, ...], side_known: bool, expected: list[str]) -> None:
    assert judged(flags, side_known=side_known) == expected


def test_a_scrap_of_a_breast_refers() -> None:
    assert judged(("coverage-low",), 0.05) == ["segmentation"]


def test_what_the_model_cannot_judge_refers_by_its_stored_limits() -> None:
    assert judged(nats=0.91) == ["uncertain"]
    assert judged(strange=2.1) == ["out-of-distribution"]
    assert judged(nats=1.0, strange=9.0, flags=("chest-side-against-laterality",)) == [
        "segmentation",
        "uncertain",
        "out-of-distribution",
    ]
    assert judged(nats=1.0, strange=9.0, reference=None) == []


def test_entropy_is_in_nats() -> None:
    assert referral.entropy([1.0, 0.0, 0.0]) == 0
    assert referral.entropy([1 / 3] * 3) == pytest.approx(np.log(3))


def test_an_exclusion_that_refers_stands_before_what_the_segmentation_says() -> None:
    refers, warns = (
        Exclusion(flag=ImageFlag.IMPLANT, action=action, where="a tag", reason=f"reason {action}")
        for action in (Action.REFER, Action.WARN)
    )
    found = reasons_of(("chest-side-unclear",), side_known=False, exclusions=[warns, refers])
    assert [code for code, _ in found] == ["excluded", "segmentation"]
    assert found[0][1] == f"{ImageFlag.IMPLANT}: reason {Action.REFER}"
    assert reasons_of(exclusions=[warns]) == []


def test_the_least_coverage_is_enough_and_the_message_states_it() -> None:
    assert judged((), referral.LEAST_COVERAGE) == []
    [(_, message)] = reasons_of((), 0.0512)
    assert "5.1%" in message and "whole breast" in message


def test_the_message_states_the_value_and_its_limit() -> None:
    (_, entropy), (_, strangeness) = reasons_of(nats=1.0, strange=9.0)
    assert entropy == "the model is undecided between the classes: entropy 1.000 nats, limit 0.900"
    assert strangeness.endswith("strangeness 9, limit 2")


def test_one_referred_image_refers_its_exam_and_is_named() -> None:
    reason = Reason(code=ReferralCode.UNCERTAIN, message="undecided")
    clear = Referral(refer=False, reasons=[])
    found = referral.of_images([(0, clear), (3, Referral(refer=True, reasons=[reason]))])
    assert found == Referral(refer=True, reasons=[Reason(code=reason.code, message="image 3: undecided")])
    assert referral.of_images([(0, clear)]) == clear
