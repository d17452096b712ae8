"""The predictor: preprocessing as in training, decisions, referrals, exams and exclusions."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save as save_arrays

from mammopipe.inference.contract.exclusions import Action, ExcludedImageError, ExclusionPolicy
from mammopipe.inference.contract.request import OperatingPoint
from mammopipe.inference.contract.schema import Finding
from mammopipe.inference.engines.base import EngineKind, EngineSettings
from mammopipe.inference.prediction.predictor import Predictor
from mammopipe.processing.breast.preprocess import PreprocessConfig, preprocess
from mammopipe.processing.classes import THREE
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Laterality, View
from mammopipe.processing.errors import ConfigError, DuplicatePictureError
from mammopipe.processing.files import sha256, write_bytes, write_json
from mammopipe.processing.image_flags import ImageFlag
from mammopipe.processing.images.mammogram import read_mammogram, write_png
from mammopipe.processing.phantoms.film import make_film
from mammopipe.training.fitting.dataset import ImageDataset
from mammopipe.training.networks import model_directory
from tests.support.points import image_point, level_figures

CONFIG = PreprocessConfig(height=96, width=64)


@pytest.fixture(scope="module")
def predictor(base: Path) -> Predictor:
    return Predictor(base / "model", engine=EngineSettings(EngineKind.TORCH, threads=1))


def another(images: Any, **changes: Any) -> Any:
    """Return a mammogram of another exposure than the phantom's."""
    made = make_film(5, label=Label.NORMAL, laterality=Laterality.RIGHT, height=360, width=320)
    return dataclasses.replace(film(images), pixels=made.pixels, **changes)


def film(images: Any) -> Any:
    found = read_mammogram(images.pgm)
    facts = {**found.facts, "laterality_inferred": False}
    return dataclasses.replace(found, laterality=Laterality.RIGHT, view=View.MLO, facts=facts)


def test_input_is_bit_for_bit_what_training_reads(phantom: Any, tmp_path: Path, predictor: Predictor) -> None:
    """Prediction equals that of training: the phantom as Prepare and Segment store it, read by training's dataset."""
    record = ImageRecord("p1", "p", "mias", Laterality.RIGHT, View.MLO, Label.MALIGNANT)
    source = tmp_path / "p1.pgm"
    write_bytes(source, phantom.pgm)
    write_png(tmp_path / "prepared" / "p1.png", read_mammogram(source, record=record).pixels)
    prepared = read_mammogram(tmp_path / "prepared" / "p1.png", record=record)
    write_png(tmp_path / "segmented" / "p1.png", preprocess(prepared, CONFIG).pixels)
    trained_on, _, _ = ImageDataset([record], tmp_path / "segmented", shape=(CONFIG.height, CONFIG.width))[0]
    served = predictor.prepare(film(phantom)).image
    assert served.shape == (96, 64) and served.dtype == np.float32
    assert np.array_equal(trained_on[0].numpy(), served)
    assert served.min() == 0 and served.max() == 1


def test_probabilities_are_the_calibrated_softmax(predictor: Predictor, base: Path, phantom: Any) -> None:
    prediction = predictor.predict(film(phantom))
    model = model_directory.load(base / "model")
    expected = model.predict_probabilities(torch.from_numpy(prediction.prepared.image)[None, None])[0]
    assert list(prediction.probabilities) == list(THREE)
    assert list(prediction.probabilities.values()) == pytest.approx(expected.tolist(), abs=1e-6)
    assert prediction.malignancy_score == 100 * prediction.probabilities[Label.MALIGNANT]


def test_decision_follows_the_threshold(predictor: Predictor, phantom: Any) -> None:
    for point, finding in (
        (OperatingPoint.SENSITIVITY, Finding.SUSPICIOUS),
        (OperatingPoint.SPECIFICITY, Finding.NOT_SUSPICIOUS),
    ):
        decision = predictor.predict(film(phantom), operating_point=point).decision
        assert decision is not None and (decision.operating_point, decision.finding) == (point, finding)


def test_without_operating_points_there_is_a_warning_and_no_decision(base: Path, phantom: Any, tmp_path: Path) -> None:
    described = model_directory.read_description(base / "model") | {"operating_points": {}}
    write_bytes(tmp_path / "weights.safetensors", (base / "model" / "weights.safetensors").read_bytes())
    write_json(tmp_path / "model.json", described)
    prediction = Predictor(tmp_path).predict(film(phantom))
    assert prediction.decision is None
    assert "no-operating-point" in {warning.code for warning in prediction.warnings}


