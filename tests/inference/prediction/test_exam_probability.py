"""The calibrated probability of a breast and of an exam: the stored map at the stated prevalence; decisions stay."""

import base64
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mammopipe.inference.client.exam_answers import ExamAnswer
from mammopipe.inference.contract.media_types import AnswerType
from mammopipe.inference.contract.request import OperatingPoint, RequestOptions
from mammopipe.inference.engines.base import EngineKind, EngineSettings
from mammopipe.inference.prediction.exam import Combined, combine_views
from mammopipe.inference.prediction.handler import Task, answer
from mammopipe.inference.prediction.predictor import Predictor
from mammopipe.inference.prediction.thresholds import Thresholds
from mammopipe.processing.datasets.manifest import Label, Laterality
from mammopipe.processing.files import write_bytes, write_json
from mammopipe.processing.images.mammogram import ReadConfig
from mammopipe.processing.phantoms.mias_tree import make_film
from mammopipe.training.model.exam_scores import Level
from mammopipe.training.networks import model_directory
from tests.inference.prediction.test_exam import FINE, L, R, described, figures, view

POINT = OperatingPoint.SENSITIVITY
MAPS = {
    "breast": {"slope": 0.7, "intercept": -0.4, "cases": 200, "malignant": 20},
    "patient": {"slope": 1.3, "intercept": 0.9, "cases": 100, "malignant": 20},
}
SHARES = {"image": 0.1, "breast": 0.1, "patient": 0.2}
FEW = {"reason": "3 patients with a malignant breast; a fit needs 10"}


def model(maps: dict[str, Any] | None = MAPS, **calibration: Any) -> dict[str, Any]:
    description = described(breast=figures(0.3, 0.6), patient=figures(0.4, 0.7))
    description["calibration"] |= {"prevalence": SHARES, **calibration} | ({} if maps is None else {"scores": maps})
    return description


def judged(description: dict[str, Any], prevalence: float | None = None) -> Combined:
    views = [view(L, 0.41, FINE, (0, 0, 1)), view(R, 0.02, FINE, (2, 0, 0))]
    return combine_views(views, Thresholds.read(description, "model.json", prevalence=prevalence), POINT)


def by_hand(score: float, level: str, held: float, wanted: float) -> float:
    """Return the probability: Platt's map, then the change of the prior odds (Saerens 2002)."""
    odds = (score / (1 - score)) ** MAPS[level]["slope"] * math.exp(MAPS[level]["intercept"])
    odds *= (wanted / (1 - wanted)) / (held / (1 - held))
    return odds / (1 + odds)


def test_breasts_and_exam_have_the_probability_of_their_map() -> None:
    combined = judged(model())
    found = [combined.breasts[0].probability, combined.breasts[1].probability, combined.exam.probability]
    expected = [(0.41, "breast", 0.1), (0.02, "breast", 0.1), (0.41, "patient", 0.2)]
    assert found == pytest.approx([by_hand(score, level, share, share) for score, level, share in expected])
    assert combined.breasts[0].malignancy_score == pytest.approx(41), "the score stays"


def test_a_stated_prevalence_moves_the_probability_at_the_prevalence_of_its_level() -> None:
    combined = judged(model(), prevalence=0.01)
    # A woman in 100 has cancer; of the breasts of validation, half as many were malignant as of the women.
    assert combined.exam.probability == pytest.approx(by_hand(0.41, "patient", 0.2, 0.01))
    assert combined.breasts[0].probability == pytest.approx(by_hand(0.41, "breast", 0.1, 0.005))
    assert combined.breasts[0].prevalence and combined.breasts[0].prevalence.value == pytest.approx(0.005)


@pytest.mark.parametrize("prevalence", [None, 0.01])
def test_the_map_of_compared_breasts_holds_for_the_women_with_both_breasts(prevalence: float | None) -> None:
    maps = {level: {**values, "cases": 50, "malignant": 20} for level, values in MAPS.items()}
    description = model(comparison={"weight": 0.5, "temperature": 2.0, "scores": maps})
    description["metrics"]["compared"] = {"validation": {"breast": figures(0.05, 0.8), "patient": figures(0.15, 0.9)}}
    combined = judged(description, prevalence)
    score = _unmoved(combined.exam.malignancy_score / 100, 0.2, prevalence)
    assert score != pytest.approx(0.41) and combined.breasts[0].compared
    assert combined.exam.probability == pytest.approx(by_hand(score, "patient", 20 / 50, prevalence or 0.2))
    assert combined.exam.prevalence and combined.exam.prevalence.value == pytest.approx(prevalence or 0.2)


def _unmoved(shown: float, held: float, stated: float | None) -> float:
    odds = shown / (1 - shown) / (1.0 if stated is None else (stated / (1 - stated)) / (held / (1 - held)))
    return odds / (1 + odds)


@pytest.mark.parametrize("maps", [None, {"breast": FEW, "patient": FEW}])
def test_a_model_without_a_map_gives_null_and_the_same_decisions(maps: dict[str, Any] | None) -> None:
    without, whole = judged(model(maps)), judged(model())
    for one, other in ((without.exam, whole.exam), *zip(without.breasts, whole.breasts, strict=True)):
        assert one.probability is None and other.probability is not None
        assert one.model_copy(update={"probability": other.probability}) == other


def test_a_higher_score_never_has_a_lower_probability() -> None:
    stored = Thresholds.read(model(), "model.json", prevalence=0.003)
    scores = np.concatenate([[0.0, 1e-300], np.random.default_rng(0).random(200), [1 - 1e-16, 1.0]])
    found = [stored.probability(Level.PATIENT, float(score)) or 0.0 for score in np.sort(scores)]
    assert (np.diff(found) >= 0).all() and 0 < min(found) <= max(found) < 1


def test_the_endpoint_answers_it_and_the_client_reads_it(base: Path, tmp_path: Path) -> None:
    write_bytes(tmp_path / "weights.safetensors", (base / "model" / "weights.safetensors").read_bytes())
    document = model_directory.read_description(base / "model")
    document["metrics"] = {"validation": {"breast": figures(0.3, 0.6), "patient": {**figures(0.3, 0.6), "cases": 100}}}
    document["calibration"] |= {"prevalence": SHARES, "scores": MAPS, "breast_rule": "mean"}
    write_json(tmp_path / "model.json", document)
    images = []
    for seed, side in ((1, Laterality.LEFT), (2, Laterality.RIGHT)):
        phantom = make_film(seed, label=Label.NORMAL, laterality=side, height=300, width=260)
        body = b"P5 260 300 255\n" + (phantom.pixels >> 8).astype(np.uint8).tobytes()
        images.append({"data": base64.b64encode(body).decode()})
    predictor = Predictor(tmp_path, engine=EngineSettings(EngineKind.TORCH))
    request = json.dumps({"images": images}).encode()
    task = Task("r1", request, RequestOptions(), AnswerType.JSON, content_type="application/json")
    body = json.loads(answer(predictor, task, ReadConfig()).body)
    for part, level, share in (
        (body["exam"], "patient", 0.2),
        *((breast, "breast", 0.1) for breast in body["breasts"]),
    ):
        assert part["probability"] == pytest.approx(by_hand(part["malignancy_score"] / 100, level, share, share))
    read = ExamAnswer.from_json(body)
    assert read.exam.probability == body["exam"]["probability"]
    assert [breast.probability for breast in read.breasts] == [breast["probability"] for breast in body["breasts"]]
    del body["exam"]["probability"]
    assert ExamAnswer.from_json(body).exam.probability is None, "an older server's answer"
