"""Inputs of the training and the evaluation job: small folders of images, and models with random weights."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from mammopipe.processing.breast.preprocess import PreprocessConfig
from mammopipe.processing.classes import THREE
from mammopipe.processing.container.paths import ContainerPaths
from mammopipe.processing.datasets.manifest import (
    ImageRecord,
    Label,
    Laterality,
    Lesion,
    Split,
    View,
    read_manifest,
    write_manifest,
)
from mammopipe.processing.files import sha256, write_json
from mammopipe.processing.images.mammogram import write_png
from mammopipe.training.evaluate import evaluate, main
from mammopipe.training.evaluation.config import EvaluationJobConfig
from mammopipe.training.evaluation.data import SegmentedData, read_candidates
from mammopipe.training.evaluation.fit_audit import training_digest
from mammopipe.training.fitting.out_of_fold import OutOfFold
from mammopipe.training.model.architecture import Level
from mammopipe.training.model.archive import pack
from mammopipe.training.networks import model_directory
from mammopipe.training.networks.registry import build_model
from tests.support.computed_once import computed_once
from tests.support.shared_folder import made_once

SHAPE = (96, 64)
PREPROCESS = PreprocessConfig(height=SHAPE[0], width=SHAPE[1])
PATIENTS = {Split.TRAIN: 9, Split.VALIDATION: 9, Split.TEST: 12}
CANDIDATES = {"first": 1, "second": 2}
"""Names of the candidates and the seeds of their weights."""


def draw_image(image_id: str) -> np.ndarray:
    """Return smooth noise, (H, W) uint16, unlike that of any other image."""
    coarse = np.random.default_rng(list(image_id.encode())).random((12, 8), np.float32)
    return (cv2.resize(coarse, SHAPE[::-1], interpolation=cv2.INTER_CUBIC).clip(0, 1) * 65535).astype(np.uint16)


def describe(name: str, preprocess: PreprocessConfig = PREPROCESS, data_digest: str = "d") -> dict[str, object]:
    history = [
        {
            "epoch": epoch,
            "train_loss": 1.2 / epoch,
            "validation_loss": 1.3 / epoch,
            "validation_macro_auc": 0.5,
            "validation_balanced_accuracy": 0.4,
            "learning_rate": 0.001,
            "seconds": 1.0,
        }
        for epoch in (1, 2, 3)
    ]
    return {
        "architecture": "modified_cnn",
        "classes": [str(label) for label in THREE],
        "input": {"height": preprocess.height, "width": preprocess.width},
        "preprocess": preprocess.to_json(),
        "initialisation": "scratch" if name == "first" else "pretrained",
        "pretrained_weights": None,
        "calibration": {"temperature": 1.0, "fitted_on": None},
        "operating_points": {},
        "training": {
            "hyperparameters": {},
            "data_digest": data_digest,
            "code_digest": "c",
            "epochs_run": 3,
            "best_epoch": 2,
            "history": history,
            "seconds": 3.5,
        },
        "metrics": {},
        "versions": {},
    }


@dataclass(frozen=True)
class EvaluationBase:
    """The folder tree of an evaluation job, and methods to change its content."""

    base: Path

    @property
    def data(self) -> Path:
        return self.base / "processing" / "input" / "data"

    @property
    def models(self) -> Path:
        return self.base / "processing" / "input" / "models"

    @property
    def output(self) -> Path:
        return self.base / "processing" / "output"

    @property
    def evaluation(self) -> dict:
        return json.loads((self.output / "evaluation" / "evaluation.json").read_text())

    @property
    def page(self) -> str:
        return (self.output / "evaluation" / "report.html").read_text()

    def figures(self) -> dict[str, Any]:
        """Return the job's figures, without export and report, which take most of its time."""
        data, scratch = SegmentedData.read(self.data), self.base / "unpacked"
        models = read_candidates(self.models, scratch, data.preprocess)
        held = {name: OutOfFold.read(scratch / name, model.description) for name, model in models.items()}
        data = data.asked_as(models).with_out_of_fold(held)
        return evaluate(data, models, EvaluationJobConfig(bootstrap=100))[0]

    def records(self) -> list[ImageRecord]:
        return read_manifest(self.data / "manifest.csv")

    def write(self, records: Sequence[ImageRecord]) -> None:
        write_manifest(records, self.data / "manifest.csv")

    def change(self, edit: Callable[[ImageRecord], ImageRecord | None]) -> None:
        """Pass every row through `edit`; a row for which it returns `None` is left out."""
        self.write([record for record in map(edit, self.records()) if record is not None])

    def add_model(
        self, name: str, *, seed: int, preprocess: PreprocessConfig = PREPROCESS, level: Level = Level.IMAGE
    ) -> None:
        folder = self.base / "scratch" / name
        of_breasts = level is Level.BREAST
        network = build_model("modified_cnn", classes=list(THREE), seed=seed, level=level, other_side=of_breasts)
        with torch.no_grad():
            # A new head gives nearly the same logits for all images; larger weights make a confident, and wrong, model.
            network.head.get_submodule("1").weight.mul_(60)
            if network.views is not None and network.views.other is not None:
                # A new attention is uniform and does not use the other side.
                torch.nn.init.normal_(network.views.score.weight, generator=torch.Generator().manual_seed(seed))
                torch.nn.init.eye_(network.views.other.weight).mul_(-0.3)
        described = describe(name, preprocess, training_digest(self.records(), self.data))
        if of_breasts:
            described |= {"level": "breast", "views": {"other_side": True, "mask": {"absent": 0, "own": 1, "other": 2}}}
        model_directory.save(folder, network, described)
        pack(folder, self.models / name / "model.tar.gz")


