"""A run resumes in the middle of an epoch, and its result does not depend on how its images are stored and read."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch

from mammopipe.processing.files import write_json
from mammopipe.processing.images.shards import pack
from mammopipe.training.config import TrainConfig
from mammopipe.training.fitting.checkpoint import CheckpointStore, StopRequest
from mammopipe.training.fitting.distributed import ALONE
from mammopipe.training.train import read_inputs, train

SETTINGS = {
    "epochs": "3",
    "head_epochs": "0",
    "batch_size": "8",
    "dropout": "0.3",
    "precision": "float32",
    "learning_rate": "0.002",
}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


class StopAfter(StopRequest):
    """Requests a stop at the run's `checks`-th check."""

    def __init__(self, checks: int) -> None:
        super().__init__()
        self.left = checks

    def check(self) -> None:
        self.left -= 1
        self.received = self.left == 0
        super().check()


def finish(paths, stop=None):
    train(paths, read_inputs(paths), ALONE, stop or StopRequest())
    return json.loads((paths.model / "model.json").read_text())


def figures(description):
    history = description["training"]["history"]
    return description["weights_sha256"], [{**epoch, "seconds": 0} for epoch in history]


@pytest.fixture(scope="module")
def undisturbed(make_job) -> Callable[..., dict[str, object]]:
    """Return a function that gives the description of the model of an undisturbed run with further settings."""
    run = cache(lambda more: finish(make_job(**SETTINGS, **dict(more))))
    return lambda **more: run(tuple(sorted(more.items())))


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"average_decay": "0.9", "clip_norm": "1", "accumulate": "2", "mixup": "0.5"},
        {"optimiser": "sgd", "sampling": "ratio", "positive_share": "0.25", "positive_target": "0.9"},
        {"location_weight": "0.5", "pooling": "max", "sampling": "plain", "augment": "0.8"},
    ],
)
@pytest.mark.parametrize("checks", [2, 5])
def test_a_run_that_stops_in_the_middle_of_an_epoch_ends_as_one_that_does_not(
    make_job, undisturbed, capsys, more, checks
):
    disturbed, expected = make_job(**SETTINGS, **more), undisturbed(**more)
    with pytest.raises(SystemExit):
        finish(disturbed, StopAfter(checks))
    # The run checks for a stop after each of an epoch's 3 steps, and then during validation.
    assert not (disturbed.model / "model.json").exists()
    capsys.readouterr()
    found = finish(disturbed)
    assert "and step" in capsys.readouterr().out
    assert figures(found) == figures(expected)


@pytest.mark.parametrize(
    "other", [{"cache": "disk"}, {"cache": "disk", "workers": "2"}, {"checkpoint_minutes": "1e-9"}]
)
def test_how_images_are_read_changes_no_weight(make_job, undisturbed, other):
    assert figures(finish(make_job(**SETTINGS, **other))) == figures(undisturbed(cache="memory"))


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_shards_change_no_weight(make_job, undisturbed, cache):
    shards = make_job(**SETTINGS, cache=cache)
    for split in ("train", "validation"):
        folder = shards.channel(split)
        pack(folder, sorted(path.name for path in folder.iterdir()), megabytes=0.03)
        assert len(list(folder.glob("*.tar"))) > 1 and not list(folder.glob("*.png"))
    expected, found = undisturbed(), finish(shards)
    assert figures(found) == figures(expected)
    assert found["training"]["data_digest"] == expected["training"]["data_digest"]


def test_a_run_resumes_with_another_way_of_reading(make_job, undisturbed):
    paths = make_job(**SETTINGS)
    with pytest.raises(SystemExit):
        finish(paths, StopAfter(2))
    hyperparameters = json.loads(paths.hyperparameters.read_text())
    write_json(paths.hyperparameters, {**hyperparameters, "cache": "disk", "workers": "1"})
    assert figures(finish(paths)) == figures(undisturbed())


def test_a_checkpoint_in_the_middle_of_an_epoch_states_its_step(make_job):
    paths = make_job(**SETTINGS)
    with pytest.raises(SystemExit):
        finish(paths, StopAfter(2))
    saved = CheckpointStore(paths.checkpoints, read_inputs(paths).digest).load()
    assert saved is not None
    assert (saved["epoch"], saved["partial"]["epoch"], saved["partial"]["step"]) == (0, 1, 2)


def test_settings_of_reading_do_not_change_the_digest_and_others_do(make_job):
    inputs = read_inputs(make_job(**SETTINGS))
    for change in ({"cache": "disk"}, {"workers": 3}, {"checkpoint_minutes": 1.0}):
        assert replace(inputs, config=inputs.config.replace(**change)).digest == inputs.digest
    assert replace(inputs, config=inputs.config.replace(average_decay=0.5)).digest != inputs.digest


def test_the_defaults_change_nothing_of_older_runs():
    config = TrainConfig()
    assert (config.optimiser, config.average_decay, config.accumulate, config.clip_norm) == ("adamw", 0, 1, 0)
    assert (config.layer_decay, config.positive_target, config.drop_path, config.compile) == (1, 1, 0, False)
