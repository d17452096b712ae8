"""The kinds of leak that are planted in a clean set of segmented films, and what of the product must catch each.

A set is made as the Segment job leaves it. A leak of pictures is planted once for every test film, in one set, so that
what is caught can be counted; a leak of a fit is planted in a whole evaluation.
"""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np

from mammopipe.processing.augmentation import Augmenter
from mammopipe.processing.breast.preprocess import PreprocessConfig, preprocess
from mammopipe.processing.classes import THREE
from mammopipe.processing.container.paths import ContainerPaths
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Laterality, Split, View, write_manifest
from mammopipe.processing.files import sha256, write_json
from mammopipe.processing.images.mammogram import Mammogram, write_png
from mammopipe.processing.splits.assignment import Leak, audit_leakage
from mammopipe.training.evaluate import evaluate
from mammopipe.training.evaluation.batch_prediction import predict_split
from mammopipe.training.evaluation.calibration import calibrate
from mammopipe.training.evaluation.config import EvaluationJobConfig
from mammopipe.training.evaluation.data import SegmentedData
from mammopipe.training.evaluation.finalise import complete
from mammopipe.training.evaluation.fit_audit import training_digest
from mammopipe.training.model.predictions import LeakError, TestPredictions, ValidationPredictions
from mammopipe.training.networks import model_directory
from mammopipe.training.networks.model_directory import LoadedModel
from mammopipe.training.networks.registry import build_model
from mammopipe.training.train import read_inputs

Pixels = np.ndarray
COPIED, COPIES = 3, 2
"""Training films that have augmented copies in the clean set, and copies of each."""


@dataclass(frozen=True)
class CleanSet:
    """Films as they were prepared, and the folder of what Segment made of them."""

    folder: Path
    films: Mapping[str, tuple[Pixels, ImageRecord]]
    config: PreprocessConfig
    records: list[ImageRecord] = field(default_factory=list)

    @classmethod
    def make(cls, folder: Path, images: Iterable[tuple[Pixels, ImageRecord]], config: PreprocessConfig) -> "CleanSet":
        """Segment the films, whose records have their splits, and a few augmented copies into the folder."""
        given = {record.image_id: (pixels, record) for pixels, record in images}
        made = cls(folder, given, config)
        for pixels, record in given.values():
            made.records.append(made.store(pixels, record))
        for pixels, record in [image for image in given.values() if image[1].split is Split.TRAIN][:COPIED]:
            made.records.extend(made.store(*Augmenter().copy(pixels, record, index)) for index in range(COPIES))
        made.records.sort(key=lambda record: record.image_id)
        write_json(folder / "stage.json", {"stage": "segment", "config": {"preprocess": config.to_json()}})
        write_manifest(made.records, folder / "manifest.csv")
        return made

    def store(self, pixels: Pixels, record: ImageRecord) -> ImageRecord:
        """Segment a film into the folder and return its row, as the Segment job does."""
        found = preprocess(Mammogram(pixels, record.laterality, record.view or View.MLO), self.config, record.lesions)
        path = Path("images", str(record.split), f"{record.image_id}.png")
        write_png(self.folder / path, found.pixels)
        spacing = record.pixel_spacing_mm / found.geometry.scale if record.pixel_spacing_mm else None
        return replace(
            record,
            path=path.as_posix(),
            sha256=sha256(self.folder / path),
            lesions=found.lesions,
            height=self.config.height,
            width=self.config.width,
            quality=found.quality,
            pixel_spacing_mm=spacing,
        )

    def tested(self) -> list[str]:
        """Return the names of the test films."""
        return [record.image_id for _, record in self.films.values() if record.split is Split.TEST]

    def data(self, kind: type[SegmentedData] = SegmentedData) -> SegmentedData:
        """Return the set as the evaluation job reads it."""
        made: SegmentedData = kind.read(self.folder)
        return made

    def candidate(self, scratch: Path, digest: str | None = None) -> LoadedModel:
        """Return an untrained network whose description says that it was trained on this set, or another digest."""
        network = build_model("modified_cnn", classes=list(THREE), seed=1)
        epoch = {
            "epoch": 1,
            "train_loss": 1.0,
            "validation_loss": 1.0,
            "validation_macro_auc": 0.5,
            "validation_balanced_accuracy": 0.4,
            "learning_rate": 0.001,
            "seconds": 1.0,
        }
        stated = digest or training_digest(self.data().records, self.folder)
        model_directory.save(
            scratch,
            network,
            {
                "architecture": "modified_cnn",
                "classes": [str(label) for label in THREE],
                "input": {"height": self.config.height, "width": self.config.width},
                "preprocess": self.config.to_json(),
                "initialisation": "scratch",
                "pretrained_weights": None,
                "operating_points": {},
                "metrics": {},
                "calibration": {"temperature": 1.0, "fitted_on": None},
                "versions": {},
                "training": {
                    "data_digest": stated,
                    "epochs_run": 1,
                    "best_epoch": 1,
                    "history": [epoch],
                    "seconds": 1.0,
                },
            },
        )
        return model_directory.load(scratch)