@pytest.mark.parametrize(
    "points",
    [
        {"sensitivity": {"threshold": 0.5}},
        {"sensitivity": 3},
        {"speed": image_point(0.5)},
        {"sensitivity": image_point(0.5) | {"threshold": 2.0}},
    ],
)
def test_malformed_operating_points_are_refused(base: Path, tmp_path: Path, points: dict[str, Any]) -> None:
    write_bytes(tmp_path / "weights.safetensors", (base / "model" / "weights.safetensors").read_bytes())
    write_json(tmp_path / "model.json", model_directory.read_description(base / "model") | {"operating_points": points})
    with pytest.raises(ConfigError, match="operating_points"):
        Predictor(tmp_path)


def test_flags_of_the_segmentation_become_warnings(predictor: Predictor, phantom: Any) -> None:
    against = dataclasses.replace(film(phantom), laterality=Laterality.LEFT)
    codes = {warning.code for warning in predictor.predict(against).warnings}
    assert "chest-side-against-laterality" in codes


def test_evidence_covers_the_image(predictor: Predictor, phantom: Any) -> None:
    mammogram = film(phantom)
    seen = predictor.explain(predictor.predict(mammogram), mammogram, Label.NORMAL)
    assert seen.heat.shape == mammogram.pixels.shape and seen.heat.dtype == np.float32
    assert 0 <= seen.heat.min() and seen.heat.max() <= 1


def test_without_a_reference_there_is_no_decile_and_a_warning(predictor: Predictor, phantom: Any) -> None:
    prediction = predictor.predict(film(phantom))
    assert prediction.decile is None
    assert "no-reference" in {warning.code for warning in prediction.warnings}
    assert prediction.entropy == pytest.approx(-sum(p * np.log(p) for p in prediction.probabilities.values()))


def with_reference(source: Path, target: Path, *, entropy_limit: float, limit: float) -> Path:
    """Copy a model directory and add a reference whose strangeness is about the norm of the features."""
    arrays = {
        "mean": np.zeros(256),
        "scale": np.ones(256),
        "axes": np.eye(256)[:1],
        "whitening": np.eye(1),
        "residual": np.ones(1),
    }
    write_bytes(target / "weights.safetensors", (source / "weights.safetensors").read_bytes())
    write_bytes(target / "reference.safetensors", save_arrays(arrays))
    reference = {
        "fitted_on": "validation",
        "malignancy_deciles": [index / 10 for index in range(1, 10)],
        "entropy_limit": entropy_limit,
        "strangeness": {
            "file": "reference.safetensors",
            "sha256": sha256(target / "reference.safetensors"),
            "limit": limit,
        },
    }
    model_directory.write_description(target, model_directory.read_description(source) | {"reference": reference})
    return target


def test_reference_gives_decile_and_referral(base: Path, phantom: Any, tmp_path: Path) -> None:
    usual = with_reference(base / "model", tmp_path / "usual", entropy_limit=1.09, limit=1e9)
    prediction = Predictor(usual).predict(film(phantom))
    assert prediction.decile == int(prediction.probabilities[Label.MALIGNANT] * 10) + 1
    assert "no-reference" not in {warning.code for warning in prediction.warnings}
    assert [reason.code for reason in prediction.referral.reasons] == ["uncertain"]
    strange = with_reference(base / "model", tmp_path / "strange", entropy_limit=1.2, limit=1e-9)
    assert [reason.code for reason in Predictor(strange).predict(film(phantom)).referral.reasons] == [
        "out-of-distribution"
    ]


def test_an_exam_is_a_sequence_of_images(predictor: Predictor, phantom: Any) -> None:
    right, left = film(phantom), another(phantom, laterality=Laterality.LEFT)
    exam = predictor.predict([right, left])
    assert [image.probabilities for image in exam.images] == [
        predictor.predict(right).probabilities,
        predictor.predict(left).probabilities,
    ]
    assert [(breast.laterality, breast.images) for breast in exam.combined.breasts] == [("L", [1]), ("R", [0])]
    assert exam.combined.breasts[0].referral.refer  # its chest wall lies on the other side
    with pytest.raises(ConfigError, match="at least one"):
        predictor.predict([])


def flagged(images: Any, flag: ImageFlag) -> Any:
    made = make_film(6, label=Label.NORMAL, laterality=Laterality.RIGHT, height=340, width=320)
    return dataclasses.replace(film(images), pixels=made.pixels, flags=(flag,))


