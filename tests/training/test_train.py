"""The training job as SageMaker runs it: its files, resuming after a stop, several processes."""

import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mammopipe.processing.classes import THREE, TWO
from mammopipe.processing.datasets.manifest import Label, Split, read_manifest, write_manifest
from mammopipe.training.config import TrainConfig
from mammopipe.training.fitting.checkpoint import StopRequest
from mammopipe.training.fitting.distributed import ALONE, launch_command
from mammopipe.training.metrics.classification import macro_auc
from mammopipe.training.model.architecture import Pooling
from mammopipe.training.networks import model_directory
from mammopipe.training.networks.registry import build_model
from mammopipe.training.train import read_inputs, read_stage, train
from tests.support import fork_server
from tests.training.fitting.fit_in_float64 import figures

SETTINGS = {
    "cnn": "modified_cnn",
    "epochs": "3",
    "head_epochs": "0",
    "batch_size": "8",
    "learning_rate": "0.002",
    "precision": "float32",
}
LINE = re.compile(
    r"^epoch=(\d+) train_loss=(\d+\.\d{4}) validation_loss=(\d+\.\d{4}) "
    r"validation_macro_auc=([01]\.\d{4}) validation_balanced_accuracy=([01]\.\d{4}) validation_choice=([01]\.\d{4}) "
    r"learning_rate=(0\.\d{5}) seconds=(\d+\.\d)$",
    re.MULTILINE,
)
JOB = (sys.executable, "-W", "error", "-m", "mammopipe.training.train")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def start(paths, command=()):
    """Start the job, or another command, forked from a process that has imported torch."""
    command = command or (*fork_server.shared(), *JOB[1:])
    environment = {**os.environ, "MAMMOPIPE_BASE": str(paths.base), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, text=True, **pipes)


def finish(process):
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def run(paths, command=()):
    code, out, err = finish(start(paths, command))
    assert code == 0, err
    return out


def without_times(description):
    """Return model.json without the keys that differ between any two runs."""
    written = json.loads(json.dumps(description))
    del written["training"]["seconds"]
    for epoch in written["training"]["history"]:
        del epoch["seconds"]
    return written


def wait_for(path, process):
    while not path.is_file():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)


def test_a_job_leaves_a_model_and_a_line_an_epoch(make_job):
    paths = make_job(**SETTINGS)
    lines = LINE.findall(run(paths, JOB))
    assert [line[0] for line in lines] == ["1", "2", "3"]
    model = model_directory.load(paths.model)
    training = model.description["training"]
    assert training["epochs_run"] == 3 and training["hyperparameters"]["cnn"] == "modified_cnn"
    best = training["history"][training["best_epoch"] - 1]
    assert model.description["metrics"]["validation_macro_auc"] == best["validation_macro_auc"]
    assert model.description["initialisation"] == "scratch" and model.description["pretrained_weights"] is None
    assert model.preprocess == read_stage(paths)
    assert not (paths.output / "failure").exists()


def test_rows_of_the_test_split_need_no_image(make_job):
    paths = make_job(**SETTINGS)
    manifest = paths.channel("manifest") / "manifest.csv"
    records = read_manifest(manifest)
    held_out = replace(records[0], image_id="held-out", patient_id="held-out", split=Split.TEST)
    write_manifest([*records, held_out], manifest)
    inputs = read_inputs(paths)
    assert len(inputs.train) + len(inputs.validation) == len(records)


def test_the_digest_is_that_of_settings_and_data(make_job):
    first, same = read_inputs(make_job(**SETTINGS)), read_inputs(make_job(**SETTINGS))
    assert first.digest == same.digest
    assert read_inputs(make_job(**SETTINGS | {"seed": "1"})).digest != first.digest
    paths = make_job(**SETTINGS)
    image = paths.channel("train") / f"{first.train.records[0].image_id}.png"
    image.write_bytes((paths.channel("train") / f"{first.train.records[1].image_id}.png").read_bytes())
    assert read_inputs(paths).digest != first.digest


