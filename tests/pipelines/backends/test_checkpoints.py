"""Checkpoints of local training jobs: an equal job finds them again, and concurrent jobs never share them."""

from pathlib import Path
from typing import Any

import pytest

from mammopipe.pipelines.backends.checkpoints import held, job_digest
from mammopipe.processing.container.paths import ContainerPaths


def request(**hyperparameters: str) -> dict[str, Any]:
    channels = [{"ChannelName": name} for name in ("manifest", "train")]
    algorithm = {"TrainingImage": "image"}
    return {"HyperParameters": hyperparameters, "AlgorithmSpecification": algorithm, "InputDataConfig": channels}


@pytest.fixture
def paths(tmp_path: Path) -> ContainerPaths:
    paths = ContainerPaths(tmp_path)
    for channel in ("manifest", "train"):
        paths.channel(channel).mkdir(parents=True)
    (paths.channel("manifest") / "manifest.csv").write_text("a 1\n")
    (paths.channel("train") / "a.png").write_bytes(b"pixels")
    return paths


def test_the_digest_is_of_settings_data_and_code(paths: ContainerPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = [job_digest(request(epochs="3"), paths), job_digest(request(epochs="3"), paths)]
    assert digests[0] == digests[1]
    digests.append(job_digest(request(epochs="4"), paths))
    (paths.channel("manifest") / "manifest.csv").write_text("a 2\n")
    digests.append(job_digest(request(epochs="3"), paths))
    monkeypatch.setattr("mammopipe.pipelines.backends.checkpoints.package_digest", lambda: "other")
    digests.append(job_digest(request(epochs="3"), paths))
    assert len(set(digests)) == 4


def test_a_job_that_broke_off_finds_its_folder_again_and_one_that_ended_well_leaves_none(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), held(tmp_path, "d") as folder:
        (folder / "checkpoint.pt").touch()
        raise KeyboardInterrupt
    with held(tmp_path, "d") as again:
        assert again == folder and (again / "checkpoint.pt").exists()
    assert not folder.exists()


def test_two_equal_jobs_side_by_side_have_a_folder_each(tmp_path: Path) -> None:
    with held(tmp_path, "d") as first:
        (first / "checkpoint.pt").touch()
        with held(tmp_path, "d") as second:
            assert second != first and not any(second.iterdir())
        assert (first / "checkpoint.pt").exists() and not second.exists()
