"""Lets the hosts of a training job reach each other on SageMaker, and checks that a GPU instance has its GPUs.

Source: "Distributed training configuration" and "How Amazon SageMaker AI Provides Training Information" (SageMaker
Developer Guide): resourceconfig.json names the interface between the hosts and the instance type.
"""

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence

from mammopipe.processing.errors import ConfigError

PATIENCE = 300.0
"""Seconds to wait until the other hosts can resolve the first host's name; its container may start later."""
PAUSE = 5.0
"""Seconds between two attempts."""
GPU_FAMILIES = ("g", "p")


def network_environment(resources: Mapping[str, object], environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that bind NCCL and gloo to the network interface between the hosts.

    Without them, the first process may listen at the agent's link-local address, which other hosts cannot reach. Values
    that are already set are kept.

    Args:
        resources: The content of resourceconfig.json.
        environment: The environment variables of the job.
    """
    interface = resources.get("network_interface_name")
    names = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
    return {name: str(interface) for name in names if interface and name not in environment}


def await_host(
    host: str,
    *,
    look_up: Callable[[str], object] = socket.gethostbyname,
    wait: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Wait until a host's name can be resolved; raises `ConfigError` after `PATIENCE` seconds, unlike torchrun.

    The time that the resolver takes counts, too: an attempt takes half a minute if the name server does not answer.
    """
    start = clock()
    while True:
        try:
            look_up(host)
            return
        except OSError as error:
            waited = clock() - start
            if waited >= PATIENCE:
                raise ConfigError(
                    f"host {host} is not known after {waited:.0f} s ({error}): do the security groups of the job let "
                    "its hosts reach each other?"
                ) from None
            wait(PAUSE)


def check_hosts(resources: Mapping[str, object], gpus: int) -> None:
    """Refuse hosts that cannot train together, or whose GPUs are not seen (`require_gpus`).

    Args:
        resources: The content of resourceconfig.json; `instance_groups` are those of a heterogeneous cluster.
        gpus: The number of GPUs that the container sees.

    Raises:
        ConfigError: Instance groups have different types, or a GPU instance shows no GPU.
    """
    groups = resources.get("instance_groups")
    # The processes share a batch evenly, so the hosts must have equally many GPUs.
    kinds = {str(group.get("instance_type", "")) for group in (groups if isinstance(groups, list) else []) if group}
    if len(kinds) > 1:
        raise ConfigError(
            f"resourceconfig.json: instance_groups of the types {', '.join(sorted(kinds))}; training needs hosts of "
            "one type"
        )
    require_gpus(resources, gpus)


LOCAL_VARIABLE = "MAMMOPIPE_LOCAL_MODE"
"""Environment variable of a job that runs in a local container, whatever instance type its configuration names."""


def require_gpus(resources: Mapping[str, object], gpus: int) -> None:
    """Refuse to train on the CPU of a GPU instance; a container of local mode (`LOCAL_VARIABLE`) is not refused.

    Args:
        resources: The content of resourceconfig.json.
        gpus: The number of GPUs that the container sees.
    """
    if os.environ.get(LOCAL_VARIABLE):
        return
    kind = str(resources.get("current_instance_type", ""))
    family = kind.removeprefix("ml.").partition(".")[0]
    if kind.startswith("ml.") and family[:1] in GPU_FAMILIES and family[1:2].isdigit() and not gpus:
        raise ConfigError(
            f"the container sees no GPU of {kind}: its image has torch without CUDA (build it without TORCH_INDEX), or "
            "the driver of the instance is older than that CUDA needs"
        )


def meeting_point(hosts: Sequence[str], current: str) -> str | None:
    """Return the host whose name must be resolved before torchrun starts; `None` on the first or only host."""
    return hosts[0] if len(hosts) > 1 and current != hosts[0] else None
