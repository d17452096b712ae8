"""Probabilities of breasts and patients: right where the truth is known, and fitted on validation only."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, logit

from mammopipe.training.evaluation.calibration import (
    LEAST_PATIENTS,
    FittedMap,
    fit_comparison,
    fit_map,
    fit_score_maps,
    fit_thresholds,
)
from mammopipe.training.evaluation.calibration_figures import cross_fitted_cases, score_figures
from mammopipe.training.evaluation.calibration_methods import choose_method, fit_calibration, patient_folds
from mammopipe.training.evaluation.fit_audit import audit_score_maps
from mammopipe.training.metrics.bootstrap import Resamples
from mammopipe.training.metrics.calibration import expected_over_observed
from mammopipe.training.model.calibration import Calibration, ScoreMap, log_odds
from mammopipe.training.model.exam_scores import BreastRule, Level, cases_of, compared
from mammopipe.training.model.predictions import LeakError, TestPredictions, ValidationPredictions, pick

RULE = BreastRule.MEAN


def drawn(women: int, seed: int, kind: type = ValidationPredictions, views: int = 2):
    """Return logits of two classes of women with two breasts, whose cancers show as a shift of their images' logits."""
    generator = np.random.default_rng(seed)
    malignant = np.repeat(generator.random((women, 2)) < 0.12, views, axis=1)
    logits = generator.normal(malignant * 1.5 - 2.0, 1.0)
    patients = tuple(f"{woman:05d}" for woman in range(women) for _ in range(2 * views))
    breasts = tuple(f"{woman:05d}-{side}" for woman in range(women) for side in "LR" for _ in range(views))
    images = tuple(str(index) for index in range(len(patients)))
    values = logits.ravel()
    return kind(images, patients, breasts, malignant.astype(int).ravel(), np.stack([-values, values], axis=1))


def draws_of(predictions, resamples: int = 50) -> Resamples:
    return Resamples.draw(predictions.patients, n=resamples, seed=0)


def test_the_map_that_the_truth_was_drawn_with_is_found_within_the_sampling_error():
    generator, slope, intercept = np.random.default_rng(1), 0.6, -1.2
    misses = []
    for _ in range(40):
        scores = expit(generator.normal(-1, 1.5, 600))
        malignant = (generator.random(600) < expit(slope * logit(scores) + intercept)).astype(int)
        found = fit_map(malignant, scores)
        odds, shares = logit(scores), expit(slope * logit(scores) + intercept)
        design = np.stack([odds, np.ones(600)], axis=1)
        errors = np.sqrt(np.diag(np.linalg.inv(design.T @ (design * (shares * (1 - shares))[:, None]))))
        misses.append(np.array([found.slope - slope, found.intercept - intercept]) / errors)
        assert (found.cases, found.malignant) == (600, malignant.sum())
    assert np.abs(np.mean(misses, axis=0)).max() < 3 / np.sqrt(40), "no bias beyond chance"
    assert 0.7 < np.std(misses, axis=0).min() <= np.std(misses, axis=0).max() < 1.35, "the spread theory predicts"


def test_the_fit_is_that_of_independent_code():
    generator = np.random.default_rng(2)
    scores = generator.random(80)
    malignant = (generator.random(80) < 0.6 * scores).astype(int)
    positives = malignant.sum()
    targets = np.where(malignant, (positives + 1) / (positives + 2), 1 / (80 - positives + 2))

    def loss(values):
        shares = np.clip(1 / (1 + np.exp(-(values[0] ** 2 * log_odds(scores) + values[1]))), 1e-15, 1 - 1e-15)
        return -(targets * np.log(shares) + (1 - targets) * np.log(1 - shares)).sum()

    best = minimize(loss, [0.5, 0.0], method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-13, "maxiter": 4000}).x
    found = fit_map(malignant, scores)
    assert found.slope > 0.2, "not the bound"
    assert (found.slope, found.intercept) == (
        pytest.approx(best[0] ** 2, abs=1e-5),
        pytest.approx(best[1], abs=1e-5),
    )
    errors = found.probabilities(scores) - targets
    assert (errors.mean(), (errors * log_odds(scores)).mean()) == pytest.approx((0, 0), abs=5e-9)


