"""The time of the deployed forward pass against eager torch in bfloat16, and the extra time of a heatmap.

Run `python -m benchmarks.serving.bench_engine [--repeats 30] [--threads 2] [--only resnet50]`: a JSON list on stdout.
Members of a ratio alternate image by image, so that a busy machine slows all of them equally. Weights are random, which
does not affect time. Probabilities are compared on phantoms, at the temperature that gives the logits the spread of a
trained network, 2.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mammopipe.inference.engines.base import EngineKind, EngineSettings
from mammopipe.inference.engines.factory import open_engine
from mammopipe.processing.breast.preprocess import PreprocessConfig, preprocess
from mammopipe.processing.classes import THREE
from mammopipe.processing.datasets.manifest import Label, Laterality, View
from mammopipe.processing.images.mammogram import Mammogram
from mammopipe.processing.phantoms.mias_tree import make_film
from mammopipe.training.networks import model_directory
from mammopipe.training.networks.grad_cam import grad_cam
from mammopipe.training.networks.model_directory import LoadedModel
from mammopipe.training.networks.openvino_export import export_network
from mammopipe.training.networks.registry import build_model

COMMAND = "python -m benchmarks.serving.bench_engine"
MEMBERS = (("resnet50", 224, 224), ("resnet50", 384, 256), ("alexnet", 224, 224), ("modified_cnn", 224, 224))
BARS = {("resnet50", 224): 1.7}
FASTER, PROBABILITY_BAR, HEATMAP_BAR = "faster than eager bfloat16", 1e-2, 1.0
IMAGES, SPREAD = 16, 2.0
Images = list[NDArray[np.float32]]
Member = Callable[[NDArray[np.float32]], object]


def phantoms(config: PreprocessConfig) -> Images:
    made = (
        make_film(seed, label=list(Label)[seed % 3], laterality=Laterality.LEFT, height=512, width=400)
        for seed in range(IMAGES)
    )
    return [preprocess(Mammogram(film.pixels, Laterality.LEFT, View.MLO), config).image for film in made]


def export(folder: Path, cnn: str, config: PreprocessConfig, films: Images) -> tuple[LoadedModel, NDArray[np.float64]]:
    """Write an exported model and return it with torch's float32 logits of the images."""
    network = build_model(cnn, classes=3, seed=1).eval()
    with torch.inference_mode():
        logits = network(torch.from_numpy(np.stack(films))[:, None]).double().numpy()
    temperature = float((logits.max(axis=1) - logits.min(axis=1)).mean() / SPREAD)
    model_directory.save(
        folder,
        network,
        {
            "architecture": cnn,
            "classes": list(map(str, THREE)),
            "preprocess": config.to_json(),
            "input": {"height": config.height, "width": config.width},
            "initialisation": "scratch",
            "pretrained_weights": None,
            "calibration": {"temperature": temperature},
            "operating_points": {},
            "training": {},
            "metrics": {},
            "versions": {},
        },
    )
    model = model_directory.load(folder)
    done = export_network(model, folder, model.description, lambda places: (films[at] for at in places), logits)
    if not done.shipped:
        raise SystemExit(f"{cnn}: {done.reason}")
    model_directory.write_description(folder, {**model.description, "engines": done.described(folder)})
    return model, logits


def eager(model: LoadedModel) -> Member:
    network = model.network.to(memory_format=torch.channels_last)

    def run(film: NDArray[np.float32]) -> object:
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            return network(torch.from_numpy(film)[None, None]).float().numpy()

    return run


def medians(members: dict[str, Member], films: Images, repeats: int) -> dict[str, float]:
    """Return each member's median seconds per image; they alternate, after three unmeasured rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in members}
    for turn in range(repeats + 3):
        for name, member in members.items():
            started = time.perf_counter()
            member(films[turn % len(films)])
            if turn >= 3:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(each) for name, each in seconds.items()}


def measure(cnn: str, height: int, width: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the rows of one network at one size."""
    config = PreprocessConfig(height=height, width=width)
    films, title = phantoms(config), f"{cnn} {height} x {width}, {options.threads} threads"
    with tempfile.TemporaryDirectory() as name:
        model, logits = export(Path(name), cnn, config, films)
        description = model_directory.read_description(Path(name))
        engine = open_engine(Path(name), description, EngineSettings(EngineKind.OPENVINO, options.threads))
        torch.set_num_threads(options.threads)
        held = [engine.run(film) for film in films]
        places = {id(film): at for at, film in enumerate(films)}
        seconds = medians(
            {
                "deployed": engine.run,
                "eager_bf16": eager(model),
                "heatmap": lambda film: engine.activation_map(film, held[places[id(film)]], 2),
                "grad_cam": lambda film: grad_cam(model.network, torch.from_numpy(film)[None, None], 2),
            },
            films,
            options.repeats,
        )
    shares = model.calibration.probabilities(np.array([forward.logits for forward in held]))
    difference = float(np.abs(shares - model.calibration.probabilities(logits)).max())
    peers = {f"{member}_ms": round(1000 * value, 3) for member, value in seconds.items()}
    heatmap_bar = HEATMAP_BAR if cnn != "alexnet" else None
    return [
        row(
            f"forward, times {FASTER}, {title}",
            seconds["eager_bf16"] / seconds["deployed"],
            "x",
            BARS.get((cnn, height)),
            "higher",
            peers,
        ),
        row(f"largest difference of a probability from float32, {title}", difference, "", PROBABILITY_BAR, "lower", {}),
        row(
            f"heatmap, times the forward it is added to, {title}",
            seconds["heatmap"] / seconds["deployed"],
            "x",
            heatmap_bar,
            "lower",
            {},
        ),
    ]


def row(name: str, value: float, unit: str, bar: float | None, better: str, peers: dict[str, float]) -> dict[str, Any]:
    return {
        "name": name,
        "value": round(value, 5),
        "unit": unit,
        "bar": bar,
        "better": better,
        "peers": peers,
        "command": COMMAND,
    }


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=sorted({cnn for cnn, _, _ in MEMBERS}), help="one network")
    options = parser.parse_args()
    chosen = [member for member in MEMBERS if options.only in (None, member[0])]
    print(json.dumps([found for member in chosen for found in measure(*member, options)], indent=1))


if __name__ == "__main__":
    main()
