"""Each kind of leak, planted in a clean run, is found by the audit; a clean run has no finding."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mammopipe.processing.breast.preprocess import PreprocessConfig
from mammopipe.training.evaluation.calibration import fit_thresholds
from mammopipe.training.evaluation.calibration_methods import Method, fit, fit_temperature
from mammopipe.training.evaluation.fit_audit import Fit, audit_fits, training_digest
from mammopipe.training.model.calibration import Calibration
from mammopipe.training.model.exam_scores import BreastRule
from mammopipe.training.model.predictions import LeakError
from tests.support.clean_set import CleanSet, phantom_set
from tests.support.computed_once import computed_once
from tests.support.leak_kinds import (
    KINDS,
    clean_findings,
    evaluation,
    predictions_of_test,
    training_job_digest,
)

CONFIG = PreprocessConfig(height=320, width=192)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> CleanSet:
    torch.set_num_threads(1)
    return phantom_set(tmp_path_factory.mktemp("clean"), 9, CONFIG)


@pytest.fixture(autouse=True)
def computed_of_equal_images_once() -> Iterator[None]:
    with computed_once():
        yield


@pytest.fixture
def clean(original: CleanSet, tmp_path: Path) -> CleanSet:
    """A copy of the set that a test may plant leaks in."""
    shutil.copytree(original.folder, tmp_path / "set")
    return replace(original, folder=tmp_path / "set", records=list(original.records))


def test_at_least_ten_kinds_are_planted() -> None:
    assert len(KINDS) >= 10


@pytest.mark.parametrize("kind", KINDS)
def test_every_leak_is_caught(clean: CleanSet, tmp_path: Path, kind: str) -> None:
    outcome = KINDS[kind](clean, tmp_path)
    assert outcome.planted > 0
    assert outcome.caught == outcome.planted, outcome
    assert outcome.by and outcome.message


def test_a_clean_run_raises_nothing(clean: CleanSet, tmp_path: Path) -> None:
    assert clean_findings(clean, tmp_path) == []


def test_the_evaluation_says_of_which_images_everything_was_fitted(clean: CleanSet, tmp_path: Path) -> None:
    found = evaluation(clean, tmp_path)
    assert [(item["what"], item["splits"]) for item in found["fitted"]] == [
        ("calibration and thresholds of modified_cnn", {"validation": 6}),
        ("probabilities of breasts and patients of modified_cnn", {"validation": 6}),
        ("choice of the network", {"validation": 6}),
        ("mean and covariance of the features", {"train": 6}),
        ("limits of entropy and strangeness", {"validation": 6}),
        ("distributions of the watched figures", {"train": 6, "validation": 6}),
    ]
    assert found["leakage"]["checked"]["fits"] == 6
    digests = [item["digest"] for item in found["fitted"]]
    assert digests[0] == digests[1] == digests[2] == digests[4] != digests[3]


def test_the_training_job_states_the_digest_that_the_evaluation_expects(clean: CleanSet, tmp_path: Path) -> None:
    stated = training_job_digest(clean, tmp_path / "job")
    assert stated == training_digest(clean.data().records, clean.folder)
    nameless = [replace(record, sha256="") for record in clean.data().records]
    assert training_digest(nameless, clean.folder) != stated, "the rows are part of it"


def test_nothing_is_fitted_on_predictionspredictions_of_test(clean: CleanSet, tmp_path: Path) -> None:
    test = predictions_of_test(clean, tmp_path)
    for attempt in (
        lambda: fit_temperature(test),
        lambda: fit_thresholds(test, Calibration(), BreastRule.MEAN),
        *(lambda method=method: fit(method, test) for method in Method),
    ):
        with pytest.raises(LeakError, match="must be fitted on predictions of split=validation, not of split=test"):
            attempt()


def test_a_fit_on_images_that_nobody_knows_is_found(clean: CleanSet) -> None:
    fits = [Fit("threshold", ("mdb001", "elsewhere")), Fit("choice", ("mdb001",))]
    (finding,) = audit_fits(fits, clean.records)
    assert (finding.kind, finding.images) == ("fitted-on-unknown", ("elsewhere",))
    assert fits[0].as_dict(clean.records)["splits"] == {"train": 1, "unknown": 1}