def test_scores_that_are_all_equal_get_the_mean_of_the_targets():
    share = (20 * 21 / 22 + 60 * 1 / 62) / 80
    found = fit_map(np.repeat([0, 1], [60, 20]), np.full(80, 0.3))
    assert found == ScoreMap(0.0, pytest.approx(logit(share)), 80, 20)


def test_the_slope_is_bounded():
    malignant, scores = np.repeat([0, 1], [60, 20]), np.repeat([0.2, 0.2002], [60, 20])
    found = fit_map(malignant, scores)
    assert found.slope == pytest.approx(100, rel=1e-12) and found.slope <= 100
    shares = found.probabilities(scores)
    assert shares.mean() == pytest.approx((20 * 21 / 22 + 60 * 1 / 62) / 80, abs=1e-6) and shares[0] < shares[-1]


@pytest.mark.parametrize("gap", [0.0, 0.3])
def test_scores_that_separate_and_scores_that_mislead_have_a_map(gap):
    scores = np.concatenate([np.linspace(0.1, 0.4, 60), np.linspace(0.4, 0.8, 20) + gap / 2])
    malignant = np.repeat([0, 1], [60, 20])
    found = fit_map(malignant, scores)
    assert 0 < found.probabilities(scores).min() < 0.1 and 0.9 < found.probabilities(scores).max() < 0.99999
    assert (np.diff(found.probabilities(scores)) >= 0).all()
    misled = fit_map(1 - malignant, scores)
    assert misled.slope == 0 and misled.probabilities([0.1, 0.9]) == pytest.approx([0.75, 0.75], abs=0.01)
    constant = fit_map(malignant, np.full(80, 0.3))
    assert constant.slope == 0 and constant.probabilities([0.3])[0] == pytest.approx(0.25, abs=0.01)


def test_women_are_calibrated_where_their_scores_are_not():
    fitted_on, fresh = drawn(1500, 3), drawn(6000, 4, TestPredictions)
    calibration = Calibration(1.0, (0.0, 0.0))
    maps = fit_score_maps(fitted_on, calibration, RULE)
    for level in (Level.BREAST, Level.PATIENT):
        cases = cases_of(fresh, calibration, RULE)[level]
        shares = maps[level].map.probabilities(cases.scores)
        error = 1 / np.sqrt(maps[level].map.malignant) + 1 / np.sqrt(cases.malignant.sum())
        assert abs(expected_over_observed(cases.malignant, shares) - 1) < 2 * error
        assert abs(expected_over_observed(cases.malignant, cases.scores) - 1) > 2 * error
        for low, high in ((0, 0.1), (0.1, 0.3), (0.3, 0.6), (0.6, 1)):
            inside = (shares >= low) & (shares < high)
            spread = np.sqrt(shares[inside].mean() * (1 - shares[inside].mean()) / inside.sum())
            assert abs(cases.malignant[inside].mean() - shares[inside].mean()) < 4 * spread + 0.03


def test_the_figures_of_validation_are_cross_fitted_and_their_intervals_hold_1():
    found = drawn(400, 5)
    calibration = Calibration(1.0, (0.0, 0.0))
    maps = fit_score_maps(found, calibration, RULE)
    figures = score_figures(maps, calibration, RULE, found, draws_of(found))
    for level in ("breast", "patient"):
        ratio = figures[level]["expected_over_observed"]
        assert ratio["low"] < 1 < ratio["high"] and ratio["value"] == pytest.approx(1, abs=0.05)
        assert figures[level]["log_loss"]["value"] < figures[level]["log_loss_of_frequencies"]["value"]
        assert figures[level]["of_the_score"]["value"] != pytest.approx(1, abs=0.05)
    assert figures["breast"]["cases"] == 800 and figures["patient"]["cases"] == 400


