"""What happens to requests when processes die or hang: real processes, real signals."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
HEAVY = ("torch", "cv2", "numpy", "pydicom", "openvino", "highdicom")
MIB = 2**20


def alive(process: int) -> bool:
    """Return whether the process runs; a zombie, which waits for its parent, does not."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False
    return not re.search(r"^State:\s+[ZX]", status, re.MULTILINE)


def parent(process: int) -> int:
    return int(re.findall(r"^PPid:\s+(\d+)", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)[0])


def peak(process: int) -> int:
    """Return the most memory that a process has had resident, in bytes."""
    return 1024 * int(re.findall(r"^VmHWM:\s+(\d+)", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)[0])


@pytest.mark.parametrize(
    "module",
    ["mammopipe.inference.server", "mammopipe.inference.server.lifecycle", "mammopipe.inference.workers.fork_server"],
)
def test_the_server_process_imports_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_serving_process_has_nothing_heavy_mapped(server: Any, phantom: Any) -> None:
    assert server.invoke(phantom.pgm).status == 200
    refused = server.invoke(phantom.pgm, Accept="application/dicom")
    assert refused.code == "no_source_identity"
    libraries = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "libpython" in libraries or "python3" in libraries
    assert not re.search(r"libtorch|/cv2/|/numpy/|/openvino/", libraries)
    assert all("/cv2/" in Path(f"/proc/{worker}/maps").read_text() for worker in server.workers())


def test_workers_do_not_interrupt_the_server(server: Any) -> None:
    assert os.sched_getscheduler(server.process.pid) == os.SCHED_OTHER
    assert {os.sched_getscheduler(worker) for worker in server.workers()} == {os.SCHED_BATCH}


def test_the_serving_processes_hold_the_weights_only_once(server: Any, phantom: Any) -> None:
    assert server.invoke(phantom.pgm).status == 200
    for worker in server.workers():
        maps = Path(f"/proc/{worker}/smaps").read_text()
        (size, resident) = re.findall(r"network\.bin\nSize:\s+(\d+).*?\nRss:\s+(\d+)", maps, re.DOTALL)[0]
        assert int(size) > 0 and int(resident) == 0


def test_a_killed_worker_costs_the_request_in_it_and_no_other(
    own_server: Callable[..., Any], phantom: Any, wait_for: Callable[..., Any]
) -> None:
    server = own_server()
    (worker,) = server.workers()
    os.kill(worker, signal.SIGSTOP)
    with server.unfinished(phantom.pgm) as finish, ThreadPoolExecutor(2) as pool:
        running = pool.submit(finish)
        # Pings that are answered after the body arrived show that the event loop has passed the body on.
        wait_for(lambda: [server.ping() for _ in range(5)] == [200] * 5)
        waiting = pool.submit(server.invoke, phantom.pgm)
        os.kill(worker, signal.SIGKILL)
        lost, kept = running.result(), waiting.result()
    assert (lost.status, lost.code) == (503, "worker_lost") and kept.status == 200
    assert {name.lower(): value for name, value in lost.headers.items()}["retry-after"] == "1"
    assert server.ping() == 200 and server.workers() != [worker]
    (ended,) = (line for line in server.lines() if line["event"] == "worker_ended")
    assert (ended["worker"], ended["exit_code"]) == (worker, -signal.SIGKILL)


