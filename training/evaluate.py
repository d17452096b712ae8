"""The evaluation job: measures, calibrates and compares all candidates, and prepares the best one for serving.

Reads the processing inputs `data` (the output of Segment) and `models` (`<cnn>/model.tar.gz`). Writes the processing
outputs `evaluation` (`evaluation.json`, `predictions.csv`, `report.html`, the cards) and `model` (`model.tar.gz`). A
leak does not stop the job: its verdict is in `evaluation.json`, which the pipeline's gate reads.
"""

import argparse
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mammopipe.processing.classes import class_indices
from mammopipe.processing.container.arguments import add_arguments, settings_in
from mammopipe.processing.container.job import run
from mammopipe.processing.container.paths import ContainerPaths
from mammopipe.processing.datasets.manifest import ImageRecord, Split, SplitProtocol
from mammopipe.processing.files import write_bytes, write_csv, write_json
from mammopipe.processing.jobs.missed import refuse_missed
from mammopipe.processing.splits.leakage_audit import Leak, audit_leakage
from mammopipe.training.evaluation.batch_prediction import breast_predictions, predict_breasts, predict_split
from mammopipe.training.evaluation.calibration_figures import calibration_figures
from mammopipe.training.evaluation.candidates import baseline, candidate_figures, deal_figures, selected_figures
from mammopipe.training.evaluation.config import EvaluationJobConfig
from mammopipe.training.evaluation.data import SegmentedData, read_candidates
from mammopipe.training.evaluation.finalise import complete
from mammopipe.training.evaluation.fit_audit import (
    Fit,
    audit_calibration,
    audit_comparison,
    audit_folds,
    audit_score_maps,
    audit_training,
    audited,
)
from mammopipe.training.evaluation.pointing_game import Outputs, outputs_of, pointing_game
from mammopipe.training.evaluation.selection import Choice, choose
from mammopipe.training.evaluation.test_reads import earlier_reads, register_read
from mammopipe.training.fitting.out_of_fold import OutOfFold
from mammopipe.training.metrics.bootstrap import Resamples
from mammopipe.training.metrics.choice import ChooseBy
from mammopipe.training.model import predictions
from mammopipe.training.model.architecture import Level
from mammopipe.training.model.archive import pack
from mammopipe.training.model.exam_scores import BreastRule
from mammopipe.training.model.operating_points import Goal
from mammopipe.training.model.predictions import Kind, TestPredictions, TrainingPredictions, ValidationPredictions
from mammopipe.training.networks.model_directory import LoadedModel
from mammopipe.training.reporting.examples import MOST_MISSED_SHOWN, draw_examples, missed_cancers, pick_examples
from mammopipe.training.reporting.model_card import write_cards
from mammopipe.training.reporting.report import render

SCHEMA = 1
PROTOCOL_VERDICTS = {
    SplitProtocol.PATIENT: "patient, each patient's images are all in one split",
    SplitProtocol.FILM: "film, a patient's images may be in several splits; only models of a split by patient are "
    "registered",
    SplitProtocol.PUBLISHED: "published, leaky by construction, because copies of one image may be in several splits; "
    "only models of a split by patient are registered",
}
"""Description of each protocol in the gate's message and in the report."""
_REPORTED = ("torch", "torchvision", "numpy", "openvino")


