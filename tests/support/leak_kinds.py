"""Plants each kind of leak in a clean set of segmented films, and returns which check of the product found it.

A leaked image is planted once for every test film of a set, so that the found ones can be counted. A leak in something
fitted (weights, statistics, thresholds) is planted in a whole evaluation.
"""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np

from mammopipe.processing.augmentation import Augmenter
from mammopipe.processing.container.paths import ContainerPaths
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Split, write_manifest
from mammopipe.processing.files import write_json
from mammopipe.processing.splits.leakage_audit import Leak, audit_leakage
from mammopipe.training.evaluate import evaluate
from mammopipe.training.evaluation.batch_prediction import predict_split
from mammopipe.training.evaluation.calibration import calibrate
from mammopipe.training.evaluation.config import EvaluationJobConfig
from mammopipe.training.evaluation.data import SegmentedData
from mammopipe.training.evaluation.finalise import complete
from mammopipe.training.model.predictions import LeakError, TestPredictions, ValidationPredictions
from mammopipe.training.train import read_inputs
from tests.support.clean_set import CleanSet, Pixels


@dataclass(frozen=True)
class Outcome:
    """How many leaks of one kind were planted, and how many were found."""

    planted: int
    caught: int
    by: str
    """The check of the product that found them."""
    message: str
    """The message about the first."""


Planted = Callable[[CleanSet, Path], Outcome]
CONFIG = EvaluationJobConfig(bootstrap=100)


def rotated(pixels: Pixels) -> Pixels:
    rows, columns = pixels.shape
    turn = cv2.getRotationMatrix2D((columns / 2, rows / 2), 12, 0.95)
    return np.asarray(cv2.warpAffine(pixels, turn, (columns, rows)), np.uint16)


def flipped(pixels: Pixels) -> Pixels:
    return np.ascontiguousarray(pixels[:, ::-1])


def scaled(pixels: Pixels) -> Pixels:
    return np.asarray(cv2.resize(pixels, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA), np.uint16)


def encoded(pixels: Pixels) -> Pixels:
    done, data = cv2.imencode(".jpg", (pixels >> 8).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 75])
    assert done
    return cv2.imdecode(data, cv2.IMREAD_GRAYSCALE).astype(np.uint16) * 257


def lighter(pixels: Pixels) -> Pixels:
    return np.rint(65535 * (pixels / 65535) ** 0.6).astype(np.uint16)


def cropped(pixels: Pixels) -> Pixels:
    edge = pixels.shape[0] // 10
    return np.ascontiguousarray(pixels[edge:-edge])


def noisy(pixels: Pixels) -> Pixels:
    drawn = np.random.default_rng(0).normal(0, 0.01 * 65535, pixels.shape)
    return np.where(pixels > 0, np.clip(pixels + drawn, 1, 65535), 0).astype(np.uint16)


def _caught(clean: CleanSet, records: Sequence[ImageRecord], pairs: Iterable[tuple[str, str]]) -> Outcome:
    """Audit a set with leaks; each leak is a pair of images, and is found if one finding names both."""
    findings = audit_leakage(records, clean.folder).findings
    wanted = [set(pair) for pair in pairs]
    hits = [[item for item in findings if pair <= set(item.images)] for pair in wanted]
    found = [several[0] for several in hits if several]
    kinds = sorted({item.kind for several in hits for item in several})
    return Outcome(len(wanted), len(found), f"audit_leakage: {', '.join(kinds)}", found[0].message if found else "")


def copies(change: Callable[[Pixels], Pixels]) -> Planted:
    """Return a function that adds a changed copy of every test film to training, as a film of another patient."""

    def plant(clean: CleanSet, scratch: Path) -> Outcome:
        leaks = []
        for name in clean.tested():
            pixels, record = clean.films[name]
            other = replace(record, image_id=f"{name}-leak", patient_id=f"{name}-leak", split=Split.TRAIN)
            leaks.append(clean.store(change(pixels), other))
        return _caught(clean, [*clean.records, *leaks], [(name, f"{name}-leak") for name in clean.tested()])

    return plant


