"""Shared code of the server benchmarks: a model, the server and a plain loop as processes, clients, memory."""

import http.client
import os
import re
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from mammopipe.processing.breast.preprocess import PreprocessConfig, preprocess
from mammopipe.processing.classes import THREE
from mammopipe.processing.datasets.manifest import Label, Laterality
from mammopipe.processing.images.mammogram import read_mammogram
from mammopipe.processing.phantoms.mias_tree import make_film
from mammopipe.training.model.operating_points import DecisionThreshold, Rate
from mammopipe.training.networks import model_directory
from mammopipe.training.networks.openvino_export import export_network
from mammopipe.training.networks.registry import build_model

ROOT = Path(__file__).parents[2]
PGM = "image/x-portable-graymap"
SIDE = 224
SECONDS = 120
"""Seconds that a client waits for an answer."""
ANSWER_BYTES = 2**20
"""Largest answer that a client receives, with its headers."""
TEMPERATURE = 50.0
"""Temperature for random weights, whose logits are too far apart to give useful probabilities without it."""


def film(seed: int = 4) -> bytes:
    """Return a phantom as an 8-bit PGM of 1024 x 1024."""
    made = make_film(seed, label=Label.MALIGNANT, laterality=Laterality.LEFT, height=1024, width=1024)
    return b"P5 1024 1024 255\n" + (made.pixels >> 8).astype(np.uint8).tobytes()


def save_model(directory: Path, *, export: bool) -> str:
    """Write a ResNet-50 with random weights, exported if requested and the export is accurate; returns the engine."""
    config = PreprocessConfig(height=SIDE, width=SIDE)
    rate = Rate(0.5, 0.4, 0.6)
    points = {
        name: DecisionThreshold(level, 0.9, rate, rate, rate, rate, cases=200, malignant=20, patients=100).as_dict()
        for name, level in (("sensitivity", 0.001), ("specificity", 0.999))
    }
    description = {
        "architecture": "resnet50",
        "classes": list(THREE),
        "input": {"height": SIDE, "width": SIDE},
        "preprocess": config.to_json(),
        "initialisation": "scratch",
        "pretrained_weights": None,
        "calibration": {"temperature": TEMPERATURE, "fitted_on": "validation"},
        "operating_points": points,
        "training": {},
        "metrics": {},
        "versions": {},
    }
    model_directory.save(directory, build_model("resnet50", classes=list(THREE), seed=1), description)
    if not export:
        return "torch"
    model = model_directory.load(directory)
    images = [preprocess(read_mammogram(film(seed)), config).image for seed in range(4)]
    with torch.inference_mode():
        logits = model.predict_logits(torch.from_numpy(np.stack(images)[:, None])).numpy().astype(np.float64)
    outcome = export_network(model, directory, description, lambda rows: (images[row] for row in rows), logits)
    print(outcome.reason, file=sys.stderr)
    if not outcome.shipped:
        return "torch"
    model_directory.write_description(directory, {**model.description, "engines": outcome.described(directory)})
    return f"openvino {outcome.precision}"