def main(arguments: Sequence[str]) -> None:
    """Run the job on the container's folders."""
    parser = argparse.ArgumentParser(
        prog="python -m mammopipe.training.evaluate", description=__doc__, allow_abbrev=False
    )
    add_arguments(parser, EvaluationJobConfig)
    config = settings_in(parser.parse_args(arguments), EvaluationJobConfig)
    paths = ContainerPaths.from_environment()
    data = SegmentedData.read(paths.processing_input("data"))
    refuse_missed(data.folder, data.folder, "segment", len(data.records))
    with TemporaryDirectory() as name:
        scratch = Path(name)
        models = read_candidates(paths.processing_input("models"), scratch, data.preprocess)
        data = data.asked_as(models).with_out_of_fold(
            {name: OutOfFold.read(scratch / name, model.description) for name, model in models.items()}
        )
        data.require_alone(config.other_breast)
        # Before any test image is read: an unreadable register must end the job while the split is still unseen.
        earlier = earlier_reads(paths)
        evaluation, images, outputs = evaluate(data, models, config)
        model = models[evaluation["selected"]["cnn"]]
        directory = scratch / evaluation["selected"]["cnn"]
        evaluation = {**evaluation, "test_reads": register_read(evaluation, data, directory, paths, earlier)}
        evaluation = complete(evaluation, data, model, directory, outputs)
        page = render(
            evaluation,
            draw_examples([*evaluation["examples"], *evaluation["missed_cancers"][:MOST_MISSED_SHOWN]], data, model),
        )
        pack(directory, paths.processing_output("model") / "model.tar.gz")
    write_bytes(paths.processing_output("evaluation") / "report.html", page.encode())
    write_csv(
        paths.processing_output("evaluation") / predictions.FILE, predictions.columns(evaluation["classes"]), images
    )
    write_json(paths.processing_output("evaluation") / "evaluation.json", evaluation)
    write_cards(evaluation, paths.processing_output("evaluation"))
    print(summary(evaluation), flush=True)


def evaluate(
    data: SegmentedData, models: Mapping[str, LoadedModel], config: EvaluationJobConfig
) -> tuple[dict[str, Any], list[dict[str, str]], Outputs]:
    """Evaluate all candidates and select one; the networks predict the test images only after the selection.

    Args:
        data: The segmented images.
        models: The candidates by name.
        config: Settings of the job.

    Returns:
        The content of `evaluation.json` (leakage audit, metrics of every candidate on validation and test, baseline,
        selection), the rows of `predictions.csv`, and the selected network's outputs for the validation images.

    Raises:
        ManifestError: Validation lacks a class.
    """
    rows = {split: data.judged(split) for split in (Split.VALIDATION, Split.TEST)}
    draws = {split: config.resamples(records) for split, records in rows.items()}
    copied = (Split.TRAIN, Split.VALIDATION) if data.out_of_fold else (Split.TRAIN,)
    leakage = audit_leakage(list(data.records), data.folder, copied=copied, folds=data.fold_names).as_dict()

    validation = {
        name: held.predictions(rows[Split.VALIDATION]) for name, held in data.out_of_fold.items()
    } or _predict(ValidationPredictions, models, data, data.images(Split.VALIDATION))
    choice = choose(
        validation,
        classes=data.classes,
        resamples=draws[Split.VALIDATION],
        choice=config.choice,
        other_breast=config.other_breast,
    )
    fits, findings = _audited_fits(choice, validation, data, models, config)
    selected = models[choice.selected]
    # The first time that a network sees a test image: nothing is chosen or fitted after this line.
    outputs = {split: outputs_of(selected, data.in_folders(data.images(split))) for split in rows}
    test, judged = _predicted_test(choice.selected, outputs[Split.TEST], data, models), rows[Split.VALIDATION]

    candidates = {
        name: {
            **candidate_figures(
                models[name], choice.candidates[name], validation[name], test[name], draws, config.breast_rule
            ),
            "deals": deal_figures(data.out_of_fold.get(name), judged, config.other_breast, config.breast_rule),
        }
        for name in sorted(models)
    }
    return (
        {
            **_circumstances(data, config),
            **audited(leakage, fits, findings, data.records),
            "candidates": candidates,
            "baseline": baseline(data, rows, draws),
            **_of_selected(choice, candidates, validation, test, data, selected, outputs, draws, config),
            "versions": {"python": platform.python_version(), **{name: version(name) for name in _REPORTED}},
        },
        _prediction_rows(choice, validation, test, data, models, config),
        outputs[Split.VALIDATION],
    )


