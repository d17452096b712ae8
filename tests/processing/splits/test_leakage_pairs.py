"""Which pairs of images the leakage audit measures, where the agreement of each pair is known."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mammopipe.processing.datasets.manifest import Split
from mammopipe.processing.splits import leakage_audit
from mammopipe.processing.splits.leakage_audit import LeakageReport, audit_leakage
from mammopipe.processing.splits.near_duplicates import Features, Match
from mammopipe.processing.splits.pixel_confirmation import Confirmation
from tests.processing.splits.test_leakage_findings import row, stored

FIRST = 1000
"""Value of the pixels of the training image."""
Audited = Callable[..., LeakageReport]


@pytest.fixture
def audited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Audited:
    """Return a function that audits one training image and test images that agree with it as stated."""

    def audit(agreeing: Sequence[int], correlations: Sequence[float], height: int = 8) -> LeakageReport:
        names = [f"i{number:03d}" for number in range(len(agreeing) + 1)]
        splits = [Split.TRAIN, *[Split.TEST] * len(agreeing)]
        records = [
            stored(tmp_path, row(name, split), np.full((height, 4), FIRST + number, np.uint16))
            for number, (name, split) in enumerate(zip(names, splits, strict=True))
        ]

        def known(first: Features, second: Features) -> Match:
            place = int(second.points[0, 0]) - FIRST - 1
            return Match(agreeing[place], np.full((2, 3), correlations[place]))

        def of_value(pixels: NDArray[np.uint16]) -> Features:
            """Return the only value of an image in place of its features, so that they show which image it is."""
            return Features(np.full((1, 2), pixels.max(), np.float32), np.zeros((1, 32), np.uint8))

        monkeypatch.setattr(leakage_audit, "features", of_value)
        monkeypatch.setattr(leakage_audit, "candidate_pairs", lambda *given: [(names[0], name) for name in names[1:]])
        monkeypatch.setattr(leakage_audit, "match", known)
        monkeypatch.setattr(leakage_audit, "detail", lambda pixels: pixels)
        monkeypatch.setattr(leakage_audit, "correlation", lambda first, second, transform: float(transform[0, 0]))
        return audit_leakage(records, tmp_path)

    return audit


def test_pairs_with_8_to_23_agreeing_features_give_the_correlations_of_different_images(audited: Audited) -> None:
    report = audited([8, 23, 7, 24] * 15, [0.72, 0.76, -1.0, -1.0] * 15)
    assert report.passed and report.checked["pairs_compared_by_pixels"] == 15
    assert report.checked["correlation_limit"] == round(Confirmation.of([0.72, 0.76] * 15, 15).limit, 3) == 0.804


def test_at_most_200_of_these_pairs_are_measured_evenly_distributed(audited: Audited) -> None:
    correlations = [0.72, -1.0, 0.76, -1.0] * 50
    assert audited([8] * 200, correlations).checked["correlation_limit"] == 0.85
    limit = audited([8] * 201, [*correlations, 0.72]).checked["correlation_limit"]
    assert limit == round(Confirmation.of([0.72, 0.76] * 50 + [0.72], 0).limit, 3) < 0.8


@pytest.mark.parametrize(("height", "compared"), [(192, ["i003", "i004"]), (191, [])])
def test_images_of_192_rows_or_more_are_compared_place_by_place(
    audited: Audited, monkeypatch: pytest.MonkeyPatch, height: int, compared: list[str]
) -> None:
    asked: list[tuple[str, str]] = []

    def deformed(pairs: Sequence[tuple[str, str]], *given: Any) -> tuple[dict[int, str], Confirmation]:
        asked.extend(pairs)
        return ({1: "they are deformed"} if pairs else {}), Confirmation(0.5, len(pairs), 0.25)

    monkeypatch.setattr(leakage_audit, "deformed_pairs", deformed)
    # The first pair is found by its pixels; the second has too few features for a deformed copy.
    report = audited([24, 9, 10, 24], [0.9, 0.9, 0.9, 0.1], height)
    assert asked == [("i000", name) for name in compared]
    assert report.checked["pairs_compared_place_by_place"] == len(compared)
    messages = {finding.images: finding.message for finding in report.findings}
    assert list(messages) == [("i000", name) for name in ("i001", *compared[1:])]
    if compared:
        assert messages["i000", "i004"] == "images i000 (train) and i004 (test) show the same image: they are deformed"