@dataclass(frozen=True)
class Outcome:
    """What came of leaks of one kind."""

    planted: int
    caught: int
    by: str
    """What of the product caught them."""
    message: str
    """Of the first."""


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
    """Audit a set with leaks: each is a pair of images, and caught when a finding names them both."""
    findings = audit_leakage(records, clean.folder).findings
    wanted = [set(pair) for pair in pairs]
    hits = [[item for item in findings if pair <= set(item.images)] for pair in wanted]
    found = [several[0] for several in hits if several]
    kinds = sorted({item.kind for several in hits for item in several})
    return Outcome(len(wanted), len(found), f"audit_leakage: {', '.join(kinds)}", found[0].message if found else "")


def copies(change: Callable[[Pixels], Pixels]) -> Planted:
    """Return what puts a changed copy of every test film into training, as a film of somebody else."""

    def plant(clean: CleanSet, scratch: Path) -> Outcome:
        leaks = []
        for name in clean.tested():
            pixels, record = clean.films[name]
            other = replace(record, image_id=f"{name}-leak", patient_id=f"{name}-leak", split=Split.TRAIN)
            leaks.append(clean.store(change(pixels), other))
        return _caught(clean, [*clean.records, *leaks], [(name, f"{name}-leak") for name in clean.tested()])

    return plant


def other_images(clean: CleanSet, scratch: Path) -> Outcome:
    """Move one film of every test patient who has two into training."""
    patients = {clean.films[name][1].patient_id: name for name in clean.tested()}
    first = {clean.films[name][1].patient_id: name for name in reversed(clean.tested())}
    moved = {name for patient, name in patients.items() if first[patient] != name}
    records = [replace(record, split=Split.TRAIN) if record.image_id in moved else record for record in clean.records]
    return _caught(clean, records, [(first[clean.films[name][1].patient_id], name) for name in sorted(moved)])


def relabelled(clean: CleanSet, scratch: Path) -> Outcome:
    """Put every test film into training once more, as it is, with another name and another label."""
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
    """Put an augmented copy of every test film, which says of what it is one, into training."""
    leaks = []
    for name in clean.tested():
        pixels, record = Augmenter().copy(*clean.films[name], 5)
        leaks.append(clean.store(pixels, replace(record, patient_id=f"{name}-child", split=Split.TRAIN)))
    return _caught(clean, [*clean.records, *leaks], [(leak.source_image_id, leak.image_id) for leak in leaks])


def foundlings(clean: CleanSet, scratch: Path) -> Outcome:
    """Put an augmented copy of every test film into training that claims to be one of a training film."""
    claimed = next(record for _, record in clean.films.values() if record.split is Split.TRAIN)
    leaks = []
    for name in clean.tested():
        pixels, record = Augmenter().copy(*clean.films[name], 6)
        leaks.append(
            clean.store(
                pixels,
                replace(
                    record,
                    image_id=f"{name}-foundling",
                    patient_id=claimed.patient_id,
                    source_image_id=claimed.image_id,
                    label=claimed.label,
                    split=Split.TRAIN,
                ),
            )
        )
    return _caught(clean, [*clean.records, *leaks], [(name, f"{name}-foundling") for name in clean.tested()])


class Careless(SegmentedData):
    """Reads a test film where training originals are asked for: what a slip in a row selection does."""

    def originals(self, split: Split) -> tuple[ImageRecord, ...]:
        rows = super().originals(split)
        return (*rows, _lend(self, split)) if split is Split.TRAIN else rows


class Mixing(SegmentedData):
    """Reads a test film where validation is asked for."""

    def images(self, split: Split) -> tuple[ImageRecord, ...]:
        rows = super().images(split)
        return (*rows, _lend(self, split)) if split is Split.VALIDATION else rows


def _lend(data: SegmentedData, split: Split) -> ImageRecord:
    """Copy the first test film to where films of another split lie, and return its row."""
    record = next(record for record in data.records if record.split is Split.TEST)
    shutil.copyfile(data.folder / record.path, data.image_folder(split) / f"{record.image_id}.png")
    return record