def _prediction_rows(
    choice: Choice,
    validation: Mapping[str, ValidationPredictions],
    test: Mapping[str, TestPredictions],
    data: SegmentedData,
    models: Mapping[str, LoadedModel],
    config: EvaluationJobConfig,
) -> list[dict[str, str]]:
    """Return the rows of `predictions.csv`."""
    return [
        row
        for name in sorted(models)
        for scores in (*_of_training(name, models, data, config), validation[name], test[name])
        for row in predictions.prediction_rows(name, scores, choice.candidates[name].fit.calibration)
    ]


def _of_training(
    name: str, models: Mapping[str, LoadedModel], data: SegmentedData, config: EvaluationJobConfig
) -> list[TrainingPredictions]:
    """Return a candidate's predictions of the originals that it was trained on; none without `predict_training`.

    A cross-validated candidate was trained on the whole development set. Its out-of-fold predictions of the same images
    count as validation.
    """
    if not config.predict_training:
        return []
    splits = (Split.TRAIN, Split.VALIDATION) if data.out_of_fold else (Split.TRAIN,)
    rows = [record for split in splits for record in data.originals(split)]
    return [
        _predict(TrainingPredictions, {name: models[name]}, data, part, folder)[name]
        for part, folder in data.in_folders(rows)
    ]


def _of_selected(
    choice: Choice,
    candidates: Mapping[str, Any],
    validation: Mapping[str, ValidationPredictions],
    test: Mapping[str, TestPredictions],
    data: SegmentedData,
    model: LoadedModel,
    outputs: Mapping[Split, Outputs],
    draws: Mapping[Split, Resamples],
    config: EvaluationJobConfig,
) -> dict[str, Any]:
    """Return the keys of `evaluation.json` that only the selected candidate has: metrics, calibration, examples etc."""
    rows = {split: data.judged(split) for split in draws}
    candidate, judged = candidates[choice.selected], choice.candidates[choice.selected]
    fit = judged.fit
    chosen = {Split.VALIDATION: validation[choice.selected], Split.TEST: test[choice.selected]}
    threshold = fit.operating_points[Goal.SENSITIVITY].threshold
    level = "out-of-fold" if data.out_of_fold else str(Split.VALIDATION)
    return {
        "other_side": model.other_side,
        "selected": selected_figures(candidate, choice, chosen, rows, draws, level),
        "calibration": calibration_figures(
            validation[choice.selected], test[choice.selected], draws, judged, config.breast_rule
        ),
        "pointing": {
            str(split): pointing_game(images, outputs[split].pointed, model.classes, config.resamples(images))
            for split, images in ((split, data.images(split)) for split in rows)
        },
        "examples": pick_examples(chosen, fit.calibration, data.classes),
        "missed_cancers": missed_cancers(chosen, fit.calibration, threshold, data.records, data.classes),
    }


def _circumstances(data: SegmentedData, config: EvaluationJobConfig) -> dict[str, Any]:
    """Return the first keys of `evaluation.json`, which hold no figure: data, protocol and settings."""
    folds = [held.folds.max() for held in data.out_of_fold.values()]
    return {
        "schema": SCHEMA,
        "profile": str(config.profile),
        "min_macro_auc": config.min_macro_auc,
        "min_choice": config.min_choice,
        "protocol": str(data.protocol),
        "protocol_verdict": PROTOCOL_VERDICTS[data.protocol],
        "validation_folds": int(max(folds)) + 1 if folds else 0,
        "level": str(data.level),
        "dataset": data.dataset,
        "synthetic": data.synthetic,
        "classes": [str(label) for label in data.classes],
        "labels": data.labels(),
        "counts": data.counts(),
        "stage": dict(data.stage),
        "breast_rule": str(config.breast_rule),
        "other_breast": config.other_breast,
        "bootstrap": {"resamples": config.bootstrap, "seed": config.seed},
    }