def mias_rows() -> list[ImageRecord]:
    """Return patients with one image of each breast, the classes in turn."""
    return [_mias_row(split, index) for split, patients in PATIENTS.items() for index in range(2 * patients)]


def _mias_row(split: Split, index: int) -> ImageRecord:
    label, side = list(Label)[index % 3], list(Laterality)[index % 2]
    lesions = () if label is Label.NORMAL else (Lesion(30.5, 40.0, 9.0, label, "CIRC"),)
    return ImageRecord(
        f"{split}{index:03d}", f"{split}-{index // 2}", "mias", side, View.MLO, label, split, lesions=lesions
    )


def rsna_rows() -> list[ImageRecord]:
    """Return screening exams: CC and MLO of both breasts, one more CC of every third patient's left breast."""
    rows = []
    for split, patients in {Split.TRAIN: 3, Split.VALIDATION: 9, Split.TEST: 12}.items():
        for patient in range(patients):
            views = [(side, view) for side in Laterality for view in (View.CC, View.MLO)]
            views += [views[0]] if patient % 3 == 0 else []
            rows += [_rsna_row(split, patient, number, *views[number]) for number in range(len(views))]
    return rows


def _rsna_row(split: Split, patient: int, number: int, side: Laterality, view: View) -> ImageRecord:
    label = list(Label)[patient % 3] if side is Laterality.LEFT else Label.NORMAL
    return ImageRecord(
        f"{split}{patient:03d}{number}",
        f"{split}{patient:03d}",
        "rsna",
        side,
        view,
        label,
        split,
        age=40.0 + 5 * patient if patient else None,
        density="ABCD"[patient % 4] if patient % 2 else "",
        machine_id=("21", "29", "170")[patient % 3],
        site_id=str(1 + patient % 2),
        implant=patient == 4,
        quality={"flags": ["skin-cut-off"] if number == 3 else []},
    )


def build(base: Path, rows: Sequence[ImageRecord]) -> EvaluationBase:
    made = EvaluationBase(base)
    records = [
        _store(made.data, replace(row, height=SHAPE[0], width=SHAPE[1]), draw_image(row.image_id)) for row in rows
    ]
    for record in [record for record in records if record.split is Split.TRAIN][:4]:
        copy = replace(record, image_id=f"{record.image_id}-1", source_image_id=record.image_id)
        flipped = np.ascontiguousarray(cv2.imread(str(made.data / record.path), cv2.IMREAD_UNCHANGED)[:, ::-1])
        records.append(_store(made.data, copy, flipped))
    made.write(records)
    config = {"preprocess": PREPROCESS.to_json(), "digest": PREPROCESS.digest}
    stage = {"stage": "segment", "counts": {}, "config": config, "versions": {}, "input_digest": "i", "digest": "o"}
    (made.data / "stage.json").write_text(json.dumps(stage))
    for name, seed in CANDIDATES.items():
        made.add_model(name, seed=seed)
    return made


def _store(data: Path, record: ImageRecord, pixels: np.ndarray) -> ImageRecord:
    path = data / "images" / str(record.split) / f"{record.image_id}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)
    return replace(record, path=path.relative_to(data).as_posix(), sha256=sha256(path))


@pytest.fixture(scope="session")
def evaluation_inputs(tmp_path_factory: pytest.TempPathFactory) -> EvaluationBase:
    """The inputs of an evaluation job; tests must not change them."""
    torch.set_num_threads(1)
    return build(tmp_path_factory.mktemp("evaluation"), mias_rows())