def other_images(clean: CleanSet, scratch: Path) -> Outcome:
    """Move one film of every test patient with two films into training."""
    patients = {clean.films[name][1].patient_id: name for name in clean.tested()}
    first = {clean.films[name][1].patient_id: name for name in reversed(clean.tested())}
    moved = {name for patient, name in patients.items() if first[patient] != name}
    records = [replace(record, split=Split.TRAIN) if record.image_id in moved else record for record in clean.records]
    return _caught(clean, records, [(first[clean.films[name][1].patient_id], name) for name in sorted(moved)])


def relabelled(clean: CleanSet, scratch: Path) -> Outcome:
    """Add every test film unchanged to training, with another name and another label."""
    leaks = []
    for name in clean.tested():
        pixels, record = clean.films[name]
        label = list(Label)[(record.label.rank + 1) % 3]
        leaks.append(
            clean.store(
                pixels,
                replace(
                    record,
                    image_id=f"{name}-again",
                    patient_id=f"{name}-again",
                    label=label,
                    lesions=(),
                    split=Split.TRAIN,
                ),
            )
        )
    return _caught(clean, [*clean.records, *leaks], [(name, f"{name}-again") for name in clean.tested()])


def children(clean: CleanSet, scratch: Path) -> Outcome:
    """Add an augmented copy of every test film to training; the copy names its true source."""
    leaks = []
    for name in clean.tested():
        pixels, record = Augmenter().copy(*clean.films[name], 5)
        leaks.append(clean.store(pixels, replace(record, patient_id=f"{name}-child", split=Split.TRAIN)))
    return _caught(clean, [*clean.records, *leaks], [(leak.source_image_id, leak.image_id) for leak in leaks])


def children_of_another_source(clean: CleanSet, scratch: Path) -> Outcome:
    """Add an augmented copy of every test film to training; the copy names a training film as its source."""
    claimed = next(record for _, record in clean.films.values() if record.split is Split.TRAIN)
    leaks = []
    for name in clean.tested():
        pixels, record = Augmenter().copy(*clean.films[name], 6)
        leaks.append(
            clean.store(
                pixels,
                replace(
                    record,
                    image_id=f"{name}-other-source",
                    patient_id=claimed.patient_id,
                    source_image_id=claimed.image_id,
                    label=claimed.label,
                    split=Split.TRAIN,
                ),
            )
        )
    return _caught(clean, [*clean.records, *leaks], [(name, f"{name}-other-source") for name in clean.tested()])


class TestImageInTraining(SegmentedData):
    """Returns a test film among the training originals, as a wrong selection of rows would."""

    def originals(self, split: Split) -> tuple[ImageRecord, ...]:
        rows = super().originals(split)
        return (*rows, _copied_test_image(self, split)) if split is Split.TRAIN else rows


class TestImageInValidation(SegmentedData):
    """Returns a test film among the validation images."""

    def images(self, split: Split) -> tuple[ImageRecord, ...]:
        rows = super().images(split)
        return (*rows, _copied_test_image(self, split)) if split is Split.VALIDATION else rows


def _copied_test_image(data: SegmentedData, split: Split) -> ImageRecord:
    """Copy the first test film to the folder of another split, and return its row."""
    record = next(record for record in data.records if record.split is Split.TEST)
    shutil.copyfile(data.folder / record.path, data.image_folder(split) / f"{record.image_id}.png")
    return record


def evaluation(
    clean: CleanSet, scratch: Path, kind: type[SegmentedData] = SegmentedData, digest: str | None = None
) -> dict:
    """Return `evaluation.json` of the set, computed by the evaluation job's own functions."""
    data, model = clean.data(kind), clean.candidate(scratch / "model", digest)
    found, _, outputs = evaluate(data, {"modified_cnn": model}, CONFIG)
    return complete(found, data, model, scratch / "model", outputs)


def _outcome(found: Mapping, *kinds: str) -> Outcome:
    """Return the outcome of one leak that the evaluation's audit must report with a finding of one of these kinds."""
    items = [item for item in found["leakage"]["findings"] if item["kind"] in kinds]
    assert found["leakage"]["passed"] == (not found["leakage"]["findings"])
    return Outcome(
        1,
        min(len(items), 1),
        f"Evaluate: {', '.join(sorted({item['kind'] for item in items}))}",
        items[0]["message"] if items else "",
    )


