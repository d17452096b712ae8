"""Starts our commands by forking a process that has imported what they need.

A job needs some seconds to import torch, scikit-learn, matplotlib and the SageMaker SDK, more than for the rest of its
work on a few small images. `python -m tests.support.fork_server SOCKET` imports them once and then waits. For each
connection, it forks a child that runs one Python command with the caller's arguments, environment, folder and output.
Otherwise the child behaves like a process started in the usual way: its signals, its exit code, and its end when the
caller is killed. A second server, which all commands share, forks the workers of their process pools, so those have its
environment and its standard error. `tests/support/fork_client.py` is the caller.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from tests.support import service_models

VARIABLE = "FORK_SERVER_COMMAND"
"""Environment variable with the command of the server that pytest's main process runs for its workers, as JSON."""
OBJECTS_BETWEEN_COLLECTIONS = 10_000
"""How many more objects there are before garbage is searched for once more; Python's default of 700 costs time."""
CLIENT = Path(__file__).with_name("fork_client.py")
JOBS = tuple(f"mammopipe.processing.jobs.{job}" for job in ("prepare", "augment", "segment"))
IMPORTS = (
    *JOBS,
    "torch._dynamo",
    "torch._inductor.codecache",
    "torch.distributed.elastic.rendezvous.c10d_rendezvous_backend",
    "torch.distributed.run",
    "torch.export",
    "torch.export._trace",
    "openvino.frontend.pytorch.torchdynamo.export_decompositions",
    "captum.attr",
    "networkx",
    "sklearn.isotonic",
    "sklearn.linear_model",
    "sklearn.metrics",
    "matplotlib.backends.backend_svg",
    "moto.server",
    "moto.s3.responses",
    "mammopipe.training.train",
    "mammopipe.training.evaluate",
    "mammopipe.training.reporting.plots",
    "mammopipe.inference.server.app",
    "mammopipe.pipelines.runs.launch",
    "mammopipe.pipelines.cli",
)


def python(socket_path: str) -> list[str]:
    """Return the command that takes the place of `python`; its arguments are `[-u] [-W ACTION] SCRIPT or -m MODULE`."""
    return [sys.executable, "-I", "-S", str(CLIENT), socket_path]


def executable(socket_path: str) -> Path:
    """Return a file that takes the place of `python` where a command starts others, as torchrun its `PYTHON_EXEC`."""
    return Path(socket_path).with_name("python")


@contextmanager
def running(*, ready: bool = True) -> Iterator[list[str]]:
    """Yield the command that takes the place of `python` while a server runs; wait until it is ready, or not."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/socket"
        executable(path).write_text(f'#!/bin/sh\nexec {shlex.join(python(path))} "$@"\n')
        executable(path).chmod(0o700)
        reading, writing = os.pipe()
        command = [sys.executable, "-m", "tests.support.fork_server", path, str(writing)]
        server = subprocess.Popen(command, cwd=Path(__file__).parents[2], pass_fds=[writing], stdin=subprocess.PIPE)
        os.close(writing)
        try:
            if ready and not os.read(reading, 1):
                raise RuntimeError("the fork server did not start")
            yield python(path)
        finally:
            os.close(reading)
            server.terminate()
            server.communicate()


@cache
def shared() -> list[str]:
    """Return the command that takes the place of `python`; starts a server unless pytest's main process runs one."""
    if command := os.environ.get(VARIABLE):
        return list(json.loads(command))
    server = ExitStack()
    atexit.register(server.close)
    return server.enter_context(running())


def use(command: list[str]) -> None:
    """Make this process start jobs by forking: `command` replaces `python`."""
    from mammopipe.pipelines.backends.jobs import ENTRYPOINTS

    assert isinstance(ENTRYPOINTS, dict)
    modules = {"train": "mammopipe.training.train", "serve": "mammopipe.inference.server"}
    ENTRYPOINTS.update({name: [*command, "-m", module] for name, module in modules.items()})
    ENTRYPOINTS.update({"python": command, "python3": command})


