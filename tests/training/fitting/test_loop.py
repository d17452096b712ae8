"""A run learns, keeps its best epoch, stops early, and ends the same whether or not it was interrupted."""

import shutil
from functools import cache

import numpy as np
import pytest
import torch

from mammopipe.processing.datasets.manifest import Split, read_manifest
from mammopipe.processing.errors import ConfigError
from mammopipe.training.config import Sampling, TrainConfig
from mammopipe.training.fitting.checkpoint import CheckpointStore, run_digest
from mammopipe.training.fitting.dataset import ImageDataset
from mammopipe.training.fitting.distributed import ALONE, World
from mammopipe.training.fitting.loop import fit
from mammopipe.training.fitting.optimiser import Schedule, make_optimiser, set_phase
from mammopipe.training.fitting.run import TrainingRun
from mammopipe.training.fitting.step import measure, predict
from mammopipe.training.metrics.choice import ChoiceFigure
from mammopipe.training.model.architecture import Cnn, Precision
from mammopipe.training.networks import precision
from mammopipe.training.networks.precision import choose_precision
from mammopipe.training.networks.registry import build_model

CONFIG = TrainConfig(
    cnn=Cnn.MODIFIED_CNN,
    epochs=4,
    head_epochs=1,
    warmup_epochs=1.0,
    batch_size=8,
    learning_rate=2e-3,
    dropout=0.2,
    precision=Precision.FLOAT32,
)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def read_datasets(paths):
    records = read_manifest(paths.channel("manifest"))
    return tuple(
        ImageDataset([record for record in records if record.split is split], paths.channel(str(split)), shape=(64, 64))
        for split in (Split.TRAIN, Split.VALIDATION)
    )


@pytest.fixture
def datasets(make_job):
    return read_datasets(make_job())


@pytest.fixture(scope="module")
def undisturbed(make_job):
    """Return a function that gives the network and the progress of an undisturbed run."""
    return cache(lambda pretrained: run(read_datasets(make_job()), pretrained=pretrained))


