"""The engines answer as the float32 network near thresholds; altered and missing files are refused."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mammopipe.inference.engines.base import EngineKind, EngineSettings
from mammopipe.inference.engines.factory import open_engine
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import write_json
from mammopipe.training.model.architecture import Precision
from mammopipe.training.model.near_threshold import TOLERANCE
from mammopipe.training.networks import model_directory
from mammopipe.training.networks.grad_cam import grad_cam
from mammopipe.training.networks.openvino_export import export_network
from mammopipe.training.networks.registry import build_model
from tests.support.points import image_point

ROOT = Path(__file__).parents[3]
SHAPE = (96, 64)
FILMS = np.random.default_rng(5).random((6, *SHAPE), np.float32)


def save(directory: Path, base: Path, name: str) -> None:
    """Save and export a network whose scores of the images differ, with both thresholds between them."""
    network = build_model(name, classes=3, seed=1).eval()
    description = model_directory.read_description(base / "model") | {"architecture": name}
    with torch.no_grad():
        network(torch.from_numpy(FILMS)[:, None])
        list(network.head.modules())[-1].weight.mul_(60)  # type: ignore[operator, union-attr]
    model_directory.save(directory, network, description)
    model = model_directory.load(directory)
    logits = model.predict_logits(torch.from_numpy(FILMS)[:, None]).double().numpy()
    done = export_network(model, directory, model.description, lambda places: (FILMS[at] for at in places), logits)
    assert done.shipped, done.reason
    model_directory.write_description(directory, {**model.description, "engines": done.described(directory)})


@pytest.fixture(scope="module")
def small(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    save(folder, base, "modified_cnn")
    return folder


@pytest.fixture
def altered(small: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that copies the exported model with changes to its `model.json`."""

    def change(**changes: Any) -> Path:
        folder = tmp_path / "altered"
        shutil.copytree(small, folder)
        write_json(folder / "model.json", model_directory.read_description(small) | changes)
        return folder

    return change


def opened(folder: Path, kind: EngineKind = EngineKind.AUTO, precision: Precision = Precision.AUTO) -> Any:
    return open_engine(folder, model_directory.read_description(folder), EngineSettings(kind, 1, precision))


def score(folder: Path, logits: np.ndarray) -> float:
    return float(model_directory.load(folder).calibration.probabilities(logits[None])[0, 2])


def test_the_exported_network_is_taken_where_there_is_one(small: Path, base: Path) -> None:
    assert opened(small).name == "openvino" and opened(small, EngineKind.TORCH).name == "torch"
    assert opened(base / "model").name == "torch"
    with pytest.raises(ConfigError, match="engines.openvino is missing"):
        opened(base / "model", EngineKind.OPENVINO)


@pytest.mark.parametrize("kind", [EngineKind.OPENVINO, EngineKind.TORCH])
@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.AUTO])
def test_answers_are_those_of_the_network(small: Path, kind: EngineKind, precision: Precision) -> None:
    engine, model = opened(small, kind, precision), model_directory.load(small)
    for image in FILMS:
        expected = model.predict_logits(torch.from_numpy(image)[None, None])[0].double().numpy()
        forward = engine.run(image)
        assert forward.logits.dtype == np.float64 and forward.maps.dtype == np.float32
        assert forward.maps.shape == (256, 6, 4) and forward.features.shape == (256,)
        np.testing.assert_allclose(engine.run(image, exact=True).logits, expected, rtol=1e-4, atol=1e-4)
        assert abs(score(small, forward.logits) - score(small, expected)) <= TOLERANCE


@pytest.mark.parametrize("kind", [EngineKind.OPENVINO, EngineKind.TORCH])
def test_maps_are_grad_cam(small: Path, kind: EngineKind) -> None:
    engine, network = opened(small, kind), model_directory.load(small).network
    for image in FILMS[:2]:
        forward = engine.run(image, exact=True)
        for index in range(3):
            expected = grad_cam(network, torch.from_numpy(image)[None, None], index)
            np.testing.assert_allclose(engine.activation_map(image, forward, index), expected, atol=1e-3)


def test_a_close_call_is_computed_in_float32(altered: Callable[..., Path], small: Path) -> None:
    torch_engine = opened(small, EngineKind.TORCH, Precision.BFLOAT16)
    fast, exact = torch_engine.run(FILMS[0]).logits, torch_engine.run(FILMS[0], exact=True).logits
    assert (fast != exact).any()
    at = image_point(score(small, fast) + 0.9 * TOLERANCE)
    near = opened(altered(operating_points={"sensitivity": at}), EngineKind.TORCH, Precision.BFLOAT16)
    assert near.margin == TOLERANCE
    np.testing.assert_array_equal(near.run(FILMS[0]).logits, exact)


