"""The local replacements of AWS as processes, and the whole pipeline on them: LocalStack for S3, moto for SageMaker."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from infra import localstack
from mammopipe.pipelines.backends.processes import is_supervisor
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.phantoms.mias_tree import write_mias_tree
from tests.support.cloud import ROOT, Cloud, free_ports, running_cloud


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with running_cloud(tmp_path_factory.mktemp("cloud")) as running:
        yield running


@pytest.mark.localstack
def test_the_whole_pipeline_runs_on_it_and_leaves_its_files_and_its_package_there(cloud: Cloud) -> None:
    done = cloud.mammopipe("run", "--config", "quick.toml", "--phantoms", "40")
    assert done.returncode == 0, done.stdout + done.stderr
    execution = json.loads((cloud.folder / "runs" / "latest" / "execution.json").read_text())
    prefix = f"mammopipe/executions/{execution['id']}/"
    listed = cloud.client("s3").list_objects_v2(Bucket="mammopipe", Prefix=prefix)["Contents"]
    folders = {item["Key"].removeprefix(prefix).split("/")[0] for item in listed}
    assert folders == {"prepared", "data_augmentation", "data_segmentation", "models", "evaluation", "model"}
    packages = cloud.client("sagemaker").list_model_packages(ModelPackageGroupName="mammopipe")
    (package,) = packages["ModelPackageSummaryList"]
    assert package["ModelApprovalStatus"] == "PendingManualApproval"


@pytest.mark.localstack
def test_a_dataset_that_is_staged_there_stays(cloud: Cloud) -> None:
    write_mias_tree(cloud.folder / "films", films=4)
    done = cloud.mammopipe("stage", "mias", "films", "--to", "s3://mammopipe/other/raw/mias")
    assert done.returncode == 0, done.stdout + done.stderr
    listed = cloud.client("s3").list_objects_v2(Bucket="mammopipe", Prefix="other/raw/mias/")["Contents"]
    assert {Path(item["Key"]).suffix for item in listed} == {".pgm", ".txt"}


@pytest.mark.localstack
def test_it_knows_who_calls(cloud: Cloud) -> None:
    assert cloud.client("sts").get_caller_identity()["Account"] == "000000000000"


@pytest.mark.localstack
def test_a_port_that_is_taken_is_named(cloud: Cloud, tmp_path: Path) -> None:
    port = int(cloud.environment["AWS_ENDPOINT_URL_S3"].rpartition(":")[2])
    wanted = localstack.services(tmp_path, port, free_ports(1)[0], installed=localstack.FOLDER)
    with pytest.raises(ConfigError, match=f"localstack: http://127.0.0.1:{port} is in use"):
        localstack.start(tmp_path, wanted)


def test_a_service_that_ends_is_quoted_and_nothing_is_left_running(tmp_path: Path) -> None:
    good, bad = free_ports(2)
    waits = localstack.Service("waits", good, "/", [sys.executable, "-c", "import signal; signal.pause()"])
    ends = localstack.Service("ends", bad, "/", [sys.executable, "-c", "print('no licence'); raise SystemExit(3)"])
    with pytest.raises(ConfigError, match="ends ended with exit code 3; its last line: no licence"):
        localstack.start(tmp_path, [ends, waits])


def test_what_is_kept_is_stopped_by_what_was_written_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moto = localstack.services(tmp_path, *free_ports(2), installed=tmp_path)[1]
    running = localstack.start(tmp_path, [moto])["moto"]
    (tmp_path / "running.json").write_text(json.dumps({"processes": {"moto": running.pid}}))
    running.keep()
    assert moto.is_up()
    localstack.down(tmp_path)
    assert "moto stopped" in capsys.readouterr().out
    assert not is_supervisor(running.pid)
    running.wait()


def test_nothing_to_stop_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert localstack.main(["down", "--folder", str(tmp_path)]) == 0
    assert "Neither service is running." in capsys.readouterr().out


def test_every_port_of_the_containers_is_on_loopback_and_every_one_has_a_health_check() -> None:
    content = yaml.safe_load(localstack.COMPOSE_FILE.read_text())
    assert set(content["services"]) == {"localstack", "moto"}
    for service in content["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert service["healthcheck"]["test"]
    assert content["services"]["localstack"]["image"] == "localstack/localstack:${LOCALSTACK_TAG:-4.12.0}"
    pin = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("moto=="))
    assert content["services"]["moto"]["image"].endswith(f"-{pin.removeprefix('moto==')}}}")