@pytest.fixture(scope="module")
def finished(make_job, tmp_path_factory):
    """The folder of the checkpoint of a finished run, its network and its progress; never to be changed."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("finished")
    return folder, run(read_datasets(make_job()), checkpoints=CheckpointStore(folder, "digest"))


class Interrupted(Exception):
    pass


def interrupt_after(checks):
    """Return a stop check that ends the run at its `checks`-th call."""
    left = [checks]

    def check():
        left[0] -= 1
        if left[0] == 0:
            raise Interrupted

    return check


def run(images, config=CONFIG, **options):
    network = build_model(config.cnn, classes=3, dropout=config.dropout, seed=config.seed)
    options = {"pretrained": False, **options}
    return network, fit(network, *images, config, **options)


def figures(progress):
    return [
        (item.epoch, item.train_loss, item.validation_loss, item.validation_macro_auc, item.learning_rate)
        for item in progress.history
    ]


def assert_same(one, other):
    assert figures(one[1]) == figures(other[1])
    ours, theirs = one[0].state_dict(), other[0].state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("sampling", Sampling)
def test_a_run_learns(datasets, sampling, capsys):
    config = TrainConfig(
        cnn=Cnn.MODIFIED_CNN,
        epochs=8,
        head_epochs=0,
        batch_size=8,
        learning_rate=2e-3,
        sampling=sampling,
        precision=Precision.FLOAT32,
    )
    _, progress = run(datasets, config)
    best = progress.history[progress.best_epoch - 1]
    assert best.validation_macro_auc > 0.8
    assert progress.history[-1].train_loss < progress.history[0].train_loss
    assert capsys.readouterr().out.splitlines() == [item.line() for item in progress.history]


def test_the_network_ends_as_in_its_best_epoch(datasets, undisturbed):
    network, progress = undisturbed(False)
    best = progress.history[progress.best_epoch - 1]
    assert best.rank == max(item.rank for item in progress.history)
    logits = predict(network, datasets[1], batch_size=5, precision=Precision.FLOAT32)
    found = measure(logits, datasets[1], ChoiceFigure())
    assert (found.macro_auc, found.balanced_accuracy) == (best.validation_macro_auc, best.validation_balanced_accuracy)
    assert found.choice == found.macro_auc == best.validation_choice
    assert found.loss == pytest.approx(best.validation_loss, rel=1e-5)


@pytest.mark.parametrize("pretrained", [False, True])
@pytest.mark.parametrize("checks", [1, 7, 10])
def test_an_interrupted_run_ends_as_an_undisturbed_one(datasets, undisturbed, tmp_path, capsys, checks, pretrained):
    whole = undisturbed(pretrained)
    store = CheckpointStore(tmp_path, "digest")
    with pytest.raises(Interrupted):
        run(datasets, checkpoints=store, check_stop=interrupt_after(checks), pretrained=pretrained)
    capsys.readouterr()
    resumed = run(datasets, checkpoints=store, pretrained=pretrained)
    assert ("resumed from epoch 1\n" in capsys.readouterr().out) == (checks > 6)
    assert_same(whole, resumed)


def test_a_finished_run_is_not_repeated(datasets, finished, tmp_path, capsys):
    folder, first = finished
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    capsys.readouterr()
    again = run(datasets, checkpoints=CheckpointStore(tmp_path, "digest"))
    assert capsys.readouterr().out == "resumed from epoch 4\n"
    assert_same(first, again)


def test_a_foreign_checkpoint_is_ignored_and_kept(datasets, finished, tmp_path, capsys):
    folder, whole = finished
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    capsys.readouterr()
    resumed = run(datasets, checkpoints=CheckpointStore(tmp_path, "other"))
    out = capsys.readouterr().out
    assert "checkpoint checkpoint.pt belongs to other data, settings or code; moved to checkpoint.ignored" in out
    assert "resumed" not in out and (tmp_path / "checkpoint.ignored").is_file()
    assert_same(resumed, whole)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-100],
        lambda content: b"",
        lambda content: b"x" * 5000,
        lambda content: content[:2000] + b"\0" + content[2001:],
    ],
)
def test_a_damaged_checkpoint_is_ignored(finished, tmp_path, capsys, damage):
    store = CheckpointStore(tmp_path, "digest")
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    store.path.write_bytes(damage(store.path.read_bytes()))
    (tmp_path / ".checkpoint.pt.left-over").write_bytes(b"half")
    assert store.load() is None
    assert "is damaged; moved to checkpoint.ignored" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.ignored"]


def test_the_digest_changes_with_every_part():
    digests = {
        run_digest(hyperparameters={"epochs": 1}, data="a"),
        run_digest(hyperparameters={"epochs": 2}, data="a"),
        run_digest(hyperparameters={"epochs": 1}, data="b"),
    }
    assert len(digests) == 3


def test_patience_ends_a_run(datasets):
    config = TrainConfig(
        cnn=Cnn.MODIFIED_CNN,
        epochs=9,
        head_epochs=0,
        batch_size=8,
        learning_rate=1e-8,
        patience=2,
        precision=Precision.FLOAT32,
    )
    _, progress = run(datasets, config)
    assert len(progress.history) == progress.best_epoch + 2 < 9


def test_a_run_that_diverges_is_refused(datasets):
    with pytest.raises(ConfigError, match="the training loss is .*lower learning_rate"):
        datasets[0].labels[:] = 0
        network = build_model("modified_cnn", classes=3)
        network.head[1].weight.data.fill_(float("nan"))
        fit(network, *datasets, CONFIG, pretrained=False)


def test_a_batch_that_processes_cannot_share_is_refused(datasets):
    with pytest.raises(ConfigError, match="batch_size=8 must be a multiple of the job's 3 processes"):
        run(datasets, world=World(0, 3))


def test_the_head_trains_alone_first():
    network = build_model("modified_cnn", classes=3)
    set_phase(network, trains_body=False)
    training = {name for name, value in network.named_parameters() if value.requires_grad}
    assert training == {"body.head.1.weight", "body.head.1.bias"}
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network(torch.rand(4, 1, 64, 64)).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items()), "statistics must stay"
    set_phase(network, trains_body=True)
    assert all(value.requires_grad for value in network.parameters())


def test_rates_rise_then_fall_and_the_body_is_slower():
    schedule = Schedule(
        TrainConfig(epochs=10, head_epochs=2, warmup_epochs=1.0, learning_rate=1e-4, head_learning_rate=1e-3),
        steps=20,
        pretrained=True,
    )
    rates = [schedule.rates(epoch, step) for epoch in range(1, 11) for step in range(20)]
    body, head = (np.array([rate[part] for rate in rates]) for part in ("body", "head"))
    assert (body[:40] == 0).all() and head[19] == head[39] == 1e-3
    assert (np.diff(body[40:60]) > 0).all() and (np.diff(body[60:]) < 0).all()
    assert body.max() == pytest.approx(1e-4) and body[-1] < 2e-6
    np.testing.assert_allclose(head[40:], body[40:] * 10)
    scratch = Schedule(schedule.config, steps=20, pretrained=False)
    assert scratch.trains_body(1) and scratch.rates(3, 0)["head"] == scratch.rates(3, 0)["body"] > 0


def test_only_weights_decay():
    network = build_model("modified_cnn", classes=3)
    optimiser = make_optimiser(network, TrainConfig(weight_decay=0.1))
    decays = {id(value): group["weight_decay"] for group in optimiser.param_groups for value in group["params"]}
    assert len(decays) == len(list(network.parameters()))
    assert all(decays[id(value)] == (0.1 if value.ndim > 1 else 0.0) for value in network.parameters())


def test_measuring_precision_leaves_no_trace():
    network = build_model("modified_cnn", classes=3).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(0)
    drawn = torch.rand(1)
    torch.manual_seed(0)
    chosen = choose_precision(Precision.AUTO, network, shape=(72, 80), device=torch.device("cpu"))
    assert chosen in (Precision.BFLOAT16, Precision.FLOAT32)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(value.grad is None for value in network.parameters()) and torch.rand(1) == drawn


def test_the_folds_of_a_job_compute_in_one_format(monkeypatch):
    """Other times in a later fold change nothing; another image size is measured again."""
    seconds = {Precision.FLOAT32: 1.0, Precision.BFLOAT16: 0.5}
    monkeypatch.setattr(precision, "_step_seconds", lambda network, images, wanted: seconds[wanted])

    def chosen(shape):
        network = build_model("modified_cnn", classes=3)
        return choose_precision(Precision.AUTO, network, shape=shape, device=torch.device("cpu"))

    monkeypatch.setattr(precision, "_FASTER", {})
    assert chosen((64, 64)) is Precision.BFLOAT16
    seconds[Precision.BFLOAT16] = 2.0
    assert chosen((64, 64)) is Precision.BFLOAT16 and chosen((96, 64)) is Precision.FLOAT32


def test_float16_is_refused_on_a_cpu():
    with pytest.raises(ConfigError, match="precision=float16 needs a GPU"):
        choose_precision(
            Precision.FLOAT16, build_model("modified_cnn", classes=3), shape=(64, 64), device=torch.device("cpu")
        )


def test_the_settings_of_the_loss_reach_it(datasets):
    config = TrainConfig(cnn=Cnn.MODIFIED_CNN, label_smoothing=0.25, positive_target=0.8, sampling=Sampling.WEIGHTED)
    network = build_model(config.cnn, classes=3)
    datasets[0].labels[:4] = 0
    loss = TrainingRun(network, *datasets, config, False, ALONE, lambda: None).loss
    assert (loss.smoothing, loss.positive_target) == (0.25, 0.8)
    counts = np.bincount(datasets[0].labels, minlength=3)
    torch.testing.assert_close(loss.weights, torch.tensor(len(datasets[0]) / (3 * counts), dtype=torch.float32))


def test_a_new_network_takes_its_statistics_from_its_first_batch(datasets):
    config = TrainConfig(
        cnn=Cnn.MODIFIED_CNN,
        epochs=1,
        head_epochs=0,
        warmup_epochs=0,
        batch_size=24,
        learning_rate=1e-8,
        precision=Precision.FLOAT32,
    )

    def mean_after_one_step(pretrained):
        network, _ = run(datasets, config, pretrained=pretrained)
        return next(m.running_mean for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d))

    # The statistics of pretrained weights move by a tenth; those of new weights, which are not from data, are replaced.
    torch.testing.assert_close(mean_after_one_step(False), 10 * mean_after_one_step(True), rtol=1e-4, atol=1e-6)