def test_an_image_that_the_exclusions_leave_out_is_in_no_score_and_refers_its_breast(base: Path, phantom: Any) -> None:
    strict = Predictor(base / "model", exclusions=ExclusionPolicy({ImageFlag.IMPLANT: Action.LEAVE_OUT}))
    other = another(phantom, laterality=Laterality.LEFT)
    exam = strict.predict([flagged(phantom, ImageFlag.IMPLANT), film(phantom), other])
    assert (exam.indices, [(each.index, each.laterality) for each in exam.refused]) == ((1, 2), [(0, Laterality.RIGHT)])
    assert isinstance(exam.refused[0].error, ExcludedImageError)
    left, right = exam.combined.breasts
    assert (left.images, right.images) == ([2], [1])
    reason = "image 0: not judged: image 0: excluded (implant)"
    assert [each.message.startswith(reason) for each in right.referral.reasons][-1]
    assert any(each.message.startswith(reason) for each in exam.combined.exam.referral.reasons)
    assert not any("implant" in each.message for each in left.referral.reasons)
    alone = strict.predict(film(phantom))
    assert right.malignancy_score == pytest.approx(alone.malignancy_score)


@pytest.mark.parametrize("flag", [ImageFlag.UNDER_18, ImageFlag.FOR_PROCESSING])
def test_an_image_that_the_exclusions_refuse_refuses_its_exam(predictor: Predictor, phantom: Any, flag: Any) -> None:
    with pytest.raises(ExcludedImageError, match=f"{flag}") as caught:
        predictor.predict([film(phantom), flagged(phantom, flag)])
    assert caught.value.__notes__ == ["image 1 of the exam"]


def test_an_exam_of_which_nothing_is_left_is_refused_and_so_is_a_picture_twice(base: Path, phantom: Any) -> None:
    strict = Predictor(base / "model", exclusions=ExclusionPolicy({ImageFlag.IMPLANT: Action.LEAVE_OUT}))
    with pytest.raises(ExcludedImageError, match="implant"):
        strict.predict([flagged(phantom, ImageFlag.IMPLANT)])
    with pytest.raises(DuplicatePictureError, match="image 1: the same picture"):
        strict.predict([film(phantom), film(phantom)])


def watched(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return a list to which each forward pass of the engine adds whether it was exact."""
    asked: list[bool] = []
    run = predictor._engine.run

    def remember(image: Any, *, exact: bool = False) -> Any:
        asked.append(exact)
        return run(image, exact=exact)

    monkeypatch.setattr(predictor._engine, "run", remember)
    return asked


def test_a_close_call_on_an_exam_is_judged_exactly(
    predictor: Predictor, phantom: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = watched(predictor, monkeypatch)
    monkeypatch.setattr("mammopipe.inference.prediction.predictor.is_close", lambda combined, margin: True)
    predictor.predict([film(phantom), another(phantom)])
    assert asked == [False, False, True, True]


def comparing(model: Path, directory: Path) -> Path:
    """Return a copy of the model that compares breasts, with one threshold for breasts and one for patients."""
    directory.mkdir()
    for path in model.iterdir():
        write_bytes(directory / path.name, path.read_bytes())
    description = model_directory.read_description(directory)
    level = level_figures(**{str(name): 0.4 for name in OperatingPoint})
    description["calibration"] |= {"breast_rule": "mean", "comparison": {"weight": 1.0, "temperature": 1.0}}
    description["metrics"] = {"compared": {"validation": {"breast": level, "patient": level}}}
    write_json(directory / model_directory.DESCRIPTION_FILE, description)
    return directory


def test_a_model_that_compares_scores_breasts_beside_each_other_and_exactly(
    base: Path, phantom: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor(comparing(base / "model", tmp_path / "model"))
    asked = watched(predictor, monkeypatch)
    right = film(phantom)
    mirrored = dataclasses.replace(right, laterality=Laterality.LEFT, pixels=right.pixels[:, ::-1].copy())
    # The same pixels for both breasts isolate the comparison; an exam would refuse them as a duplicate.
    monkeypatch.setattr("mammopipe.inference.prediction.exam_prediction._check_pictures", lambda prepared: None)
    exam = predictor.predict([right, mirrored])
    assert asked == [True, True]
    # Equal breasts: the comparison leaves no evidence for a finding in either.
    assert [breast.malignancy_score for breast in exam.combined.breasts] == pytest.approx([100 / 3, 100 / 3])
    assert all(breast.compared and breast.decision for breast in exam.combined.breasts)
    assert exam.images[0].probabilities == pytest.approx(predictor.predict(right).probabilities)


def test_answering_needs_no_torch_but_for_its_engine() -> None:
    code = (
        "import sys\nfor name in ('torch', 'torchvision'): sys.modules[name] = None\n"
        "import mammopipe.inference.prediction.handler, mammopipe.inference.prediction.predictor\n"
        "import mammopipe.inference.contract.openapi"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=True, timeout=60)