def test_openvino_decides_a_close_call_in_float32(altered: Callable[..., Path], small: Path) -> None:
    engine = opened(small)
    if engine.precision == Precision.FLOAT32:
        pytest.skip("this processor has no bfloat16: every call is in float32")
    exact = engine.run(FILMS[0], exact=True).logits
    assert (engine.run(FILMS[0]).logits != exact).any() and 0 < engine.margin <= 2 * TOLERANCE
    at = image_point(score(small, exact))
    near = opened(altered(operating_points={"sensitivity": at}))
    np.testing.assert_array_equal(near.run(FILMS[0]).logits, exact)
    np.testing.assert_array_equal(near.run(FILMS[1]).logits, engine.run(FILMS[1]).logits)


@pytest.mark.parametrize("name", ["network.xml", "network.bin", "head.safetensors"])
def test_an_altered_or_missing_file_is_refused(altered: Callable[..., Path], name: str) -> None:
    folder = altered()
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ConfigError, match=f"{name}: its SHA-256 is not the one that engines.openvino states"):
        opened(folder)
    (folder / name).unlink()
    with pytest.raises(ConfigError, match=f"{name}: is missing"):
        opened(folder)


def test_a_format_that_was_not_checked_is_not_used(altered: Callable[..., Path], small: Path) -> None:
    stated = model_directory.read_description(small)["engines"]["openvino"] | {"precision": "float32"}
    folder = altered(engines={"openvino": stated})
    assert opened(folder).precision == "float32" and opened(folder).margin == 0
    with pytest.raises(ConfigError, match="checked in float32"):
        opened(folder, precision=Precision.BFLOAT16)


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"threads": 0}, "threads=0 must be at least 1"),
        ({"kind": EngineKind.OPENVINO, "precision": Precision.FLOAT16}, "needs a GPU"),
    ],
)
def test_settings_that_contradict_are_refused(settings: dict[str, Any], rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        EngineSettings(**settings)


QUIET = """
import socket, sys
from pathlib import Path
def refuse(*arguments):
    raise SystemExit(f"a connection was tried: {arguments[1:]}")
socket.socket.connect = socket.socket.connect_ex = refuse
import socket as module
module.getaddrinfo = refuse
import numpy as np
from mammopipe.inference.engines.base import EngineKind, EngineSettings
from mammopipe.inference.engines.factory import open_engine
from mammopipe.training.model.description import read_description
folder = Path(sys.argv[1])
engine = open_engine(folder, read_description(folder), EngineSettings(EngineKind.OPENVINO))
film = np.ones((96, 64), np.float32)
engine.activation_map(film, engine.run(film), 0)
import threading
print([name for name in ("torch", "openvino_telemetry") if sys.modules.get(name)], threading.active_count())
"""


def test_openvino_loads_no_torch_and_calls_nobody(small: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", QUIET, str(small)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.strip() == "[] 1"
    assert list(tmp_path.iterdir()) == [], "neither a consent file nor a cache"
    assert not list(small.glob("*.blob"))


def test_only_one_module_imports_openvino() -> None:
    places = [
        path
        for folder in ("processing", "training", "inference", "pipelines")
        for path in (ROOT / folder).rglob("*.py")
        if "import openvino\n" in path.read_text(encoding="utf-8")
    ]
    assert [path.name for path in places] == ["openvino_runtime.py"]


def test_a_network_with_a_classifier_of_several_layers_gets_its_maps_without_torch(base: Path, tmp_path: Path) -> None:
    save(tmp_path, base, "alexnet")
    assert json.loads((tmp_path / "model.json").read_text())["engines"]["openvino"]["activation_map"] is None
    engine, network = opened(tmp_path), model_directory.load(tmp_path).network
    assert engine.name == "openvino"
    expected = grad_cam(network, torch.from_numpy(FILMS[0])[None, None], 1)
    np.testing.assert_allclose(engine.activation_map(FILMS[0], engine.run(FILMS[0]), 1), expected, atol=1e-3)
    done = subprocess.run(
        [sys.executable, "-c", QUIET, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "", "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.strip() == "[] 1"
