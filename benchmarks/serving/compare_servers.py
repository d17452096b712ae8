"""The server against TorchServe and SageMaker's multi-model-server: same model, work, processes and threads.

Both peers run twice: with PyTorch (bfloat16), as intended, and with our OpenVINO export and engine, which leaves only
the servers to compare. The peers need Java 17, and an environment that contains them and this project:

    python -m venv peers
    peers/bin/pip install -e '.[inference]' torchserve==0.12.0 \
        multi-model-server==1.1.11 sagemaker-inference==1.10.1
    python -m benchmarks.serving.compare_servers peers [--rounds 10]

A JSON list on stdout. All five servers run throughout. They alternate within each round; an idle one computes nothing.
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.rows import Row, row
from benchmarks.serving.harness import ROOT, Client, film, free_port, memory, save_model, server, together
from mammopipe.inference.settings import EngineKind
from mammopipe.training.model.architecture import Precision

COMMAND = "python -m benchmarks.serving.compare_servers VENV"
CLIENTS, WORKERS, SPELL_SECONDS, PATIENCE_SECONDS = 8, 2, 4.0, 180.0
Place = tuple[int, str, int]
"""Port, path and process id of a server."""


@dataclass(frozen=True)
class Work:
    """The work that a peer is given."""

    model: Path
    engine: EngineKind
    precision: Precision


def variables(venv: Path, work: Work, folder: Path) -> dict[str, str]:
    """Return a peer's environment: one thread per worker, and the handlers of this checkout.

    Each peer needs its own temporary folder, since both store their process id there under the same name.
    """
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return {
        **os.environ,
        **threads,
        "PATH": f"{venv / 'bin'}:{os.environ['PATH']}",
        "BENCHMARK_MODEL": str(work.model),
        "BENCHMARK_ENGINE": str(work.engine),
        "BENCHMARK_PRECISION": str(work.precision),
        "PYTHONPATH": f"{ROOT}:{Path(__file__).parent}",
        "TS_DISABLE_TOKEN_AUTHORIZATION": "true",
        "TMPDIR": str(folder),
        "TEMP": str(folder),
    }


def low_port() -> int:
    """Return a free port that multi-model-server accepts: it refuses those above 32767."""
    for port in range(20_000, 32_768):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise SystemExit("no port between 20000 and 32767 is free")


def config(folder: Path, **values: object) -> Path:
    """Write a server's properties."""
    path = folder / "server.properties"
    path.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    return path


@contextmanager
def peer(command: list[str], folder: Path, environment: dict[str, str], port: int, path: str) -> Iterator[Place]:
    """Run a peer; yields once it has answered the image."""
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=out, start_new_session=True)
    try:
        until = time.monotonic() + PATIENCE_SECONDS
        while not _answers(port, path):
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"{command[0]} does not answer:\n{log.read_text()[-3000:]}")
            time.sleep(0.5)
        yield port, path, process.pid
    finally:
        # The command only starts the server and its workers, so the whole process group is stopped.
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def _answers(port: int, path: str) -> bool:
    try:
        with closing(Client(port, path)) as client:
            return client.ask(film())[0] == 200
    except OSError:
        return False


def torchserve(stack: ExitStack, venv: Path, folder: Path, work: Work) -> Place:
    """Start TorchServe."""
    folder.mkdir()
    environment, port = variables(venv, work, folder), free_port()
    # Replaces torch-model-archiver, which cannot be installed beside multi-model-server's own model-archiver.
    model_facts = {"modelName": "film", "modelVersion": "1.0", "handler": "peer_handlers.py:torchserve"}
    with zipfile.ZipFile(folder / "film.mar", "w") as archive:
        archive.write(Path(__file__).with_name("peer_handlers.py"), "peer_handlers.py")
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps({"runtime": "python", "model": model_facts}))
    properties = config(
        folder,
        inference_address=f"http://127.0.0.1:{port}",
        default_workers_per_model=WORKERS,
        management_address=f"http://127.0.0.1:{free_port()}",
        job_queue_size=100,
        metrics_address=f"http://127.0.0.1:{free_port()}",
        disable_system_metrics="true",
        grpc_inference_port=free_port(),
        grpc_management_port=free_port(),
    )
    command = [
        str(venv / "bin/torchserve"),
        "--start",
        "--foreground",
        "--ncs",
        "--disable-token-auth",
        "--model-store",
        str(folder),
        "--models",
        "film=film.mar",
        "--ts-config",
        str(properties),
    ]
    return stack.enter_context(peer(command, folder, environment, port, "/predictions/film"))


