"""The whole pipeline in containers, with S3 on LocalStack, compared with the same run as local processes."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mammopipe.pipelines.containers import docker_cli
from mammopipe.processing.phantoms.mias_tree import write_mias_tree
from tests.support.cloud import Cloud, running_cloud

pytestmark = pytest.mark.docker
IMAGE = "mammopipe/serving:latest"


@dataclass(frozen=True)
class Runs:
    """One configuration, run on both backends."""

    cloud: Cloud
    folders: dict[str, Path]

    def document(self, backend: str, name: str) -> dict[str, Any]:
        return dict(json.loads((self.folders[backend] / name).read_text()))


def docker(*words: str) -> str:
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=True).stdout.strip()


def ours() -> set[str]:
    """Return the ids of Docker's containers and networks, both of which a local run creates."""
    return set(docker("ps", "--all", "--quiet").split()) | set(docker("network", "ls", "--quiet").split())


@pytest.fixture(scope="module")
def before() -> set[str]:
    return ours()


@pytest.fixture(scope="module")
def runs(before: set[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    with running_cloud(tmp_path_factory.mktemp("cloud")) as cloud:
        folders = {}
        for backend, keep in (("process", ()), ("docker", ("--keep-endpoint",))):
            done = cloud.mammopipe("run", "--backend", backend, "--config", "quick.toml", "--phantoms", "40", *keep)
            assert done.returncode == 0, done.stdout + done.stderr
            folders[backend] = (cloud.folder / "runs" / "latest").resolve()
        yield Runs(cloud, folders)


def test_both_backends_run_the_same_steps_of_the_same_definition(runs: Runs) -> None:
    facts = ("name", "type", "status")
    steps = {
        backend: [[step[fact] for fact in facts] for step in runs.document(backend, "execution.json")["steps"]]
        for backend in runs.folders
    }
    assert steps["docker"] == steps["process"]
    assert runs.document("docker", "execution.json")["backend"] == "docker"
    texts = {(folder / "pipeline.json").read_bytes() for folder in runs.folders.values()}
    assert len(texts) == 1


def test_both_backends_find_the_same_figures(runs: Runs) -> None:
    found = [runs.document(backend, "evaluation.json") for backend in ("process", "docker")]
    first, second = (item["selected"] for item in found)
    assert first["cnn"] == second["cnn"]
    for split in ("validation", "test"):
        for measure in ("macro_auc", "balanced_accuracy", "accuracy"):
            expected = first[split][measure]["value"]
            assert second[split][measure]["value"] == pytest.approx(expected, abs=0.02), (split, measure)


def test_both_endpoints_answer_the_same_image_alike(runs: Runs) -> None:
    first, second = (runs.document(backend, "invocation.json") for backend in ("process", "docker"))
    assert first["film"] == second["film"]
    assert second["answer"]["probabilities"] == pytest.approx(first["answer"]["probabilities"], abs=0.02)


def test_the_results_lie_on_localstacks_s3(runs: Runs) -> None:
    identity = runs.document("docker", "execution.json")["id"]
    listed = runs.cloud.client("s3").list_objects_v2(Bucket="mammopipe", Prefix=f"mammopipe/executions/{identity}/")
    folders = {item["Key"].split("/")[3] for item in listed["Contents"]}
    assert folders == {"prepared", "data_augmentation", "data_segmentation", "models", "evaluation", "model"}


def test_the_endpoint_is_a_container_that_answers_on_loopback_until_it_is_deleted(
    runs: Runs, before: set[str], tmp_path: Path
) -> None:
    (name,) = docker("ps", "--filter", f"label={docker_cli.RUN_LABEL}", "--format", "{{.Names}}").split()
    inspected = json.loads(docker("inspect", name))[0]
    assert inspected["Config"]["User"] == "10001" and inspected["HostConfig"]["ReadonlyRootfs"]
    assert [item["HostIp"] for item in inspected["NetworkSettings"]["Ports"]["8080/tcp"]] == ["127.0.0.1"]
    write_mias_tree(tmp_path / "films", films=2)
    answer = runs.cloud.mammopipe("invoke", str(tmp_path / "films" / "mdb001.pgm"), "--json")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert set(json.loads(answer.stdout)["probabilities"]) == {"normal", "benign", "malignant"}
    assert runs.cloud.mammopipe("delete").returncode == 0
    assert ours() == before, "containers and networks of the jobs, and the endpoint, are gone"
    assert not any((runs.cloud.folder / "runs" / ".work").iterdir())


def test_what_containers_wrote_as_root_is_handed_over(tmp_path: Path) -> None:
    mount = f"{tmp_path}:/left"
    script = "mkdir /left/deep && echo x > /left/deep/file && chmod 600 /left/deep/file"
    docker("run", "--rm", "--user", "0", "--volume", mount, "--entrypoint", "sh", IMAGE, "-c", script)
    docker_cli.hand_over(tmp_path, IMAGE, (12345, 23456))
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in [tmp_path, *tmp_path.rglob("*")]}
    assert owners == {(12345, 23456)}


@pytest.mark.parametrize("target", ["processing", "training", "serving"])
def test_an_image_has_labels_no_compiler_no_cache_and_no_history_of_secrets(target: str) -> None:
    image = f"mammopipe/{target}:latest"
    config = json.loads(docker("inspect", image))[0]["Config"]
    assert config["Labels"]["org.opencontainers.image.title"] == f"mammopipe {target}"
    assert len(config["Labels"]["org.opencontainers.image.revision"]) == 40
    found = docker(
        "run", "--rm", "--network", "none", "--entrypoint", "sh", image, "-c",
        "command -v gcc cc make || true; ls -A /root/.cache /tmp 2>/dev/null; cat /run/secrets/ca 2>/dev/null || true",
    )  # fmt: skip
    assert found.replace("/tmp:", "").replace("/root/.cache:", "").split() == []
    assert "BEGIN CERTIFICATE" not in docker("history", "--no-trunc", image)


def test_only_the_server_is_not_root_and_says_how_it_is(tmp_path: Path) -> None:
    users = {}
    for target in ("processing", "training", "serving"):
        config = json.loads(docker("inspect", f"mammopipe/{target}:latest"))[0]["Config"]
        users[target] = (config["User"] or "root", config["Healthcheck"]["Test"][0])
    assert users == {"processing": ("root", "NONE"), "training": ("root", "NONE"), "serving": ("10001", "CMD")}


def test_the_serving_image_has_no_torch_and_is_the_smallest() -> None:
    sizes = {name: int(docker("inspect", "--format", "{{.Size}}", f"mammopipe/{name}:latest")) for name in (
        "processing", "training", "serving")}  # fmt: skip
    assert sizes["serving"] == min(sizes.values())
    script = "import importlib.util as u; print([n for n in ('torch', 'pip', 'pandas') if u.find_spec(n)])"
    words = ("run", "--rm", "--network", "none", "--entrypoint", "python", IMAGE, "-c", script)
    assert docker(*words) == "[]"
