"""Training on breasts with all their views: grouping of images, drawing of views, and that the network learns."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mammopipe.processing.classes import THREE
from mammopipe.processing.container.paths import ContainerPaths
from mammopipe.processing.datasets.manifest import (
    ImageRecord,
    Label,
    Laterality,
    SplitProtocol,
    View,
    read_manifest,
    write_manifest,
)
from mammopipe.processing.errors import ConfigError, ManifestError
from mammopipe.processing.images.mammogram import write_png
from mammopipe.training.config import TrainConfig
from mammopipe.training.fitting.breasts.dataset import Breasts, TrainingBreasts
from mammopipe.training.fitting.checkpoint import StopRequest
from mammopipe.training.fitting.distributed import ALONE, World
from mammopipe.training.fitting.sampling import Draw
from mammopipe.training.fitting.step import predict
from mammopipe.training.model.views.attention import ViewMask
from mammopipe.training.model.views.breasts import breasts_of
from mammopipe.training.networks import model_directory
from mammopipe.training.train import read_inputs, train
from tests.training.fitting.fit_in_float64 import figures
from tests.training.test_train import in_two_processes

L, R = Laterality.LEFT, Laterality.RIGHT
MakeJob = Callable[..., ContainerPaths]


def row(name: str, side: Laterality | None, label: Label, patient: str = "p", source: str = "") -> ImageRecord:
    return ImageRecord(name, patient, "rsna", side, View.CC, label, source_image_id=source)


def test_the_label_is_the_worst_of_its_own_images_and_never_of_the_other_side() -> None:
    records = [
        row("a", L, Label.NORMAL),
        row("b", R, Label.MALIGNANT),
        row("c", L, Label.BENIGN),
        row("d", R, Label.NORMAL),
        row("e", L, Label.NORMAL, patient="q"),
    ]
    left, right, alone = breasts_of(records, THREE, other_side=True)

    assert (left.record.image_id, left.record.label) == ("c", Label.BENIGN)
    assert (left.own, left.other) == (((0,), (2,)), ((1,), (3,)))
    assert (right.record.label, right.own, right.other) == (Label.MALIGNANT, ((1,), (3,)), ((0,), (2,)))
    assert (alone.own, alone.other) == (((4,),), ())
    assert all(not breast.other for breast in breasts_of(records, THREE, other_side=False))
    assert left.record.view is None, "a breast has no one view"


def test_copies_belong_to_the_view_of_their_original_and_unknown_sides_have_no_other_side() -> None:
    copied = [row("a-1", L, Label.NORMAL, source="a"), row("a", L, Label.NORMAL), row("b", L, Label.NORMAL)]
    unknown = [row("c", None, Label.NORMAL), row("d", R, Label.MALIGNANT)]

    assert [breast.own for breast in breasts_of(copied, THREE, other_side=True)] == [((1, 0), (2,))]
    assert [breast.other for breast in breasts_of(unknown, THREE, other_side=True)] == [(), ()]


@pytest.fixture(scope="module")
def make_exams(make_job: MakeJob) -> MakeJob:
    """Return a function that writes a job's inputs, whose breasts show a lesion only in one of their two views."""

    def make(**settings: str) -> ContainerPaths:
        paths = make_job(level="breast", other_side="true", head_epochs="0", warmup_epochs="0", **settings)
        records = []
        for number, record in enumerate(read_manifest(paths.channel("manifest"))):
            folder = paths.channel(str(record.split))
            records.append(record)
            others = [(L, View.CC, record.label), (R, View.MLO, Label.NORMAL)][: 1 + number % 2]
            for side, view, label in others:
                # Neither the second view nor the other breast shows anything.
                name = f"{record.image_id}-{side}-{view}"
                pixels = np.random.default_rng(list(name.encode())).integers(5000, 20000, (64, 64)).astype(np.uint16)
                pixels[:, 48:] = 0
                write_png(folder / f"{name}.png", pixels)
                changed = {"laterality": side, "view": view, "label": label, "lesions": ()}
                records.append(replace(record, image_id=name, path=f"images/{record.split}/{name}.png", **changed))
        write_manifest(records, paths.channel("manifest") / "manifest.csv")
        return paths

    return make


