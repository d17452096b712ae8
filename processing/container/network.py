"""How the hosts of one training job find and reach each other on SageMaker, and whether they have what they cost.

Source: "Distributed training configuration" and "How Amazon SageMaker AI Provides Training Information" (SageMaker
Developer Guide): resourceconfig.json names the interface between the hosts and the instance type.
"""

import socket
import time
from collections.abc import Callable, Mapping, Sequence

from mammopipe.processing.errors import ConfigError

PATIENCE = 300.0
"""Seconds in which the name of the first host must be known to the others; its container may start later."""
PAUSE = 5.0
GPU_FAMILIES = ("g", "p")


def network_environment(resources: Mapping[str, object], environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that bind NCCL and gloo to the interface between the hosts.

    Without them the first process may listen at the link-local address of the agent, where no other host finds it.
    Values that the environment already has stay.

    Args:
        resources: The content of resourceconfig.json.
        environment: The job's own variables.
    """
    interface = resources.get("network_interface_name")
    names = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
    return {name: str(interface) for name in names if interface and name not in environment}


def await_host(
    host: str,
    *,
    look_up: Callable[[str], object] = socket.gethostbyname,
    wait: Callable[[float], None] = time.sleep,
    patience: float = PATIENCE,
) -> None:
    """Return once a host's name is known; raises `ConfigError` after some minutes, which torchrun alone would not."""
    waited = 0.0
    while True:
        try:
            look_up(host)
            return
        except OSError as error:
            if waited >= patience:
                raise ConfigError(
                    f"host {host} is not known after {waited:.0f} s ({error}): do the security groups of the job let "
                    "its hosts reach each other?"
                ) from None
            wait(PAUSE)
            waited += PAUSE


def require_gpus(resources: Mapping[str, object], gpus: int) -> None:
    """Refuse to train on the processor of an instance that is paid for its GPUs.

    Args:
        resources: The content of resourceconfig.json.
        gpus: The GPUs that the container sees.
    """
    kind = str(resources.get("current_instance_type", ""))
    family = kind.removeprefix("ml.").partition(".")[0]
    if kind.startswith("ml.") and family[:1] in GPU_FAMILIES and family[1:2].isdigit() and not gpus:
        raise ConfigError(
            f"the container sees no GPU of {kind}: its image has torch without CUDA (build it without TORCH_INDEX), or "
            "the driver of the instance is older than that CUDA needs"
        )


def meeting_point(hosts: Sequence[str], current: str) -> str | None:
    """Return the host whose name must be known before torchrun starts; None on the first host, and on a single one."""
    return hosts[0] if len(hosts) > 1 and current != hosts[0] else None
