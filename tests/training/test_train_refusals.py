"""The training job refuses unusable data, arguments and leaks."""

import json
import signal
import sys
from dataclasses import replace

import pytest

from mammopipe.processing.datasets.manifest import Split, read_manifest, write_manifest
from mammopipe.processing.errors import ManifestError
from mammopipe.training.train import read_inputs, read_stage
from tests.support import fork_server
from tests.training.test_train import JOB, SETTINGS, finish, start


def spoil_image(paths):
    (paths.channel("train") / "train-benign-0.png").write_bytes(b"text")


def keep_only(split, label):
    def spoil(paths):
        manifest = paths.channel("manifest") / "manifest.csv"
        write_manifest(
            [record for record in read_manifest(manifest) if record.split is not split or record.label.value == label],
            manifest,
        )

    return spoil


def spread_patient(paths):
    manifest = paths.channel("manifest") / "manifest.csv"
    manifest.write_text(manifest.read_text().replace(",validation-benign-1,", ",train-benign-1,"))


@pytest.mark.parametrize(
    ("changes", "spoil", "message"),
    [
        ({"epoch": "3"}, None, "hyperparameter epoch='3' is unknown"),
        ({"epochs": "many"}, None, "hyperparameter epochs = 'many': must be a whole number"),
        ({}, lambda paths: paths.hyperparameters.write_text("{"), "hyperparameters.json: cannot be read as JSON"),
        ({}, lambda paths: paths.hyperparameters.unlink(), "hyperparameters.json: cannot be read"),
        (
            {},
            lambda paths: (paths.channel("train") / "train-benign-0.png").unlink(),
            "image_id=train-benign-0 of split",
        ),
        ({}, spoil_image, "train-benign-0.png"),
        ({}, keep_only(Split.TRAIN, "normal"), "split=train has no benign and no malignant image"),
        ({}, keep_only(Split.TRAIN, "none"), "split=train has no normal"),
        ({}, keep_only(Split.VALIDATION, "none"), "split=validation has no normal"),
        ({}, lambda paths: (paths.channel("manifest") / "manifest.csv").unlink(), "no manifest.csv"),
        ({}, lambda paths: (paths.channel("stage") / "stage.json").unlink(), "no stage.json"),
        (
            {},
            lambda paths: (paths.channel("stage") / "stage.json").write_text('{"config": {}}'),
            "config.preprocess is missing",
        ),
        ({}, spread_patient, "patient_id=train-benign-1 is in the splits"),
    ],
)
def test_misuse_is_one_line_and_a_failure_file(make_job, monkeypatch, capsys, changes, spoil, message):
    from mammopipe.processing.container.job import run as run_job
    from mammopipe.training.train import main

    paths = make_job(**SETTINGS | changes)
    if spoil is not None:
        spoil(paths)
    monkeypatch.setenv("MAMMOPIPE_BASE", str(paths.base))
    monkeypatch.setattr(sys, "argv", ["train"])
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert run_job(main, "failure") == 1
    finally:
        signal.signal(signal.SIGTERM, before)
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0]
    assert message in (paths.output / "failure").read_text()
    assert not (paths.model / "model.json").exists()


def test_arguments_are_refused(make_job):
    code, _, err = finish(start(make_job(**SETTINGS), (*fork_server.shared(), *JOB[1:], "--epochs", "3")))
    assert code == 1 and "train takes no arguments, not '--epochs 3'" in err


def test_parts_of_a_stage_must_agree(make_job):
    paths = make_job(**SETTINGS)
    whole = paths.channel("stage") / "stage.json"
    written = json.loads(whole.read_text())
    for host in ("algo-1", "algo-2"):
        (paths.channel("stage") / f"stage-{host}.json").write_text(json.dumps(written))
    whole.unlink()
    assert read_stage(paths).height == 64
    written["config"]["preprocess"]["height"] = 96
    (paths.channel("stage") / "stage-algo-2.json").write_text(json.dumps(written))
    with pytest.raises(Exception, match="stage-algo-1.json, stage-algo-2.json state different config.preprocess"):
        read_stage(paths)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patient_id": "train-benign-0"}, "patient_id=train-benign-0 is in the splits train .* and validation"),
        ({"sha256": "a" * 64}, "are one file"),
        ({"split": None}, "belongs to no split"),
    ],
)
def test_a_leak_that_ids_and_hashes_show_stops_the_job_before_it_reads_an_image(make_job, change, message):
    paths = make_job(**SETTINGS)
    manifest = paths.channel("manifest") / "manifest.csv"
    records = [
        replace(record, sha256="a" * 64) if record.image_id == "train-benign-0" else record
        for record in read_manifest(manifest)
    ]
    leaky = [replace(item, **change) if item.image_id == "validation-normal-1" else item for item in records]
    write_manifest(leaky, manifest)
    for image in paths.channel("train").iterdir():
        image.unlink()
    with pytest.raises(ManifestError, match=message):
        read_inputs(paths)
