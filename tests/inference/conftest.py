"""A small model with random weights, a phantom in every image format, and the real server as a process."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mammopipe.processing.breast.preprocess import PreprocessConfig
from mammopipe.processing.classes import THREE
from mammopipe.processing.datasets.manifest import Label, Laterality
from mammopipe.processing.phantoms.mias_tree import make_film
from mammopipe.training.networks import model_directory
from mammopipe.training.networks.openvino_export import export_network
from mammopipe.training.networks.registry import build_model
from tests.support.points import image_point

REPOSITORY = Path(__file__).parents[2]
POINTS = {
    "sensitivity": image_point(1e-9, 0.92, 0.4),
    "specificity": image_point(1 - 1e-9, 0.3, 0.91),
}
PGM, PNG = "image/x-portable-graymap", "image/png"


def save_model(directory: Path, classes: Sequence[str] = THREE) -> None:
    config = PreprocessConfig(height=96, width=64)
    model_directory.save(
        directory,
        build_model("modified_cnn", classes=list(classes), seed=1),
        {
            "architecture": "modified_cnn",
            "classes": list(classes),
            "input": {"height": 96, "width": 64},
            "preprocess": config.to_json(),
            "initialisation": "scratch",
            "pretrained_weights": None,
            "calibration": {"temperature": 1.5, "fitted_on": "validation"},
            "operating_points": POINTS,
            "training": {},
            "metrics": {},
            "versions": {},
        },
    )


@dataclass
class PhantomBodies:
    """One phantom of a film as PGM and as PNG."""

    pixels: NDArray[np.uint16]
    pgm: bytes = field(init=False)
    png: bytes = field(init=False)

    def __post_init__(self) -> None:
        eight_bit = (self.pixels >> 8).astype(np.uint8)
        rows, columns = eight_bit.shape
        self.pgm = b"P5\n# PatientName=DOE^JANE\n%d %d\n255\n" % (columns, rows) + eight_bit.tobytes()
        self.png = cv2.imencode(".png", eight_bit)[1].tobytes()


@dataclass
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["error"]["code"])


@dataclass
class Server:
    process: "subprocess.Popen[bytes]"
    port: int
    stdout: Path
    stderr: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stdout.read_text().splitlines()]

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            received = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, received, response.read())
        finally:
            connection.close()

    def invoke(self, body: bytes, content_type: str = PGM, path: str = "/invocations", **headers: str) -> Reply:
        return self.request("POST", path, body, Content_Type=content_type, **headers)

    def ping(self) -> int:
        return self.request("GET", "/ping").status

    def workers(self) -> list[int]:
        """Return the process ids of the workers that live and are ready."""
        lines = self.lines()
        ended = {line["worker"] for line in lines if line["event"] == "worker_ended"}
        return [line["worker"] for line in lines if line["event"] == "worker_ready" and line["worker"] not in ended]

    @contextmanager
    def unfinished(self, body: bytes) -> Iterator[Callable[..., Reply]]:
        """Send a request without its last byte, which takes a place in the server; yield a function that ends it."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            head = f"Host: x\r\nContent-Type: {PGM}\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(b"POST /invocations HTTP/1.1\r\n" + head.encode() + body[:-1])

            def finish(*, early: bool = False) -> Reply:
                """Return the answer: to the whole body, or with `early` to the incomplete one."""
                connection.sendall(b"" if early else body[-1:])
                response = http.client.HTTPResponse(connection)
                response.begin()
                return Reply(response.status, dict(response.getheaders()), response.read())

            yield finish

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def poll(condition: Callable[[], Any], seconds: float = 120) -> Any:
    """Call `condition` until its value is true, and return the value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"the condition is not true after {seconds:g} seconds"
        time.sleep(0.01)
    return value


def start(base: Path, logs: Path, **environment: str) -> Server:
    """Start the server, with one worker unless the environment sets another number; return once it listens."""
    stdout, stderr = logs / "stdout", logs / "stderr"
    with stdout.open("wb") as out, stderr.open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "mammopipe.inference.server"],
            cwd=REPOSITORY,
            stdout=out,
            stderr=err,
            env={
                **os.environ,
                "MAMMOPIPE_BASE": str(base),
                "SAGEMAKER_BIND_TO_PORT": "0",
                "MAMMOPIPE_WORKERS": "1",
                **environment,
            },
        )
    poll(lambda: stdout.read_text().endswith("\n") or process.poll() is not None)
    assert process.poll() is None, stderr.read_text()
    return Server(process, json.loads(stdout.read_text().splitlines()[0])["port"], stdout, stderr)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    save_model(folder / "model")
    return folder


@pytest.fixture(scope="session")
def exported(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with its OpenVINO files, as Evaluate writes it; a server of it starts without torch."""
    folder = tmp_path_factory.mktemp("exported")
    directory = folder / "model"
    shutil.copytree(base / "model", directory)
    model = model_directory.load(directory)
    images = np.random.default_rng(5).random((2, *model.input_shape), np.float32)
    logits = model.predict_logits(torch.from_numpy(images)[:, None]).double().numpy()
    done = export_network(model, directory, model.description, lambda places: (images[at] for at in places), logits)
    assert done.shipped, done.reason
    model_directory.write_description(directory, {**model.description, "engines": done.described(directory)})
    return folder


@pytest.fixture(scope="session")
def phantom() -> PhantomBodies:
    image = make_film(4, label=Label.MALIGNANT, laterality=Laterality.RIGHT, height=400, width=320)
    return PhantomBodies(image.pixels)


@pytest.fixture(scope="session")
def server(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server that most tests share; its limits are low, so that tests can exceed them."""
    limits = {
        "MAMMOPIPE_WORKERS": "2",
        "MAMMOPIPE_METRICS": "true",
        "MAMMOPIPE_MODEL_ID": "package/7",
        "MAMMOPIPE_MAX_BYTES": "2000000",
        "MAMMOPIPE_MAX_PIXELS": "1000000",
    }
    server = start(exported, tmp_path_factory.mktemp("logs"), **limits)
    poll(lambda: server.ping() == 200)
    yield server
    server.process.kill()
    server.process.wait()


@pytest.fixture(scope="session")
def narrow_server(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with room for one request, which may take at most three seconds."""
    limits = {
        "MAMMOPIPE_WORKERS": "1",
        "MAMMOPIPE_MAX_WAITING": "1",
        "MAMMOPIPE_MAX_SECONDS": "3",
        "MAMMOPIPE_BODY_SECONDS": "600",
    }
    server = start(exported, tmp_path_factory.mktemp("logs"), **limits)
    poll(lambda: server.ping() == 200)
    yield server
    server.process.kill()
    server.process.wait()


@pytest.fixture
def own_server(exported: Path, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Return a function that starts a server for one test, with settings of its own."""
    started: list[Server] = []

    def run(*, ready: bool = True, **environment: str) -> Server:
        started.append(start(exported, tmp_path, **environment))
        if ready:
            poll(lambda: started[-1].ping() == 200)
        return started[-1]

    yield run
    for one in started:
        one.process.kill()
        one.process.wait()


@pytest.fixture(scope="session")
def wait_for() -> Callable[[Callable[[], Any]], Any]:
    return poll
