"""The evaluation job: all candidates, measured, calibrated and compared; the best one made ready to serve.

Reads the processing inputs `data` (what Segment left) and `models` (`<cnn>/model.tar.gz`); writes the processing
outputs `evaluation` (`evaluation.json`, `report.html`) and `model` (`model.tar.gz`). A leak does not stop it: the
verdict goes into `evaluation.json`, where the pipeline's gate reads it.
"""

import argparse
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from processing.errors import ConfigError, ManifestError
from processing.files import write_bytes, write_json
from processing.job import run
from processing.paths import ContainerPaths
from processing.records import ImageRecord, Label, Split
from processing.split import audit_leakage
from training import artifact
from training.artifact import LoadedModel
from training.bootstrap import Floats, Resamples
from training.calibration import Calibration, Goal
from training.decisions import sensitivity_at, specificity_at
from training.detection import by_level
from training.evaluation_data import CLASSES, SegmentedData, read_candidates
from training.examples import draw_examples, pick_examples
from training.exams import BreastRule, Level, cases_of, image_cases, malignancy
from training.export import export_network
from training.forward import logits_and_features, predict_split, read_films
from training.predictions import Kind, Predictions, TestPredictions, ValidationPredictions, softmax
from training.reference import fit_reference, some
from training.report import render
from training.scorecard import figure, scorecard, without_plots
from training.selection import RULE, Candidate, Choice, choose
from training.subgroups import subgroups
from training.usual_figures import fit_usual

SCHEMA = 1
_REPORTED = ("torch", "torchvision", "numpy", "openvino")


class Profile(StrEnum):
    """What a run is for."""

    QUICK = "quick"
    """To try the machinery: the metric limit is open, and the figures mean nothing."""
    FULL = "full"


@dataclass(frozen=True)
class EvaluationConfig:
    """What shapes an evaluation but the data and the candidates."""

    profile: Profile = Profile.FULL
    """Shown in the report and kept in `evaluation.json`."""
    min_macro_auc: float = 0.6
    """The limit that the gate compares the chosen model's validation macro AUC with; 0 is open."""
    bootstrap: int = 1000
    """Resamples of each interval."""
    seed: int = 0
    """Of the resamples."""
    breast_rule: BreastRule = BreastRule.MEAN
    """How the scores of a breast's views become one."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_macro_auc <= 1:
            raise ConfigError(f"min_macro_auc={self.min_macro_auc} must lie in 0..1")
        if not 100 <= self.bootstrap <= 100_000:
            raise ConfigError(f"bootstrap={self.bootstrap} must lie in 100..100000 resamples")
        if self.seed < 0:
            raise ConfigError(f"seed={self.seed} must not be below 0")

    def resamples(self, records: Sequence[ImageRecord]) -> Resamples:
        """Return the draws of patients that all intervals of a split share: candidates are compared on the same."""
        return Resamples.draw([record.patient_id for record in records], n=self.bootstrap, seed=self.seed)


def main(arguments: Sequence[str]) -> None:
    """Run the job on the container's folders."""
    options = _parser().parse_args(arguments)
    config = EvaluationConfig(Profile(options.profile), options.min_macro_auc, options.bootstrap, options.seed,
                              BreastRule(options.breast_rule))
    paths = ContainerPaths.from_environment()
    data = SegmentedData.read(paths.processing_input("data"))
    with TemporaryDirectory() as name:
        scratch = Path(name)
        models = read_candidates(paths.processing_input("models"), scratch, data.preprocess)
        evaluation = evaluate(data, models, config)
        model = models[evaluation["selected"]["cnn"]]
        evaluation = complete(evaluation, data, model, scratch / evaluation["selected"]["cnn"])
        page = render(evaluation, draw_examples(evaluation["examples"], data, model))
        artifact.pack(scratch / evaluation["selected"]["cnn"], paths.processing_output("model") / "model.tar.gz")
    write_bytes(paths.processing_output("evaluation") / "report.html", page.encode())
    write_json(paths.processing_output("evaluation") / "evaluation.json", evaluation)
    print(summary(evaluation), flush=True)