@pytest.fixture
def evaluation_base(evaluation_inputs: EvaluationBase, tmp_path: Path) -> EvaluationBase:
    """A copy of the inputs that a test may change."""
    shutil.copytree(evaluation_inputs.base, tmp_path / "base")
    return EvaluationBase(tmp_path / "base")


@pytest.fixture(scope="session")
def evaluated(evaluation_inputs: EvaluationBase, tmp_path_factory: pytest.TempPathFactory) -> EvaluationBase:
    """The inputs with the job's outputs; tests must not change them."""
    arguments = ("--profile", "full", "--min-macro-auc", "0.55", "--bootstrap", "200")
    return _evaluated(tmp_path_factory, "evaluated", evaluation_inputs, arguments)


@pytest.fixture(scope="session")
def screening_inputs(tmp_path_factory: pytest.TempPathFactory) -> EvaluationBase:
    """The inputs of an evaluation job on screening exams; tests must not change them."""
    torch.set_num_threads(1)
    return build(tmp_path_factory.mktemp("screening"), rsna_rows())


@pytest.fixture(scope="session")
def screened(screening_inputs: EvaluationBase, tmp_path_factory: pytest.TempPathFactory) -> EvaluationBase:
    """The screening exams with the job's outputs; tests must not change them."""
    return _evaluated(tmp_path_factory, "screened", screening_inputs, ("--bootstrap", "100"))


@pytest.fixture(scope="session")
def judged_by_breast(screening_inputs: EvaluationBase, tmp_path_factory: pytest.TempPathFactory) -> EvaluationBase:
    """The screening exams, judged by one network that sees all views of a breast; tests must not change them."""

    def judge_breasts(made: EvaluationBase) -> None:
        shutil.rmtree(made.models)
        made.add_model("first", seed=1, level=Level.BREAST)

    arguments = ("--bootstrap", "100", "--predict-training", "true")
    return _evaluated(tmp_path_factory, "by-breast", screening_inputs, arguments, judge_breasts)


def _evaluated(
    factory: pytest.TempPathFactory,
    name: str,
    inputs: EvaluationBase,
    arguments: Sequence[str],
    change: Callable[[EvaluationBase], None] = lambda made: None,
) -> EvaluationBase:
    """Return the changed inputs with the job's outputs; one worker runs the job for all."""

    def make(folder: Path) -> None:
        shutil.copytree(inputs.base, folder, dirs_exist_ok=True)
        change(EvaluationBase(folder))
        with computed_once() as patch:
            patch.setenv("MAMMOPIPE_BASE", str(folder))
            main(arguments)

    return EvaluationBase(made_once(factory, name, make))


@pytest.fixture(scope="session")
def make_job(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ContainerPaths]:
    """Return a function that writes a training job's inputs, images of 64 x 64, for the given hyperparameters."""

    def make(**hyperparameters: str) -> ContainerPaths:
        paths = ContainerPaths(tmp_path_factory.mktemp("job"))
        records = [
            _job_image(paths, split, label, index)
            for split, images in ((Split.TRAIN, 8), (Split.VALIDATION, 4))
            for label in THREE
            for index in range(images)
        ]
        write_manifest(records, paths.channel("manifest") / "manifest.csv")
        config = PreprocessConfig(height=64, width=64).to_json()
        write_json(paths.channel("stage") / "stage.json", {"stage": "segment", "config": {"preprocess": config}})
        write_json(paths.hyperparameters, {"cnn": "modified_cnn", "epochs": "2", "batch_size": "8", **hyperparameters})
        return paths

    return make


def _job_image(paths: ContainerPaths, split: Split, label: Label, index: int) -> ImageRecord:
    """Write an image whose class is the number of its bright spots; the right quarter is black."""
    random = np.random.default_rng([label.rank, index, split is Split.TRAIN])
    pixels = random.integers(5000, 20000, (64, 64)).astype(np.uint16)
    for spot in range(label.rank):
        pixels[10 + 24 * spot : 26 + 24 * spot, 12:30] += 30000
    lesions = tuple(Lesion(20.5, 17.5 + 24 * spot, 9.0, label) for spot in range(label.rank))
    pixels[:, 48:] = 0
    name = f"{split}-{label}-{index}"
    write_png(paths.channel(str(split)) / f"{name}.png", pixels)
    return ImageRecord(
        name,
        name,
        "mias",
        Laterality.LEFT,
        View.MLO,
        label,
        split,
        path=f"images/{split}/{name}.png",
        height=64,
        width=64,
        lesions=lesions,
        # For auxiliary targets; some images have no value.
        density="FGD"[index % 3] if index % 4 else "",
        age=40.0 + 5 * index if index % 5 else None,
    )