class Client:
    """One persistent connection over a plain socket, with as little work as possible.

    The client shares the processors with the server, so its own work is part of every measurement. A request is built
    once and sent by one call, and its answer is received into one buffer.
    """

    def __init__(self, port: int, path: str = "/invocations") -> None:
        """Connect to a port of this machine."""
        self._port, self._path = port, path
        self._connection = _connected(port)
        self._memory = memoryview(bytearray(ANSWER_BYTES))
        self._received = 0

    @property
    def answer(self) -> bytes:
        """The last answer: status line, headers and body."""
        return bytes(self._memory[: self._received])

    def ask(self, body: bytes, query: str = "") -> tuple[int, float]:
        """Return the status and the seconds of a request; reconnect if the server announces that it closes.

        Raises:
            ConnectionError: The server closed the connection before the end of the answer.
            ValueError: The answer has no Content-Length, or its size differs from it.
        """
        request = _request(self._path + query, body)
        begun = time.perf_counter()
        self._connection.sendall(request)
        self._received, size = 0, None
        while size is None or self._received < size:
            count = self._connection.recv_into(self._memory[self._received :])
            if not count:
                raise ConnectionError("the server closed the connection before the end of its answer")
            self._received += count
            size = size or _size(self.answer)
        seconds, answer = time.perf_counter() - begun, self.answer
        if len(answer) != size:
            raise ValueError(f"an answer of {size} bytes has {len(answer)}")
        if b"\r\nconnection: close\r\n" in answer:
            self.close()
            self._connection = _connected(self._port)
        return int(answer[9:12]), seconds

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _connected(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    # A socket with a Python timeout would not block, and sending would take one call for each piece of the body.
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        connection.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", SECONDS, 0))
    return connection


@lru_cache(maxsize=16)
def _request(path: str, body: bytes) -> bytes:
    """Return a request as it is sent. Python keeps the hash of `body`, so that finding it again costs nothing."""
    lines = (
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Content-Type: {PGM}",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join((*lines, "", "")).encode() + body


def _size(answer: bytes) -> int | None:
    """Return the size of an answer with its headers; `None` while they are incomplete."""
    head, end, _ = answer.partition(b"\r\n\r\n")
    if not end:
        return None
    found = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    if found is None:
        raise ValueError(f"an answer without Content-Length: {head!r}")
    return len(head) + len(end) + int(found[1])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def pinged(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with suppress(OSError):
        connection.request("GET", "/ping")
        return connection.getresponse().status == 200
    return False


@contextmanager
def server(base: Path, log: Path | None = None, **environment: str) -> Iterator[tuple[int, int, float]]:
    """Run the server on `base`/model; yields its port, its process id and the seconds until /ping answered 200.

    Its log goes to the file `log`, which may be a device such as /dev/full; `None` discards it.
    """
    port, begun = free_port(), time.perf_counter()
    variables = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "MAMMOPIPE_BASE": str(base),
        "SAGEMAKER_BIND_TO_PORT": str(port),
        **environment,
    }
    with (log or Path(os.devnull)).open("wb") as written:
        command = [sys.executable, "-m", "mammopipe.inference.server"]
        process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=written)
    try:
        while not pinged(port):
            if process.poll() is not None:
                raise SystemExit("the server ended")
            time.sleep(0.02)
        yield port, process.pid, time.perf_counter() - begun
    finally:
        process.terminate()
        process.wait(60)


@dataclass
class Loop:
    """A process that predicts images in a plain loop of `Predictor`, on one thread."""

    process: "subprocess.Popen[str]"

    def run(self, work: str, count: int) -> list[float]:
        """Return the seconds of each of `count` repetitions of `work`."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{work} {count}\n")
        self.process.stdin.flush()
        return [float(each) for each in self.process.stdout.readline().split()]


@contextmanager
def loop(model: Path) -> Iterator[Loop]:
    """Run a plain loop on a model directory."""
    with _one_thread("plain_loop", model) as process:
        yield Loop(process)


@contextmanager
def ideal_server(model: Path) -> Iterator[int]:
    """Run an ideal server on a model directory; yields its port."""
    with _one_thread("ideal_server", model) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())


@contextmanager
def _one_thread(module: str, model: Path) -> Iterator["subprocess.Popen[str]"]:
    """Run a module of this folder on a model directory, with one thread."""
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-m", f"benchmarks.serving.{module}", str(model)],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **threads},
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def together(
    ports: Sequence[int],
    clients: int,
    seconds: float,
    body: bytes,
    path: str = "/invocations",
) -> list[tuple[int, float]]:
    """Return the status and seconds of every request from several clients that send continuously.

    The clients are divided among the ports.
    """
    until = time.perf_counter() + seconds

    def one(number: int) -> list[tuple[int, float]]:
        replies = []
        with closing(Client(ports[number % len(ports)], path)) as client:
            while time.perf_counter() < until:
                replies.append(client.ask(body))
        return replies

    with ThreadPoolExecutor(clients) as pool:
        return [reply for replies in pool.map(one, range(clients)) for reply in replies]


def descendants(process: int) -> list[int]:
    """Return a process and all its descendants."""
    found = [process]
    for one in found:
        with suppress(FileNotFoundError):
            for task in Path(f"/proc/{one}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def memory(process: int) -> tuple[float, float]:
    """Return the memory of a process tree in MiB, with shared pages counted once, and counted in every process.

    The first value sums the proportional set sizes (Pss of proc(5)), the second the resident set sizes (Rss).
    """
    sizes = [_sizes(one) for one in descendants(process)]
    return sum(each["Pss"] for each in sizes), sum(each["Rss"] for each in sizes)


def memory_by_role(process: int) -> dict[str, float]:
    """Return the memory in MiB (Pss) of the server's process, its fork server and its workers together."""
    server, *others = (_sizes(one)["Pss"] for one in descendants(process))
    return {"server": server, "fork_server": sum(others[:1]), "workers": sum(others[1:])}


def _sizes(process: int) -> dict[str, float]:
    """Return Pss and Rss in MiB; 0 if the process has ended."""
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return {"Pss": 0.0, "Rss": 0.0}
    return {name: int(re.findall(rf"^{name}:\s+(\d+)", text, re.MULTILINE)[0]) / 1024 for name in ("Pss", "Rss")}


def slope(places: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Return the slope of a straight line through the values, and its standard error."""
    x, y = np.asarray(places, np.float64), np.asarray(values, np.float64)
    x = x - x.mean()
    rise = float((x * y).sum() / (x * x).sum())
    rest = y - y.mean() - rise * x
    return rise, float(np.sqrt((rest @ rest) / max(1, len(x) - 2) / (x @ x)))