def test_kill_under_load_loses_at_most_one_request_a_kill(
    own_server: Callable[..., Any], phantom: Any, wait_for: Callable[..., Any]
) -> None:
    server = own_server(MAMMOPIPE_WORKERS="2")
    wait_for(lambda: len(server.workers()) == 2)
    kills, replies, stop = 3, [], threading.Event()

    def ask() -> None:
        while not stop.is_set():
            replies.append(server.invoke(phantom.pgm))

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(ask) for _ in range(4)]
        try:
            for kill in range(kills):
                answered = len(replies)
                wait_for(lambda answered=answered: len(replies) > answered)
                os.kill(server.workers()[0], signal.SIGKILL)
                # The load continues while the next worker starts.
                wait_for(
                    lambda kill=kill: (
                        len(server.workers()) == 2 and server.stdout.read_text().count('"worker_ended"') == kill + 1
                    )
                )
        finally:
            stop.set()
        assert all(client.result() is None for client in clients)
    codes = Counter("ok" if reply.status == 200 else reply.code for reply in replies)
    assert set(codes) <= {"ok", "worker_lost"} and codes["worker_lost"] <= kills < codes["ok"]
    assert server.invoke(phantom.pgm).status == 200 and server.stop() == 0


def test_a_worker_that_hangs_is_replaced(
    own_server: Callable[..., Any], phantom: Any, wait_for: Callable[..., Any]
) -> None:
    server = own_server(MAMMOPIPE_MAX_SECONDS="3")
    (worker,) = server.workers()
    os.kill(worker, signal.SIGSTOP)
    reply = server.invoke(phantom.pgm)
    assert (reply.status, reply.code) == (504, "time_limit")
    wait_for(lambda: server.ping() == 200)
    assert not alive(worker) and server.workers() != [worker]
    assert server.invoke(phantom.pgm).status == 200


def test_ping_is_503_while_the_only_worker_is_replaced(
    own_server: Callable[..., Any], phantom: Any, wait_for: Callable[..., Any]
) -> None:
    server = own_server()
    os.kill(server.workers()[0], signal.SIGKILL)
    wait_for(lambda: server.ping() == 503)
    assert server.invoke(phantom.pgm).status == 200, "it waits for the next worker"
    assert server.ping() == 200


def test_the_fork_server_is_replaced_too(
    own_server: Callable[..., Any], phantom: Any, wait_for: Callable[..., Any]
) -> None:
    server = own_server()
    (worker,) = server.workers()
    fork_server = parent(worker)
    assert parent(fork_server) == server.process.pid
    os.kill(fork_server, signal.SIGKILL)
    wait_for(lambda: not alive(worker))
    assert server.invoke(phantom.pgm).status == 200
    assert parent(server.workers()[0]) != fork_server
    assert server.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_outlives_the_server(
    own_server: Callable[..., Any], wait_for: Callable[..., Any], number: signal.Signals
) -> None:
    server = own_server()
    (worker,) = server.workers()
    processes = [worker, parent(worker)]
    server.process.send_signal(number)
    assert server.process.wait(30) == (0 if number is signal.SIGTERM else -number)
    wait_for(lambda: not any(map(alive, processes)))


def test_a_server_that_is_killed_while_starting_leaves_no_process(
    own_server: Callable[..., Any], wait_for: Callable[..., Any]
) -> None:
    server = own_server(ready=False)
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    fork_server = int(wait_for(lambda: children.read_text().split())[0])
    server.process.kill()
    server.process.wait(30)
    wait_for(lambda: not alive(fork_server))


def test_a_signal_to_the_whole_group_loses_nothing(own_server: Callable[..., Any], phantom: Any) -> None:
    server = own_server()
    (worker,) = server.workers()
    for process in (worker, parent(worker)):
        os.kill(process, signal.SIGTERM)
        os.kill(process, signal.SIGINT)
    assert server.invoke(phantom.pgm).status == 200 and server.workers() == [worker]


def test_a_body_is_in_memory_no_more_than_twice(own_server: Callable[..., Any]) -> None:
    server = own_server(MAMMOPIPE_MAX_BYTES=str(256 * MIB))
    (worker,) = server.workers()
    before = peak(server.process.pid), peak(worker)
    body = b"P5 1 1 255\n" + bytes(200 * MIB)
    assert server.invoke(body).status == 422
    front, back = peak(server.process.pid) - before[0], peak(worker) - before[1]
    assert front < 20 * MIB, "it lies in an anonymous file, not in the server's own memory"
    assert back < 220 * MIB
