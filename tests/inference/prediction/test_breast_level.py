"""A served model that judges breasts: each breast by all its views, as in evaluation, with both engines."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mammopipe.inference.contract.schema import ViewsRule
from mammopipe.inference.engines.base import EngineKind, EngineSettings
from mammopipe.inference.prediction.predictor import ExamPrediction, Predictor
from mammopipe.processing.datasets.manifest import Label, Laterality, View
from mammopipe.processing.images.mammogram import Mammogram
from mammopipe.processing.phantoms.film import make_film
from mammopipe.training.model.architecture import Level
from mammopipe.training.model.archive import unpack
from mammopipe.training.networks import model_directory
from mammopipe.training.networks.pooling import Views
from tests.training.conftest import EvaluationBase
from tests.training.conftest import judged_by_breast as judged_by_breast
from tests.training.conftest import screening_inputs as screening_inputs

L, R = Laterality.LEFT, Laterality.RIGHT
SHOWN = [(L, View.CC), (R, View.MLO), (L, View.MLO), (R, View.CC)]


@pytest.fixture(scope="module")
def folder(judged_by_breast: EvaluationBase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an evaluated model."""
    target = tmp_path_factory.mktemp("model")
    unpack(judged_by_breast.output / "model" / "model.tar.gz", target)
    return target


@pytest.fixture(scope="module")
def exam() -> list[Mammogram]:
    return [
        Mammogram(
            make_film(number, label=Label.NORMAL, laterality=side, view=view, height=256, width=192).pixels, side, view
        )
        for number, (side, view) in enumerate(SHOWN)
    ]


def _predict(folder: Path, exam: list[Mammogram], kind: EngineKind = EngineKind.OPENVINO) -> ExamPrediction:
    return Predictor(folder, engine=EngineSettings(kind, 1)).predict(exam)


@pytest.mark.parametrize("kind", [EngineKind.OPENVINO, EngineKind.TORCH])
def test_a_breast_is_scored_as_the_network_scores_all_its_views(
    folder: Path, exam: list[Mammogram], kind: EngineKind
) -> None:
    served = _predict(folder, exam, kind)
    model = model_directory.load(folder)
    images = torch.stack([torch.from_numpy(image.prepared.image)[None] for image in served.images])[None]
    for breast in served.combined.breasts:
        sides = torch.tensor([[1 if side is breast.laterality else 2 for side, _ in SHOWN]])
        with torch.inference_mode():
            logits = model.network(Views(images, sides, torch.zeros((1, 4), dtype=torch.bool))).double().numpy()
        malignant = model.calibration.probabilities(logits)[0, -1]
        assert breast.malignancy_score == pytest.approx(100 * malignant, abs=0.01)
        assert (breast.rule, breast.compared) == (ViewsRule.ATTENTION, True)
        assert breast.decision is not None and breast.decision.level is Level.BREAST
    assert served.combined.exam.malignancy_score == max(each.malignancy_score for each in served.combined.breasts)


def test_the_order_of_the_views_changes_nothing_and_a_view_less_does(folder: Path, exam: list[Mammogram]) -> None:
    scores = [breast.malignancy_score for breast in _predict(folder, exam).combined.breasts]

    assert [breast.malignancy_score for breast in _predict(folder, exam[::-1]).combined.breasts] == pytest.approx(
        scores
    )
    left = [image for image in exam if image.laterality is L]
    alone = _predict(folder, left).combined.breasts[0]
    assert not alone.compared and abs(alone.malignancy_score - scores[0]) > 0.01, "the other side counted"


def test_an_image_is_a_breast_with_one_view(folder: Path, exam: list[Mammogram]) -> None:
    predictor = Predictor(folder, engine=EngineSettings(EngineKind.OPENVINO, 1))
    image, breast = predictor.predict(exam[0]), predictor.predict(exam[:1]).combined.breasts[0]

    assert predictor.level is Level.BREAST
    assert image.malignancy_score == pytest.approx(breast.malignancy_score, abs=1e-6)
    assert image.decision is not None and breast.decision is not None
    assert image.decision == breast.decision, "the threshold and the figures are those of breasts"
    assert image.decision.level is Level.BREAST


def test_images_of_unknown_side_are_no_views_of_the_other_breast(folder: Path, exam: list[Mammogram]) -> None:
    unknown = [replace(exam[0], laterality=None), *exam[1:2]]
    first, second = _predict(folder, unknown).combined.breasts

    assert first.laterality is None and not first.compared
    alone = [_predict(folder, [image]).combined.breasts[0].malignancy_score for image in unknown]
    np.testing.assert_allclose([first.malignancy_score, second.malignancy_score], alone, atol=1e-6)


def test_each_view_has_its_own_heatmap(folder: Path, exam: list[Mammogram]) -> None:
    predictor = Predictor(folder, engine=EngineSettings(EngineKind.OPENVINO, 1))
    images = predictor.predict(exam).images
    maps = [
        predictor.explain(image, mammogram, Label.MALIGNANT).heat for image, mammogram in zip(images, exam, strict=True)
    ]

    assert all(heat.shape == mammogram.pixels.shape for heat, mammogram in zip(maps, exam, strict=True))
    assert not np.array_equal(maps[0], maps[2])
