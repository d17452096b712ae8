"""Which images are referred to a reader, and for which reasons."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mammopipe.inference.prediction import referral

REFERENCE: Any = SimpleNamespace(
    entropy_limit=0.9, strangeness_limit=2.0, strangeness=lambda features: float(np.linalg.norm(features))
)


def judged(
    flags: tuple[str, ...] = (),
    coverage: float = 0.4,
    *,
    side_known: bool = True,
    nats: float = 0.5,
    strange: float = 1.0,
    reference: Any = REFERENCE,
) -> list[str]:
    found = referral.judge(
        {"flags": list(flags), "coverage": coverage},
        side_known=side_known,
        entropy_nats=nats,
        features=np.array([strange]),
        reference=reference,
    )
    assert found.refer == bool(found.reasons)
    return [str(reason.code) for reason in found.reasons]


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
