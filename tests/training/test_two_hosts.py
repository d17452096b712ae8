"""A job on two hosts with two processes each: the figures of one process, resuming with another number, a lost host."""

import json
import os
import re
import socket
import subprocess
from pathlib import Path

import pytest
import torch

from mammopipe.processing.container.job import run
from mammopipe.processing.errors import ConfigError, LostProcessError
from mammopipe.training.fitting.distributed import ALONE
from tests.support import fork_server
from tests.training.fitting.fit_in_float64 import figures

SETTINGS = {
    "cnn": "modified_cnn", "epochs": "2", "head_epochs": "0", "warmup_epochs": "0", "batch_size": "8",
    "precision": "float32", "dropout": "0.3", "noise": "0.1",
}  # fmt: skip
SCRIPT = Path(__file__).parent / "fitting" / "fit_in_float64.py"
HOSTS = ("algo-1", "algo-2")
CHECKS = 6
"""The run checks for a stop after each step and each batch of validation: 3 times, and once or twice, in an epoch."""


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def start_hosts(paths, *arguments):
    """Start torchrun as `train` starts it on each of two hosts, with two processes a host and loopback between them."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    python = fork_server.shared()
    started = []
    for rank, host in enumerate(HOSTS):
        environment = {
            **os.environ,
            "MAMMOPIPE_BASE": str(paths.base),
            "OMP_NUM_THREADS": "1",
            "PYTHON_EXEC": str(fork_server.executable(python[-1])),
            "SM_HOSTS": json.dumps(HOSTS),
            "SM_CURRENT_HOST": host,
        }
        torchrun = (
            "-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={rank}", "--master-addr=127.0.0.1",
            f"--master-port={port}", "--nproc-per-node=2",
        )  # fmt: skip
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen((*python, *torchrun, SCRIPT, *map(str, arguments)), env=environment, **pipes))
    return started


def finish(hosts):
    ended = [host.communicate(timeout=240) for host in hosts]
    return [host.returncode for host in hosts], ended


def test_four_processes_of_two_hosts_are_one(make_job, tmp_path):
    expected = figures(make_job(**SETTINGS), ALONE)["figures"]
    whole, disturbed = make_job(**SETTINGS), make_job(**SETTINGS)
    codes, ended = finish(start_hosts(whole, tmp_path / "whole.json"))
    assert codes == [0, 0], ended
    assert json.loads((tmp_path / "whole.json").read_text())["figures"] == pytest.approx(expected, rel=1e-6)
    assert [file.name for file in whole.checkpoints.iterdir()] == ["checkpoint.pt"]

    # The second host is lost in the second epoch; the checkpoint is that of the first.
    codes, ended = finish(start_hosts(disturbed, tmp_path / "lost.json", CHECKS, 1))
    assert codes == [1, 1] and not (tmp_path / "lost.json").exists(), ended
    assert re.search(
        r"LostProcessError: process [01] of 4 lost the connection to the others: .* resumes from the last checkpoint",
        ended[0][1],
    )
    assert figures(disturbed, ALONE)["figures"] == pytest.approx(expected, rel=1e-6), "resumed by one process"


def test_a_lost_process_does_not_hide_the_cause(monkeypatch, tmp_path):
    monkeypatch.setenv("MAMMOPIPE_BASE", str(tmp_path))

    def fail(error):
        def main(arguments):
            raise error

        return run(main, "failure")

    assert fail(LostProcessError("process 1 of 2 lost the connection")) == 1
    assert (tmp_path / "output" / "failure").read_text().startswith("process 1")
    assert fail(ConfigError("the cause")) == 1 and fail(LostProcessError("process 1 of 2 lost the connection")) == 1
    assert (tmp_path / "output" / "failure").read_text() == "the cause"