def _predicted_test(
    selected: str, outputs: Outputs, data: SegmentedData, models: Mapping[str, LoadedModel]
) -> dict[str, TestPredictions]:
    """Return the predictions of all networks for the test images; those of the selected one are in its outputs."""
    records, model = data.images(Split.TEST), models[selected]
    if data.level is Level.BREAST:
        of_selected = breast_predictions(TestPredictions, model, records, outputs.logits, outputs.features)
    else:
        of_selected = TestPredictions.of(records, class_indices(records, model.classes), outputs.logits)
    others = {name: other for name, other in models.items() if name != selected}
    return {selected: of_selected, **(_predict(TestPredictions, others, data, records) if others else {})}


def _predict(
    kind: type[Kind],
    models: Mapping[str, LoadedModel],
    data: SegmentedData,
    records: Sequence[ImageRecord],
    folder: Path | None = None,
) -> dict[str, Kind]:
    """Return each model's predictions of the images, which lie in the folder of the kind's split or in another one."""
    folder = folder or data.image_folder(kind.split)
    if data.level is Level.BREAST:
        return predict_breasts(kind, models, records, folder)
    return predict_split(kind, models, records, folder, shape=(data.preprocess.height, data.preprocess.width))


def _audited_fits(
    choice: Choice,
    validation: Mapping[str, ValidationPredictions],
    data: SegmentedData,
    models: Mapping[str, LoadedModel],
    config: EvaluationJobConfig,
) -> tuple[list[Fit], list[Leak]]:
    """Return which images each fit used, and the audit's findings about the fits, the folds and the training."""
    fits, findings = _fits(choice, validation, config.breast_rule)
    findings += [
        finding
        for name, held in data.out_of_fold.items()
        for deal in held.each_deal
        for finding in audit_folds(name, deal, data.judged(Split.VALIDATION), data.protocol)
    ]
    findings += audit_training(
        {name: model.description["training"]["data_digest"] for name, model in models.items()}, data.learnt, data.folder
    )
    return fits, findings


def _fits(
    choice: Choice, validation: Mapping[str, ValidationPredictions], rule: BreastRule
) -> tuple[list[Fit], list[Leak]]:
    """Return the fits of the selection, and findings for values that differ when fitted again on validation."""
    fits, findings = [], []
    for name, judged in validation.items():
        used = choice.candidates[name]
        for what in ("calibration and thresholds", "probabilities of breasts and patients"):
            fits.append(Fit.on(f"{what} of {name}", judged))
        findings += audit_calibration(name, used.fit, judged)
        findings += audit_score_maps(name, used.maps, used.fit.calibration, judged, rule)
        findings += audit_comparison(name, used.comparison, judged, rule)
    fits.append(Fit.on("choice of the network", validation[choice.selected]))
    return fits, findings


def summary(evaluation: Mapping[str, Any]) -> str:
    """Return the candidates' macro AUC and the selection as lines of text."""
    lines = [
        f"{name:<14} macro AUC {_text(candidate['validation']['macro_auc'])} on validation, "
        f"{_text(candidate['test']['macro_auc'])} on test"
        for name, candidate in evaluation["candidates"].items()
    ]
    chosen = evaluation["selected"]["choice"]
    if chosen["figure"] != ChooseBy.MACRO_AUC:
        lines.append(f"{evaluation['selected']['cnn']:<14} {chosen['words']} {_text(chosen)} chose it")
    return "\n".join([*lines, f"selected {evaluation['selected']['cnn']}: {evaluation['selected']['rule']}"])


def _text(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return "undefined"
    bounds = f" [{figure['low']:.3f}, {figure['high']:.3f}]" if figure["low"] is not None else ""
    return f"{figure['value']:.3f}{bounds}"


if __name__ == "__main__":
    sys.exit(run(main, "message"))