def test_killed_and_stopped_jobs_resume_and_end_as_an_undisturbed_one(make_job):
    settings = SETTINGS | {"epochs": "14", "patience": "14"}
    undisturbed, disturbed = make_job(**settings), make_job(**settings)
    run(undisturbed)

    killed = start(disturbed)
    wait_for(disturbed.checkpoints / "checkpoint.pt", killed)
    killed.kill()
    assert finish(killed)[0] == -signal.SIGKILL, "the job must be killed in the middle"

    stopped = start(disturbed)
    resumed = next(line for line in stopped.stdout if line.startswith(("resumed", "epoch=")))
    assert resumed.startswith("resumed from epoch ")
    stopped.send_signal(signal.SIGTERM)
    code, out, _ = finish(stopped)
    assert code == 128 + signal.SIGTERM and "stopped by SIGTERM" in out
    assert not (disturbed.model / "model.json").exists()

    assert "resumed from epoch " in run(disturbed)
    ours, theirs = (
        model_directory.read_description(disturbed.model),
        model_directory.read_description(undisturbed.model),
    )
    assert without_times(ours) == without_times(theirs)
    assert [epoch["epoch"] for epoch in ours["training"]["history"]] == list(range(1, 15))


def test_two_processes_measure_what_one_does(make_job, monkeypatch):
    # A low rate: rounding changes the sign at some ReLUs, and large steps would amplify the consequences.
    settings = SETTINGS | {"dropout": "0.3", "learning_rate": "0.0001"}
    alone, together = make_job(**settings), make_job(**settings)
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    python = fork_server.shared()
    monkeypatch.setenv("PYTHON_EXEC", str(fork_server.executable(python[-1])))
    out = run(together, (*python, *TORCHRUN, *JOB[3:]))
    assert len(LINE.findall(out)) == 3 and "processes=2" in out
    train(alone, read_inputs(alone), ALONE, StopRequest())
    ours, theirs = (model_directory.read_description(paths.model)["training"]["history"] for paths in (together, alone))
    for one, other in zip(ours, theirs, strict=True):
        for name in ("train_loss", "validation_loss", "validation_macro_auc"):
            assert one[name] == pytest.approx(other[name], abs=0.03), name


EXACT = SETTINGS | {"epochs": "2", "warmup_epochs": "0", "dropout": "0.3", "sampling": "weighted", "noise": "0.1"}


def in_two_processes(paths, target, *stop):
    """Return the figures of the job under torchrun, in float64; `None` where it was stopped."""
    script = str(Path(__file__).parent / "fitting" / "fit_in_float64.py")
    python = fork_server.shared()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHON_EXEC", str(fork_server.executable(python[-1])))
        run(paths, (*python, *TORCHRUN, script, str(target), *map(str, stop)))
    return json.loads(target.read_text())


def test_two_processes_are_one_but_for_rounding(make_job, tmp_path):
    settings = EXACT | {"auxiliary_density": "0.5", "auxiliary_age": "0.2"}
    alone = figures(make_job(**settings), ALONE)
    together = in_two_processes(make_job(**settings), tmp_path / "2.json")
    assert alone["figures"] == pytest.approx(together["figures"], rel=1e-6)
    assert together["shared"], "both processes read one decoded copy of the images"


@pytest.mark.parametrize("first", [1, 2])
def test_a_run_is_resumed_by_another_number_of_processes(make_job, tmp_path, first):
    settings = EXACT | {"pooling": "peaks", "location_weight": "1", "mixup": "0.4", "augment": "0.5"}
    undisturbed, disturbed = make_job(**settings), make_job(**settings)
    expected = figures(undisturbed, ALONE)
    # The run checks for a stop after each of the 3 steps of an epoch, so it stops in the middle of the first.
    if first == 1:
        assert figures(disturbed, ALONE, stop=2) is None
        found = in_two_processes(disturbed, tmp_path / "2.json")
    else:
        assert in_two_processes(disturbed, tmp_path / "2.json", 2) is None
        found = figures(disturbed, ALONE)
    assert found["figures"] == pytest.approx(expected["figures"], rel=1e-6)


LESIONS = {"pooling": "peaks", "location_weight": "1"}


@pytest.fixture(scope="module")
def learnt_lesions(make_job):
    """The folders of a job that was trained with lesion supervision; tests must not change them."""
    paths = make_job(**SETTINGS | LESIONS)
    run(paths)
    return paths


def test_a_job_that_learns_where_lesions_are(learnt_lesions):
    paths = learnt_lesions
    model = model_directory.load(paths.model)
    assert model.description["pooling"] == "peaks" and model.network.pooling is Pooling.PEAKS
    images = read_inputs(paths).validation
    logits = model.predict_logits(torch.stack([images[index][0] for index in range(len(images))]))
    best = model.description["training"]["history"][model.description["training"]["best_epoch"] - 1]
    auc = macro_auc(images.labels, torch.softmax(logits, dim=1).double().numpy())
    assert auc == pytest.approx(best["validation_macro_auc"], abs=1e-6)