def test_the_probabilities_of_a_fold_are_fitted_without_its_women():
    found = drawn(200, 5)
    folds = patient_folds(found)
    inside, outside = pick(found, np.flatnonzero(folds == 2)), pick(found, np.flatnonzero(folds != 2))
    calibration = fit_calibration(outside, choose_method(outside))
    maps = fit_score_maps(outside, calibration, RULE)
    crossed = cross_fitted_cases(found, RULE)
    for level, names in ((Level.BREAST, found.breasts), (Level.PATIENT, found.patients)):
        members = np.isin(np.unique(names), getattr(inside, f"{level}s"))
        expected = maps[level].map.probabilities(cases_of(inside, calibration, RULE)[level].scores)
        assert crossed[level][members] == pytest.approx(expected, abs=1e-12)
        assert len(crossed[level]) == len(members)


def test_a_level_whose_cases_are_the_calibrated_ones_keeps_its_scores():
    one_view = drawn(300, 6, views=1)
    maps = fit_score_maps(one_view, Calibration(1.0, (0.0, 0.0)), RULE)
    assert maps[Level.BREAST].map == ScoreMap(1.0, 0.0, 600, int(one_view.labels.sum()))
    assert maps[Level.BREAST].map.probabilities([0.2, 0.7]) == pytest.approx([0.2, 0.7])
    assert maps[Level.PATIENT].map.slope != 1


def test_too_few_women_have_no_map_and_the_reason():
    few = drawn(60, 7)
    labels = np.zeros_like(few.labels)
    labels[: 4 * (LEAST_PATIENTS - 1) : 4] = 1
    maps = fit_score_maps(replace(few, labels=labels), Calibration(), RULE)
    assert maps[Level.PATIENT] == FittedMap(None, "9 patients with a malignant patient; a fit needs 10")
    assert maps[Level.BREAST].as_dict() == {"reason": "9 patients with a malignant breast; a fit needs 10"}
    figures = score_figures(maps, Calibration(), RULE, replace(few, labels=labels), draws_of(few))
    assert figures["patient"] == {"reason": "9 patients with a malignant patient; a fit needs 10"}


def test_ten_patients_of_each_kind_are_enough_and_each_counts_once():
    few = drawn(20, 7)
    for women, words in ((9, "with a malignant"), (10, ""), (11, "with another")):
        labels = (np.arange(80) < 4 * women).astype(int)
        found = fit_score_maps(replace(few, labels=labels), Calibration(), RULE)
        for level in (Level.BREAST, Level.PATIENT):
            assert found[level].reason == (f"9 patients {words} {level}; a fit needs 10" if words else "")
            assert (found[level].map is None) == bool(words)


def test_compared_breasts_have_maps_of_their_own_scores():
    found = drawn(60, 7)
    comparison, (kept, _) = fit_comparison(found, 0.5, BreastRule.MAX), compared(found, 0.5)
    assert comparison.maps == fit_score_maps(kept, comparison.calibration, BreastRule.MAX)
    assert comparison.maps[Level.BREAST] != fit_score_maps(kept, comparison.calibration, RULE)[Level.BREAST]
    breasts = comparison.maps[Level.BREAST]
    assert breasts.map is not None and breasts.as_dict() == breasts.map.as_dict()
    thresholds = fit_thresholds(kept, comparison.calibration, BreastRule.MAX)
    assert all(comparison.thresholds[level] == thresholds[level] for level in (Level.BREAST, Level.PATIENT))


def test_nothing_is_fitted_on_test_and_the_audit_fits_again():
    found = drawn(200, 8)
    calibration = Calibration()
    with pytest.raises(LeakError, match="^probabilities of breasts and patients: "):
        fit_score_maps(drawn(200, 8, TestPredictions), calibration, RULE)
    maps = fit_score_maps(found, calibration, RULE)
    assert audit_score_maps("net", maps, calibration, found, RULE) == []
    other = fit_score_maps(drawn(200, 9), calibration, RULE)
    messages = [item.message for item in audit_score_maps("net", other, calibration, found, RULE)]
    assert any("slope of the map of the breast" in message for message in messages)
    assert any("intercept of the map of the patient" in message for message in messages)
    missing = {**maps, Level.PATIENT: FittedMap(None, "none")}
    assert len(audit_score_maps("net", missing, calibration, found, RULE)) == 4