def main(path: str, ready: int) -> dict[str, Any]:
    """Serve until this process is a child with a command to run; return the command."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen(64)
    gc.disable()  # imported modules are never garbage
    from mammopipe.training.model.openvino_runtime import load_openvino

    load_openvino()  # without telemetry
    for name in IMPORTS:
        importlib.import_module(name)
    # torchrun names its steps with `inspect.stack()`, which searches all modules; that takes longer than a small job.
    rendezvous = importlib.import_module("torch.distributed.elastic.rendezvous.dynamic_rendezvous")
    rendezvous.get_method_name = lambda depth=2: sys._getframe(depth).f_code.co_name
    service_models.read_once("s3", "sagemaker", "sagemaker-runtime", "sts")
    importlib.import_module("mammopipe.pipelines.graph.sdk").prepare_sdk("us-east-1")
    importlib.import_module("mammopipe.pipelines.graph.steps")
    _prepare()
    use(python(path))
    gc.freeze()
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    gc.enable()
    # All commands have their pools' workers forked by one server. It has imported what the jobs import, but not the
    # jobs: a worker runs its job's module anew, and runpy warns of one that is imported already.
    imported = [name for name in sys.modules if name.startswith("mammopipe.processing.")]
    forkserver.set_forkserver_preload(sorted(set(imported) - set(JOBS)))
    forkserver.ensure_running()
    reaping, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    with listening, selectors.DefaultSelector() as selector:
        for source in (listening, reaping, sys.stdin):
            selector.register(source, selectors.EVENT_READ)
        os.write(ready, b"r")
        os.close(ready)
        children: dict[int, socket.socket | None] = {}
        """The caller of each child; `None` once the caller was killed."""
        child = -1
        while child:
            for key, _ in selector.select():
                if key.fileobj is sys.stdin:
                    sys.exit()  # the tests are gone
                elif key.fileobj is reaping:
                    os.read(reaping, 512)
                    _report_ended(children, selector)
                elif key.fileobj is listening:
                    caller, _ = listening.accept()
                    request, descriptors = _received(caller)
                    child = os.fork()
                    if not child:
                        signal.set_wakeup_fd(-1)
                        for open_file in (caller, *filter(None, children.values())):
                            open_file.close()
                        os.close(reaping)
                        os.close(wake)
                        break
                    for descriptor in descriptors:
                        os.close(descriptor)
                    children[child] = caller
                    with suppress(ConnectionError):  # a caller that was killed meanwhile: its end is read below
                        caller.sendall(f"{child}\n".encode())
                    selector.register(caller, selectors.EVENT_READ)
                else:  # a caller that was killed
                    for killed in [number for number, caller in children.items() if caller is key.fileobj]:
                        os.kill(killed, signal.SIGKILL)
                        with suppress(ProcessLookupError):  # it had not become the leader of a group yet
                            os.killpg(killed, signal.SIGKILL)
                        children[killed] = None
                        selector.unregister(key.fileobj)
    _become(request, descriptors)
    return request


def _prepare() -> None:
    """Do once what is slow only the first time in a process: a definition, an export, a plot, the pages' templates."""
    import torch

    from mammopipe.inference import monitoring
    from mammopipe.pipelines import PipelineConfig, build_pipeline, external_evaluation
    from mammopipe.processing.pages.plot import Plot
    from mammopipe.processing.pages.template import environment
    from mammopipe.training.reporting.report import TEMPLATES

    build_pipeline(PipelineConfig()).definition()
    # So small that torch starts no threads: a forked process would not have them, and would wait for them forever.
    layers = (torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1))
    torch.export.export(torch.nn.Sequential(*layers).eval(), (torch.zeros(1, 1, 8, 8),))
    Plot("", "", "", unit=True).svg()
    for folder in (TEMPLATES, *external_evaluation.__path__, *monitoring.__path__):
        pages = environment(Path(folder))
        for name in pages.list_templates(filter_func=lambda name: name.endswith((".html.j2", ".css.j2"))):
            pages.get_template(name)
    # Of this process, not of its children: the end of a command would take twice as long.
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        finalizer.atexit = False


def _received(caller: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Return the caller's request, one line of JSON, and its standard streams."""
    data, descriptors, _, _ = socket.recv_fds(caller, 1 << 16, 3)
    while not data.endswith(b"\n"):
        data += caller.recv(1 << 16)
    return json.loads(data), list(descriptors)


def _become(request: Mapping[str, Any], descriptors: list[int]) -> None:
    """Give this process the streams, folder, environment, threads and signals of the caller's request."""
    import cv2
    import torch

    os.setsid()
    forkserver._forkserver.ensure_running = lambda: None  # type: ignore[attr-defined]  # that server runs
    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)
    for descriptor in descriptors:
        os.close(descriptor)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    if threads := os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(threads))
        cv2.setNumThreads(int(threads))
    if action := os.environ.get("PYTHONWARNINGS"):
        warnings.simplefilter(action)  # type: ignore[arg-type]
    sys.stdin = open(0)  # noqa: SIM115 - it lives as long as the process
    sys.stdout = open(1, "w", buffering=1)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1)  # noqa: SIM115


def _report_ended(children: dict[int, socket.socket | None], selector: selectors.BaseSelector) -> None:
    for child in list(children):
        ended, status = os.waitpid(child, os.WNOHANG)
        if not ended:
            continue
        if caller := children.pop(child):
            selector.unregister(caller)
            with caller, suppress(ConnectionError):  # the caller was killed at the same time
                caller.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _run(arguments: list[str]) -> int:
    """Run a command and return its exit code."""
    try:
        if arguments[0] == "-u":  # each line is written when it is complete
            arguments = arguments[1:]
        if arguments[0] == "-W":
            warnings.simplefilter(arguments[1])  # type: ignore[arg-type]
            arguments = arguments[2:]
        if arguments[0] == "-m":
            sys.argv = arguments[1:]
            sys.modules.pop(sys.argv[0], None)
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    code = _run(main(sys.argv[1], int(sys.argv[2]))["arguments"])
    # All that an interpreter does at its end, except destroying every module, which takes longer than many commands.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
