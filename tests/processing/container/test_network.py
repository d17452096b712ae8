"""What a training job needs of its hosts: the interface between them, their names, and the GPUs that are paid."""

import pytest

from mammopipe.processing.container.network import (
    LOCAL_VARIABLE,
    await_host,
    meeting_point,
    network_environment,
    require_gpus,
)
from mammopipe.processing.errors import ConfigError

RESOURCES = {"network_interface_name": "eth0", "current_instance_type": "ml.g5.12xlarge"}


def test_nccl_takes_the_interface_between_the_hosts_unless_the_job_says_else() -> None:
    assert network_environment(RESOURCES, {}) == {"NCCL_SOCKET_IFNAME": "eth0", "GLOO_SOCKET_IFNAME": "eth0"}
    assert network_environment(RESOURCES, {"NCCL_SOCKET_IFNAME": "eth9"}) == {"GLOO_SOCKET_IFNAME": "eth0"}
    assert network_environment({}, {}) == {}


def test_a_host_that_comes_late_is_waited_for_and_one_that_never_comes_is_given_up() -> None:
    answers = iter([OSError("unknown"), OSError("unknown"), "10.0.0.1"])
    waited: list[float] = []

    def look_up(host: str) -> str:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    await_host("algo-1", look_up=look_up, wait=waited.append)
    assert len(waited) == 2

    def never(host: str) -> str:
        raise OSError("Name or service not known")

    with pytest.raises(ConfigError, match="host algo-1 is not known after 300 s"):
        await_host("algo-1", look_up=never, wait=waited.append)
    assert sum(waited) <= 320


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
def test_an_instance_that_is_paid_for_its_gpus_does_not_train_on_its_processor(
    kind: str, gpus: int, refused: bool
) -> None:
    resources = {"current_instance_type": kind} if kind else {}
    if refused:
        with pytest.raises(ConfigError, match=f"sees no GPU of {kind}"):
            require_gpus(resources, gpus)
    else:
        require_gpus(resources, gpus)


def test_a_container_of_local_mode_needs_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOCAL_VARIABLE, "true")
    require_gpus({"current_instance_type": "ml.g4dn.xlarge"}, 0)