def evaluation(
    clean: CleanSet, scratch: Path, kind: type[SegmentedData] = SegmentedData, digest: str | None = None
) -> dict:
    """Return `evaluation.json` of the set, made by the evaluation job's own functions."""
    data, model = clean.data(kind), clean.candidate(scratch / "model", digest)
    found, _, outputs = evaluate(data, {"modified_cnn": model}, CONFIG)
    return complete(found, data, model, scratch / "model", outputs)


def _told(found: Mapping, *kinds: str) -> Outcome:
    """Return whether an evaluation's audit failed by findings of these kinds, whose first is quoted."""
    items = [item for item in found["leakage"]["findings"] if item["kind"] in kinds]
    assert found["leakage"]["passed"] == (not found["leakage"]["findings"])
    return Outcome(
        1,
        min(len(items), 1),
        f"Evaluate: {', '.join(sorted({item['kind'] for item in items}))}",
        items[0]["message"] if items else "",
    )


def trained_on_test(clean: CleanSet, scratch: Path) -> Outcome:
    """Train on a test film, too, so that the weights and the batch statistics hold it."""
    return _told(
        evaluation(clean, scratch, digest=training_job_digest(clean, scratch / "job", clean.tested()[:1])),
        "trained-on-other-films",
    )


def training_job_digest(clean: CleanSet, base: Path, moved: Sequence[str] = ()) -> str:
    """Return the digest that the training job states when it is given the set with test films moved to training."""
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
    """Standardise the features by a mean and a covariance that a test film is part of."""
    return _told(evaluation(clean, scratch, Careless), "fitted-on-test")


def calibrated_on_test(clean: CleanSet, scratch: Path) -> Outcome:
    """Put a test film among those that temperature and thresholds are fitted on."""
    return _told(evaluation(clean, scratch, Mixing), "fitted-on-test")


def predictions_of_test(clean: CleanSet, scratch: Path) -> TestPredictions:
    data, model = clean.data(), clean.candidate(scratch / "probe")
    shape = (clean.config.height, clean.config.width)
    return predict_split(
        TestPredictions, {"": model}, data.judged(Split.TEST), data.image_folder(Split.TEST), shape=shape
    )[""]


def threshold_of_test(clean: CleanSet, scratch: Path) -> Outcome:
    """Fit the threshold on predictions of test, called what they are."""
    try:
        calibrate(predictions_of_test(clean, scratch))  # type: ignore[arg-type]  # which mypy refuses, too
    except LeakError as error:
        return Outcome(1, 1, "LeakError", str(error))
    return Outcome(1, 0, "", "")


def disguised_threshold(clean: CleanSet, scratch: Path) -> Outcome:
    """Fit the threshold on predictions of test that are passed off as those of validation."""
    test = predictions_of_test(clean, scratch)
    disguised = calibrate(ValidationPredictions(test.image_ids, test.patients, test.breasts, test.labels, test.logits))
    with patch("mammopipe.training.evaluation.selection.calibrate", return_value=disguised):
        return _told(evaluation(clean, scratch), "not-from-validation")


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
    "augmented child that claims another source": foundlings,
    "relabelled duplicate": relabelled,
    "weights and batch statistics fitted with a test film": trained_on_test,
    "normalisation of the features fitted with a test film": statistic_of_test,
    "threshold fitted on test": threshold_of_test,
    "threshold fitted on test, passed off as validation": disguised_threshold,
    "test film in the calibration set": calibrated_on_test,
}


def clean_findings(clean: CleanSet, scratch: Path) -> list[Leak]:
    """Return what the whole evaluation finds in the set as it is: nothing may be."""
    digest = training_job_digest(clean, scratch / "job")
    found = evaluation(clean, scratch, digest=digest)["leakage"]["findings"]
    return [Leak(item["kind"], tuple(item["images"]), item["message"]) for item in found]


def phantom_set(folder: Path, patients: int, config: PreprocessConfig) -> CleanSet:
    """Return a clean set of phantom films, two of each patient."""
    from mammopipe.processing.phantoms.mias_tree import mias_films

    splits = [*[Split.TRAIN] * 3, *[Split.VALIDATION] * 3, *[Split.TEST] * 3]
    images = []
    for number, (name, image) in enumerate(mias_films(2 * patients)):
        record = ImageRecord(
            name,
            f"p{number // 2}",
            "mias",
            list(Laterality)[number % 2],
            View.MLO,
            image.label,
            splits[number // 2 % len(splits)],
            lesions=image.lesions,
            synthetic=True,
        )
        images.append((image.pixels, record))
    return CleanSet.make(folder, images, config)