def evaluate(data: SegmentedData, models: Mapping[str, LoadedModel], config: EvaluationConfig) -> dict[str, Any]:
    """Return `evaluation.json`: leakage, every candidate on validation and test, the baseline, the choice.

    The networks see the test films after the choice is made. Raises `ManifestError` where validation lacks a class.
    """
    rows = {split: data.judged(split) for split in (Split.VALIDATION, Split.TEST)}
    draws = {split: config.resamples(records) for split, records in rows.items()}
    leakage = audit_leakage(list(data.records), data.folder)
    print(f"leakage audit: {leakage.verdict}", flush=True)

    validation = _predict(ValidationPredictions, models, data, rows[Split.VALIDATION])
    choice = choose(validation, classes=CLASSES, resamples=draws[Split.VALIDATION], breast_rule=config.breast_rule)
    test = _predict(TestPredictions, models, data, rows[Split.TEST])

    candidates = {name: _candidate(models[name], choice.candidates[name], validation[name], test[name], draws,
                                   config.breast_rule) for name in sorted(models)}
    chosen = {Split.VALIDATION: validation[choice.selected], Split.TEST: test[choice.selected]}
    temperature = choice.candidates[choice.selected].calibration.temperature
    return {
        "schema": SCHEMA, "profile": str(config.profile), "min_macro_auc": config.min_macro_auc, "protocol": "patient",
        "dataset": data.dataset, "synthetic": data.synthetic,
        "classes": list(CLASSES), "counts": data.counts(), "stage": dict(data.stage),
        "breast_rule": str(config.breast_rule), "bootstrap": {"resamples": config.bootstrap, "seed": config.seed},
        "leakage": leakage.as_dict(),
        "candidates": candidates,
        "baseline": baseline(data, rows, draws),
        "selected": _selected(candidates[choice.selected], choice, chosen, rows, draws),
        "examples": pick_examples(chosen, temperature, CLASSES),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _REPORTED}},
    }


def _predict(kind: type[Kind], models: Mapping[str, LoadedModel], data: SegmentedData,
             records: Sequence[ImageRecord]) -> dict[str, Kind]:
    shape = (data.preprocess.height, data.preprocess.width)
    return predict_split(kind, models, records, data.films(kind.split), shape=shape)


def _candidate(model: LoadedModel, judged: Candidate, validation: ValidationPredictions, test: TestPredictions,
               draws: Mapping[Split, Resamples], rule: BreastRule) -> dict[str, Any]:
    training, temperature = model.description["training"], judged.calibration.temperature
    measured = {split: by_level(cases_of(predictions, temperature, rule), judged.thresholds, draws[split])
                for split, predictions in ((Split.VALIDATION, validation), (Split.TEST, test))}
    on_test = scorecard(test.labels, test.probabilities(temperature), classes=CLASSES, resamples=draws[Split.TEST])
    return {
        "architecture": model.description["architecture"], "initialisation": model.description["initialisation"],
        "epochs_run": training["epochs_run"], "best_epoch": training["best_epoch"], "history": training["history"],
        "seconds": training["seconds"], "temperature": temperature,
        "validation": {**judged.validation, **measured[Split.VALIDATION]},
        "test": {**on_test, **measured[Split.TEST]},
    }


def _selected(candidate: Mapping[str, Any], choice: Choice, chosen: Mapping[Split, Predictions],
              rows: Mapping[Split, Sequence[ImageRecord]], draws: Mapping[Split, Resamples]) -> dict[str, Any]:
    judged = choice.candidates[choice.selected]
    figures = {str(split): {**without_plots(candidate[split]),
                            "subgroups": _subgroups(judged, chosen[split], rows[split], draws[split])}
               for split in (Split.VALIDATION, Split.TEST)}
    # A definition cannot round a number, and the gate's sentence is read by people.
    figure = f"{candidate['validation']['macro_auc']['value']:.4f}"
    return {"cnn": choice.selected, "rule": RULE, "figure": figure, **figures,
            "operating_points": _operating_points(judged.calibration, chosen, draws)}


def _subgroups(judged: Candidate, predictions: Predictions, rows: Sequence[ImageRecord],
               draws: Resamples) -> dict[str, Any]:
    images = image_cases(predictions, judged.calibration.temperature)
    return subgroups(rows, images, judged.thresholds[Level.IMAGE][Goal.SENSITIVITY], draws)


def _operating_points(calibration: Calibration, chosen: Mapping[Split, Predictions],
                      draws: Mapping[Split, Resamples]) -> dict[str, Any]:
    """Return each operating point as it was fixed on validation, and what it does on either split, with intervals."""
    points: dict[str, Any] = {}
    for aim, point in calibration.as_dict().items():
        points[aim] = dict(point)
        for split, predictions in chosen.items():
            malignant, scores = malignancy(predictions, calibration.temperature)
            points[aim][f"on_{split}"] = {
                metric.name: figure(metric, malignant, scores, draws[split])
                for metric in (sensitivity_at(point["threshold"]), specificity_at(point["threshold"]))}
    return points


