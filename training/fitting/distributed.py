"""Distributed training: describes the processes of a job, starts them, and exchanges data among them."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from mammopipe.processing.errors import ConfigError, LostProcessError

PORT = 29500
"""Port on which the first host listens for the others; torchrun's default."""


@dataclass(frozen=True)
class World:
    """One process of the job."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")
    local_rank: int = 0
    """Rank of the process on its host."""
    local_size: int = 1
    """Number of processes on the host."""

    @property
    def leads(self) -> bool:
        """Whether this process writes files and log lines."""
        return self.rank == 0


ALONE = World()
"""The only process of a job on a CPU."""


def launch_command(
    hosts: Sequence[str], current: str, *, gpus: int, environment: Mapping[str, str]
) -> list[str] | None:
    """Return the torchrun command that starts this job's processes on this host.

    There is one process per GPU, or one per host without GPUs. The first host is the rendezvous.

    Args:
        hosts: Names of all hosts.
        current: Name of this host.
        gpus: Number of GPUs of this host.
        environment: Environment variables of this process.

    Returns:
        The command; `None` if one process is enough, or if torchrun started this process (`RANK` is set).

    Raises:
        ConfigError: `current` is not among `hosts`.
    """
    # torchrun sets RANK for the processes that it starts; they must not start torchrun again.
    if "RANK" in environment or (len(hosts) == 1 and gpus <= 1):
        return None
    if current not in hosts:
        raise ConfigError(f"resourceconfig.json: current_host={current!r} is not among hosts={list(hosts)}")
    meeting = (
        ["--standalone"]
        if len(hosts) == 1
        else [
            f"--nnodes={len(hosts)}",
            f"--node-rank={list(hosts).index(current)}",
            f"--master-addr={hosts[0]}",
            f"--master-port={PORT}",
        ]
    )
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        *meeting,
        f"--nproc-per-node={max(gpus, 1)}",
        "-m",
        "mammopipe.training.train",
    ]


def launch(command: Sequence[str], variables: Mapping[str, str]) -> int:
    """Run the command with additional environment variables, forward SIGTERM to it, and return its exit code."""
    process = subprocess.Popen(command, env={**os.environ, **variables})

    def forward(number: int, frame: FrameType | None) -> None:
        process.send_signal(number)

    # SageMaker signals only this process, but the training processes must write a checkpoint.
    before = signal.signal(signal.SIGTERM, forward)
    try:
        return process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def joined(environment: Mapping[str, str] = os.environ) -> Iterator[World]:
    """Join the process group that torchrun started (gloo on CPUs, nccl on GPUs); leave it on exit.

    Raises:
        LostProcessError: Another process of the job ended, or cannot be reached.
    """
    local_rank = int(environment.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if "RANK" not in environment:
        yield World(device=device)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        local_size = int(environment.get("LOCAL_WORLD_SIZE", "1"))
        world = World(dist.get_rank(), dist.get_world_size(), device, local_rank, local_size)
        with _lost_process_named(world):
            yield world
    finally:
        dist.destroy_process_group()


@contextmanager
def _lost_process_named(world: World) -> Iterator[None]:
    """Turn an error of the connection between the processes into a `LostProcessError`."""
    try:
        yield
    except RuntimeError as error:
        # nccl raises a DistError, but gloo a plain RuntimeError, which only its source path in the message identifies.
        if not isinstance(error, dist.DistError) and "/gloo/" not in str(error):
            raise
        raise LostProcessError(
            f"process {world.rank} of {world.size} lost the connection to the others: one of them, or its host, ended "
            f"or cannot be reached; its log has the cause. The same job started again resumes from the last checkpoint"
        ) from None


def gather_rows(rows: NDArray[Any], world: World) -> NDArray[Any]:
    """Return the rows of all processes in order; process r of n holds rows r, r + n, r + 2n, ... of the whole."""
    if world.size == 1:
        return rows
    parts: list[Any] = [None] * world.size
    dist.all_gather_object(parts, rows)
    whole = np.empty((sum(len(part) for part in parts), *rows.shape[1:]), rows.dtype)
    for rank, part in enumerate(parts):
        whole[rank :: world.size] = part
    return whole


def agree(value: Any, world: World) -> Any:
    """Return the first process's value in every process."""
    if world.size == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0, device=world.device)
    return values[0]


def of_host(value: Any, world: World) -> Any:
    """Return the value of the first process of this host, in every process."""
    if world.size == 1:
        return value
    values: list[Any] = [None] * world.size
    dist.all_gather_object(values, value)
    return values[world.rank - world.local_rank]


def wait_for_all(world: World) -> None:
    """Wait until every process has called this function."""
    if world.size > 1:
        dist.barrier()
