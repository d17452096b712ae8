"""What a training job needs from its hosts: the interface between them, their names, and the GPUs of their type."""

import json
from pathlib import Path
from typing import Any

import pytest

from mammopipe.processing.container.network import (
    LOCAL_VARIABLE,
    await_host,
    check_hosts,
    meeting_point,
    network_environment,
    require_gpus,
)
from mammopipe.processing.container.paths import ContainerPaths
from mammopipe.processing.errors import ConfigError

RESOURCES = {"network_interface_name": "eth0", "current_instance_type": "ml.g5.12xlarge"}


def test_nccl_takes_the_interface_between_the_hosts_unless_the_job_says_else() -> None:
    assert network_environment(RESOURCES, {}) == {"NCCL_SOCKET_IFNAME": "eth0", "GLOO_SOCKET_IFNAME": "eth0"}
    assert network_environment(RESOURCES, {"NCCL_SOCKET_IFNAME": "eth9"}) == {"GLOO_SOCKET_IFNAME": "eth0"}
    assert network_environment({}, {}) == {}


def test_a_host_that_comes_late_is_waited_for() -> None:
    answers = iter([OSError("unknown"), OSError("unknown"), "10.0.0.1"])
    waited: list[float] = []

    def look_up(host: str) -> str:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    await_host("algo-1", look_up=look_up, wait=waited.append)
    assert len(waited) == 2


@pytest.mark.parametrize("answer_takes", [0.0, 30.0])
def test_a_host_that_never_comes_is_given_up_after_minutes_however_slow_the_name_server_is(answer_takes: float) -> None:
    now = [0.0]

    def never(host: str) -> str:
        now[0] += answer_takes
        raise OSError("Name or service not known")

    def wait(seconds: float) -> None:
        now[0] += seconds

    with pytest.raises(ConfigError, match=r"host algo-1 is not known after 3\d\d s"):
        await_host("algo-1", look_up=never, wait=wait, clock=lambda: now[0])
    assert 300 <= now[0] <= 340


@pytest.mark.parametrize(
    ("hosts", "current", "expected"), [(2, "algo-2", "algo-1"), (2, "algo-1", None), (1, "algo-1", None)]
)
def test_only_the_other_hosts_wait_for_the_first(hosts: int, current: str, expected: str | None) -> None:
    assert meeting_point([f"algo-{number + 1}" for number in range(hosts)], current) == expected


@pytest.mark.parametrize(
    ("kind", "gpus", "refused"),
    [
        ("ml.g5.12xlarge", 0, True),
        ("ml.g5.12xlarge", 4, False),
        ("ml.p4d.24xlarge", 0, True),
        ("ml.m5.xlarge", 0, False),
        ("ml.c5.large", 0, False),
        ("", 0, False),
    ],
)
def test_an_instance_with_gpus_does_not_train_on_its_processor(kind: str, gpus: int, refused: bool) -> None:
    resources = {"current_instance_type": kind} if kind else {}
    if refused:
        with pytest.raises(ConfigError, match=f"sees no GPU of {kind}"):
            require_gpus(resources, gpus)
    else:
        require_gpus(resources, gpus)


def test_a_container_of_local_mode_needs_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOCAL_VARIABLE, "true")
    require_gpus({"current_instance_type": "ml.g4dn.xlarge"}, 0)


def groups(*kinds: str) -> dict[str, Any]:
    return {"instance_groups": [{"instance_group_name": kind, "instance_type": kind} for kind in kinds]}


def test_hosts_of_several_types_are_refused_since_they_share_a_batch_evenly() -> None:
    for alike in (groups(), groups("ml.m5.xlarge"), groups("ml.m5.xlarge", "ml.m5.xlarge"), {"instance_groups": None}):
        check_hosts(alike, 0)
    with pytest.raises(ConfigError, match=r"types ml.g5.xlarge, ml.m5.xlarge; training needs hosts of one type"):
        check_hosts(groups("ml.m5.xlarge", "ml.g5.xlarge"), 1)


def written(folder: Path, content: str) -> ContainerPaths:
    path = folder / "input" / "config" / "resourceconfig.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    return ContainerPaths(folder)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, ("algo-1", ["algo-1"])),
        ({"current_host": "algo-2", "hosts": ["algo-2", "algo-1"]}, ("algo-2", ["algo-1", "algo-2"])),
        ({"hosts": ["algo-7"]}, ("algo-7", ["algo-7"])),
        ({"current_host": "algo-1"}, ("algo-1", ["algo-1"])),
        ({"current_host": None, "hosts": None, "current_instance_type": "ml.m5.large"}, ("algo-1", ["algo-1"])),
    ],
)
def test_absent_fields_of_resourceconfig_mean_one_host(
    tmp_path: Path, config: dict[str, Any], expected: tuple[str, list[str]]
) -> None:
    assert written(tmp_path, json.dumps(config)).hosts() == expected


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "must hold a JSON object"),
        ('{"hosts": "algo-1"}', "with a list of hosts"),
        ('{"current_host": "algo-3", "hosts": ["algo-1", "algo-2"]}', "current_host='algo-3' must be one of"),
        ('{"hosts": ["algo-1", "algo-2"]}', "current_host='' must be one of"),
        ('{"current_host": "algo-1", "hosts": ["algo-1", "algo-1"]}', "each once"),
    ],
)
def test_a_resourceconfig_that_contradicts_itself_is_refused_by_name(tmp_path: Path, content: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        written(tmp_path, content).hosts()