def baseline(data: SegmentedData, rows: Mapping[Split, Sequence[ImageRecord]],
             draws: Mapping[Split, Resamples]) -> dict[str, Any]:
    """Return the figures of always naming the training originals' most frequent class, at their class frequencies."""
    counts = data.counts()[Split.TRAIN]
    frequencies: Floats = np.array([counts[name] for name in CLASSES], np.float64) / max(counts["images"], 1)
    if not frequencies.any():
        raise ManifestError(f"{data.folder}: split=train has no original image; the majority is that of training")
    figures: dict[str, Any] = {"class": CLASSES[int(frequencies.argmax())]}
    for split, records in rows.items():
        labels = np.array([record.label.rank for record in records], np.int64)
        always = np.tile(frequencies, (len(labels), 1))
        figures[str(split)] = scorecard(labels, always, classes=CLASSES, resamples=draws[split])
    return figures


def complete(evaluation: Mapping[str, Any], data: SegmentedData, model: LoadedModel, folder: Path) -> dict[str, Any]:
    """Complete the chosen model's directory with what was fitted and measured; return the evaluation with how it went.

    Its `model.json` is written last: it vouches for the other files.
    """
    started = time.monotonic()
    rows, films = data.judged(Split.VALIDATION), data.films(Split.VALIDATION)
    description = describe_selected(artifact.read_description(folder), evaluation)
    _, trained_on = logits_and_features(model, some(data.originals(Split.TRAIN)), data.films(Split.TRAIN))
    logits, features = logits_and_features(model, rows, films)
    probabilities = softmax(logits / description["calibration"]["temperature"])
    reference = fit_reference(trained_on, features, probabilities, malignant=CLASSES.index(Label.MALIGNANT))
    description["reference"] = reference.save(folder)
    description["reference"]["distributions"] = fit_usual(
        data.originals(Split.TRAIN), rows, probabilities, malignant=CLASSES.index(Label.MALIGNANT))
    export = export_network(model, folder, description, partial(_read, rows, films, model.input_shape), logits)
    if export.shipped:
        description["engines"] = export.described(folder)
    artifact.check_description(description, folder / artifact.DESCRIPTION_FILE)
    write_json(folder / artifact.DESCRIPTION_FILE, description)
    print(f"export: {export.reason} It took {time.monotonic() - started:.1f} s with the reference.", flush=True)
    return {**evaluation, "export": export.as_dict()}


def _read(rows: Sequence[ImageRecord], folder: Path, shape: tuple[int, int],
          places: Sequence[int]) -> Iterator[npt.NDArray[np.float32]]:
    return read_films([rows[place] for place in places], folder, shape=shape)


def describe_selected(description: Mapping[str, Any], evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Return the chosen model's `model.json` with temperature, operating points and metrics filled in."""
    selected = evaluation["selected"]
    fitted = ("threshold", "target", "sensitivity", "specificity")
    return {
        **description,
        "calibration": {"temperature": evaluation["candidates"][selected["cnn"]]["temperature"],
                        "fitted_on": str(Split.VALIDATION), "breast_rule": evaluation["breast_rule"]},
        "operating_points": {aim: {key: point[key] for key in fitted}
                             for aim, point in selected["operating_points"].items()},
        "metrics": {"profile": evaluation["profile"], "rule": selected["rule"], "validation": selected["validation"],
                    "test": selected["test"]},
    }


def summary(evaluation: Mapping[str, Any]) -> str:
    """Return the candidates' macro AUC and the choice as lines of text."""
    lines = [f"{name:<14} macro AUC {_text(candidate['validation']['macro_auc'])} on validation, "
             f"{_text(candidate['test']['macro_auc'])} on test" for name, candidate in evaluation["candidates"].items()]
    return "\n".join([*lines, f"selected {evaluation['selected']['cnn']}: {evaluation['selected']['rule']}"])


def _text(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return "undefined"
    bounds = f" [{figure['low']:.3f}, {figure['high']:.3f}]" if figure["low"] is not None else ""
    return f"{figure['value']:.3f}{bounds}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__, allow_abbrev=False)
    parser.add_argument("--profile", choices=[str(profile) for profile in Profile], default=str(Profile.FULL))
    parser.add_argument("--min-macro-auc", type=float, default=EvaluationConfig.min_macro_auc,
                        help="limit of the gate, shown in the report; 0 is open")
    parser.add_argument("--bootstrap", type=int, default=EvaluationConfig.bootstrap, help="resamples of each interval")
    parser.add_argument("--seed", type=int, default=EvaluationConfig.seed, help="of the resamples")
    parser.add_argument("--breast-rule", choices=[str(rule) for rule in BreastRule], default=str(BreastRule.MEAN),
                        help="how the scores of a breast's views become one")
    return parser


if __name__ == "__main__":
    sys.exit(run(main, "message"))