def test_a_draw_depends_on_seed_epoch_and_position_alone(make_exams: MakeJob) -> None:
    breasts, _ = read_inputs(make_exams()).cases()
    assert isinstance(breasts, Breasts)
    drawn = TrainingBreasts(breasts, TrainConfig(augment=1.0, most_views=1))
    place = next(index for index, breast in enumerate(breasts.breasts) if breast.other)
    first, again, later = (drawn[Draw(place, 1, position)][0] for position in (5, 5, 6))

    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, later.images)
    assert first.sides.tolist() == [[ViewMask.OWN, ViewMask.OTHER]], "one view of each side"
    assert breasts[place][0].sides.tolist() == [[ViewMask.OWN, ViewMask.OWN, ViewMask.OTHER]]


def test_a_lesion_that_one_view_shows_is_learnt_and_validation_is_shared_by_the_processes(
    make_exams: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    paths = make_exams(epochs="8", learning_rate="0.003", precision="float32", dropout="0")
    inputs = read_inputs(paths)
    train(paths, inputs, ALONE, StopRequest())

    model = model_directory.load(paths.model)
    best = model.description["training"]["history"][model.description["training"]["best_epoch"] - 1]
    assert best["validation_macro_auc"] > 0.9
    assert (model.description["level"], model.description["views"]["other_side"]) == ("breast", True)

    validation = inputs.cases()[1]
    whole = predict(model.network, validation, batch_size=4)
    assert len(whole) == len(validation) == 18, "12 patients, of whom every second has both breasts"
    parts: list[np.ndarray] = []
    monkeypatch.setattr("mammopipe.training.fitting.step.gather_rows", lambda rows, world: parts.append(rows) or rows)
    for rank in (0, 1):
        predict(model.network, validation, batch_size=4, world=World(rank=rank, size=2))
    np.testing.assert_allclose(parts[0], whole[0::2], atol=1e-4)
    np.testing.assert_allclose(parts[1], whole[1::2], atol=1e-4)


def test_a_class_without_a_breast_is_refused_and_so_is_a_split_through_patients(make_exams: MakeJob) -> None:
    inputs = read_inputs(make_exams())
    with pytest.raises(ConfigError, match="level=breast needs the split protocol patient, not film"):
        replace(inputs, protocol=SplitProtocol.FILM).cases()
    kept = [place for place, record in enumerate(inputs.validation.records) if record.label is not Label.BENIGN]
    with pytest.raises(ManifestError, match="split=validation has no benign breast"):
        replace(inputs, validation=inputs.validation.part(kept)).cases()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"level": "patient"}, "level=patient must be image or breast"),
        ({"other_side": "true"}, "other_side=true needs level=breast"),
        ({"level": "breast", "cnn": "alexnet"}, "cnn=alexnet"),
        ({"level": "breast", "folds": "3"}, "folds=3 must be 0 with level=breast"),
        ({"level": "breast", "mixup": "0.4"}, "mixup=0.4 must be 0"),
        ({"level": "breast", "location_weight": "1"}, "location_weight=1.0 must be 0"),
        ({"level": "breast", "augment_on": "gpu", "augment": "1"}, "augment_on=gpu must be cpu"),
        ({"level": "breast", "auxiliary_age": "1"}, "auxiliary_age must be 0"),
    ],
)
def test_settings_of_single_images_are_refused(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig.from_hyperparameters(settings)


def test_two_processes_with_other_numbers_of_views_are_one_but_for_rounding(
    make_exams: MakeJob, tmp_path: Path
) -> None:
    settings = {"dropout": "0", "sampling": "plain", "patience": "9"}
    alone, together = figures(make_exams(**settings), ALONE), in_two_processes(make_exams(**settings), tmp_path / "2")

    assert alone is not None
    assert alone["figures"] == pytest.approx(together["figures"], rel=1e-6)