def multi_model_server(stack: ExitStack, venv: Path, folder: Path, work: Work) -> Place:
    """Start SageMaker's multi-model-server with the sagemaker-inference toolkit."""
    folder.mkdir()
    environment, port = variables(venv, work, folder), low_port()
    properties = config(
        folder,
        inference_address=f"http://127.0.0.1:{port}",
        default_workers_per_model=WORKERS,
        management_address=f"http://127.0.0.1:{port + 1}",
        job_queue_size=100,
        decode_input_request="false",
        load_models="ALL",
        default_service_handler="peer_handlers:mms",
    )
    command = [
        str(venv / "bin/multi-model-server"),
        "--start",
        "--foreground",
        "--mms-config",
        str(properties),
        "--model-store",
        "/",
        "--models",
        f"film={work.model}",
    ]
    return stack.enter_context(peer(command, folder, environment, port, "/predictions/film"))


def measure(places: dict[str, Place], rounds: int) -> dict[str, dict[str, float]]:
    """Return each server's p50 in ms for one client, requests a second for eight clients, and MiB of memory."""
    body = film()
    one: dict[str, list[float]] = {name: [] for name in places}
    many: dict[str, list[float]] = {name: [] for name in places}
    for _ in range(rounds):
        for name, (port, path, _) in places.items():
            with closing(Client(port, path)) as client:
                one[name] += [1000 * client.ask(body)[1] for _ in range(10)][1:]
            replies = together([port], CLIENTS, SPELL_SECONDS, body, path)
            assert all(status == 200 for status, _ in replies), name
            many[name].append(CLIENTS / statistics.mean(seconds for _, seconds in replies))
    return {
        name: {
            "p50_ms": statistics.median(one[name]),
            "per_second": statistics.median(many[name]),
            "mib": memory(place[2])[0],
        }
        for name, place in places.items()
    }


def compared(found: dict[str, dict[str, float]]) -> list[Row]:
    """Return the rows of the table."""

    def against(kind: str, key: str, choose: Callable[[Iterable[float]], float]) -> dict[str, Any]:
        peers = {name: each[key] for name, each in found.items() if name.endswith(kind)}
        return {"value": found["server"][key] / choose(peers.values()), "command": COMMAND, **peers}

    both = "TorchServe's and multi-model-server's"
    figures = []
    # Bars apply to the servers as shipped. With our engine, only the serving itself is compared.
    for kind, peers, latency, throughput, resident in (
        ("torch", both, 1.0, 1.3, 1.0),
        ("openvino", f"{both}, which borrow its engine", None, None, None),
    ):
        figures += [
            row(
                f"server, one client: p50, times the faster of {peers}",
                unit="x",
                bar=latency,
                better="lower",
                **against(kind, "p50_ms", min),
            ),
            row(
                f"server, 8 clients: throughput, times the faster of {peers}",
                unit="x",
                bar=throughput,
                better="higher",
                **against(kind, "per_second", max),
            ),
            row(
                f"server: memory, times the smaller of {peers}",
                unit="x",
                bar=resident,
                better="lower",
                **against(kind, "mib", min),
            ),
        ]
    return figures


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("venv", type=Path)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        base, venv = Path(name), options.venv.resolve()
        model = base / "model"
        if not save_model(model, export=True).startswith(EngineKind.OPENVINO):
            raise SystemExit("the model's export is not accurate on this machine, so the peers cannot use our engine")
        port, process, _ = stack.enter_context(server(base, MAMMOPIPE_WORKERS=str(WORKERS)))
        places = {"server": (port, "/invocations", process)}
        for engine, precision in ((EngineKind.TORCH, Precision.BFLOAT16), (EngineKind.OPENVINO, Precision.AUTO)):
            for start in (torchserve, multi_model_server):
                peer_name = f"{start.__name__}_{engine}"
                places[peer_name] = start(stack, venv, base / peer_name, Work(model, engine, precision))
        print(json.dumps(compared(measure(places, options.rounds)), indent=2))


if __name__ == "__main__":
    main()