def trained_on_test(clean: CleanSet, scratch: Path) -> Outcome:
    """Train also on a test film, which changes the weights and the batch statistics."""
    return _outcome(
        evaluation(clean, scratch, digest=training_job_digest(clean, scratch / "job", clean.tested()[:1])),
        "trained-on-other-films",
    )


def training_job_digest(clean: CleanSet, base: Path, moved: Sequence[str] = ()) -> str:
    """Return the digest that the training job states for the set, with these patients' test films moved to training."""
    paths = ContainerPaths(base)
    owners = {clean.films[name][1].patient_id for name in moved}
    rows = [replace(record, split=Split.TRAIN) if record.patient_id in owners else record for record in clean.records]
    for record in rows:
        target = paths.channel(str(record.split)) / f"{record.image_id}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(clean.folder / record.path, target)
    write_manifest(rows, paths.channel("manifest") / "manifest.csv")
    paths.channel("stage").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(clean.folder / "stage.json", paths.channel("stage") / "stage.json")
    write_json(paths.hyperparameters, {"cnn": "modified_cnn"})
    return read_inputs(paths).data_digest


def statistic_of_test(clean: CleanSet, scratch: Path) -> Outcome:
    """Standardise the features with a mean and a covariance that include a test film."""
    return _outcome(evaluation(clean, scratch, TestImageInTraining), "fitted-on-test")


def calibrated_on_test(clean: CleanSet, scratch: Path) -> Outcome:
    """Add a test film to those on which temperature and thresholds are fitted."""
    return _outcome(evaluation(clean, scratch, TestImageInValidation), "fitted-on-test")


def predictions_of_test(clean: CleanSet, scratch: Path) -> TestPredictions:
    data, model = clean.data(), clean.candidate(scratch / "probe")
    shape = (clean.config.height, clean.config.width)
    return predict_split(
        TestPredictions, {"": model}, data.judged(Split.TEST), data.image_folder(Split.TEST), shape=shape
    )[""]


def threshold_of_test(clean: CleanSet, scratch: Path) -> Outcome:
    """Fit the threshold on predictions that are declared as those of the test split."""
    try:
        calibrate(predictions_of_test(clean, scratch))  # type: ignore[arg-type]  # which mypy refuses, too
    except LeakError as error:
        return Outcome(1, 1, "LeakError", str(error))
    return Outcome(1, 0, "", "")


def disguised_threshold(clean: CleanSet, scratch: Path) -> Outcome:
    """Fit the threshold on predictions of the test split that are declared as those of validation."""
    test = predictions_of_test(clean, scratch)
    disguised = calibrate(ValidationPredictions(test.image_ids, test.patients, test.breasts, test.labels, test.logits))
    with patch("mammopipe.training.evaluation.selection.calibrate", return_value=disguised):
        return _outcome(evaluation(clean, scratch), "not-from-validation")


KINDS: Mapping[str, Planted] = {
    "other film of a test patient": other_images,
    "rotated copy of a test film": copies(rotated),
    "flipped copy": copies(flipped),
    "re-scaled copy": copies(scaled),
    "re-encoded copy (JPEG)": copies(encoded),
    "copy with other contrast": copies(lighter),
    "cropped copy": copies(cropped),
    "copy with noise": copies(noisy),
    "augmented child of a test film": children,
    "augmented child that claims another source": children_of_another_source,
    "relabelled duplicate": relabelled,
    "weights and batch statistics fitted with a test film": trained_on_test,
    "normalisation of the features fitted with a test film": statistic_of_test,
    "threshold fitted on test": threshold_of_test,
    "threshold fitted on test, passed off as validation": disguised_threshold,
    "test film in the calibration set": calibrated_on_test,
}


def clean_findings(clean: CleanSet, scratch: Path) -> list[Leak]:
    """Return the findings of the whole evaluation in the unchanged set; there must be none."""
    digest = training_job_digest(clean, scratch / "job")
    found = evaluation(clean, scratch, digest=digest)["leakage"]["findings"]
    return [Leak(item["kind"], tuple(item["images"]), item["message"]) for item in found]