@pytest.mark.parametrize(("option", "other"), [("location_weight", "0"), ("pooling", "top"), ("pooling", "mean")])
def test_each_lesion_option_trains_another_network(make_job, learnt_lesions, option, other):
    paths = make_job(**SETTINGS | LESIONS | {option: other})
    train(paths, read_inputs(paths), ALONE, StopRequest())
    ours, theirs = (model_directory.read_description(each.model) for each in (paths, learnt_lesions))
    assert ours["weights_sha256"] != theirs["weights_sha256"]


def test_the_binary_question_makes_one_class_of_all_that_is_not_malignant(make_job):
    binary = {"question": "binary", "sampling": "ratio", "positive_share": "0.4", "positive_target": "0.9"}
    paths = make_job(**SETTINGS | binary | {"epochs": "1", "warmup_epochs": "0", "auxiliary_density": "0.1"})
    manifest = paths.channel("manifest") / "manifest.csv"
    rows = [replace(record, density="AB "[n % 3].strip()) for n, record in enumerate(read_manifest(manifest))]
    write_manifest(rows, manifest)
    inputs = read_inputs(paths)
    found = Counter(record.label for record in inputs.train.records)
    assert inputs.classes == TWO and set(found) == set(THREE)
    assert inputs.train.counts() == {
        Label.NEGATIVE: found[Label.NORMAL] + found[Label.BENIGN],
        Label.MALIGNANT: found[Label.MALIGNANT],
    }
    train(paths, inputs, ALONE, StopRequest())
    model = model_directory.load(paths.model)
    assert model.classes == ("negative", "malignant")
    assert model.predict_logits(inputs.train[0][0][None]).shape == (1, 2)
    assert set(model.network.state_dict()) == set(build_model("modified_cnn", classes=2).state_dict())


def test_pretrained_weights_are_used_and_named(make_job):
    paths = make_job(**SETTINGS | {"head_epochs": "2", "epochs": "3"})
    weights = paths.channel("weights") / "modified_cnn-own.pth"
    weights.parent.mkdir(parents=True)
    torch.save(build_model("modified_cnn", classes=7, seed=9).body.state_dict(), weights)
    out = run(paths)
    written = model_directory.read_description(paths.model)
    assert written["initialisation"] == "pretrained" and "initialisation=pretrained (modified_cnn-own.pth)" in out
    assert written["pretrained_weights"]["file"] == "modified_cnn-own.pth"


def test_the_job_flushes_denormal_numbers_to_zero(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, torch; from mammopipe.training.train import console; sys.argv = ['train', 'unwanted']\n"
        "assert float(torch.tensor(1e-40) * 1)\n"
        "try: console()\nexcept SystemExit: print(float(torch.tensor(1e-40) * 1))"
    )
    command = (*fork_server.shared(), str(script))
    environment = {**os.environ, "MAMMOPIPE_BASE": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "0.0\n"


def test_the_heap_is_kept_with_glibc():
    kept = subprocess.run(
        (sys.executable, "-c", "from mammopipe.processing.container.memory import keep_heap; print(keep_heap())"),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert kept == f"{platform.libc_ver()[0] == 'glibc'}\n"


@pytest.mark.parametrize(
    ("hosts", "gpus", "environment", "expected"),
    [
        (["algo-1"], 0, {}, None),
        (["algo-1"], 1, {}, None),
        (["algo-1"], 4, {"RANK": "2"}, None),
        (["algo-1"], 4, {}, ["--standalone", "--nproc-per-node=4"]),
        (["algo-1", "algo-2"], 0, {}, ["--nnodes=2", "--node-rank=1", "--master-addr=algo-1", "--nproc-per-node=1"]),
        (["algo-1", "algo-2"], 8, {}, ["--nnodes=2", "--node-rank=1", "--master-addr=algo-1", "--nproc-per-node=8"]),
    ],
)
def test_hosts_and_gpus_decide_how_many_processes_start(hosts, gpus, environment, expected):
    command = launch_command(hosts, hosts[-1], gpus=gpus, environment=environment)
    if expected is None:
        assert command is None
    else:
        assert set(expected) <= set(command) and command[-2:] == ["-m", "mammopipe.training.train"]


def test_help_names_every_hyperparameter_and_writes_nothing(tmp_path):
    script = Path(sys.executable).with_name("train")
    if not script.exists():
        pytest.skip("the console script is not installed")
    command = (*fork_server.shared(), str(script), "--help")
    environment = {**os.environ, "MAMMOPIPE_BASE": str(tmp_path / "ml")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert all(f"\n  {name}\n" in done.stdout for name in TrainConfig.model_fields)
    assert not (tmp_path / "ml").exists()
