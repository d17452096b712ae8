"""Families of timm through the whole pipeline: `python -m benchmarks.studies.network_families [--networks ...]`.

Each network runs by `mammopipe run` on phantoms on this machine, trained for some epochs with lesion supervision, then
evaluated, exported, registered and deployed. Prints a Markdown table: macro AUC on validation, how the export agrees
with torch, the answer of the endpoint, and how many heatmaps of the served model have their peak inside a lesion of the
test images. The chance level is the mean share of the breast that the lesions cover.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np

from mammopipe.inference.engines.base import EngineSettings
from mammopipe.inference.prediction.heatmap import regions
from mammopipe.inference.prediction.predictor import Predictor
from mammopipe.pipelines.backends.step_status import Status
from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.runs.launch import start
from mammopipe.pipelines.runs.run import Run
from mammopipe.processing.datasets.manifest import ImageRecord, Label
from mammopipe.processing.datasets.registry import dataset_named
from mammopipe.processing.images.mammogram import read_mammogram
from mammopipe.processing.phantoms.trees import write_phantoms
from mammopipe.training.model.archive import unpack

FAMILIES = (
    "convnext_atto",
    "densenet121",
    "efficientnet_b0",
    "mobilenetv3_small_050",
    "regnetx_002",
    "resnet50.a1_in1k",
    "swin_tiny_patch4_window7_224",
)


@dataclass(frozen=True)
class Pointed:
    """The heatmaps of the test images that show a lesion."""

    images: int
    hits: int
    """Heatmaps of the true class with their peak inside a lesion."""
    chance: float


def main(arguments: Sequence[str]) -> int:
    """Print the table; return the number of networks that failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.network_families", description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(FAMILIES), metavar="NAME")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--images", type=int, default=120, help="phantoms")
    parser.add_argument("--height", type=int, default=192)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--pooling", default="top")
    options = parser.parse_args(arguments)
    print(
        "| network | epochs | macro AUC of validation | engine | largest difference from torch | endpoint answered "
        "| peaks inside a lesion (test) | chance |\n|---|---|---|---|---|---|---|---|"
    )
    with TemporaryDirectory() as name:
        write_phantoms("mias", Path(name, "films"), options.images)
        failed = [network for network in options.networks if not run(network, Path(name), options)]
    return len(failed)


def run(network: str, folder: Path, options: argparse.Namespace) -> bool:
    """Run one network and print its row; return whether all steps succeeded."""
    config = PipelineConfig.load(
        cnns=(network,),
        augmentation={"copies": 0},
        segmentation={"height": options.height, "width": options.width},
        training={
            "epochs": options.epochs, "head_epochs": 0, "warmup_epochs": 0, "learning_rate": 0.001, "batch_size": 8,
            "pooling": options.pooling, "location_weight": 1.0, "dropout": 0.0, "patience": options.epochs,
        },
        evaluation={"min_macro_auc": 0.0, "bootstrap": 100},
    )  # fmt: skip
    with redirect_stdout(sys.stderr):
        done = start(config, source=str(folder / "films"), runs=folder / "runs", show=lambda logs: nullcontext(_SILENT))
    if done.status is not Status.SUCCEEDED:
        print(f"| {network} | {done.status}: {done.reason} |", flush=True)
        return False
    evaluation, pointed = done.document("evaluation.json"), point(done, folder / "films")
    export, auc = evaluation["export"], evaluation["candidates"][network]["validation"]["macro_auc"]
    interval = "" if auc["low"] is None else f" ({auc['low']:.2f}-{auc['high']:.2f})"
    print(
        f"| {network} | {options.epochs} | {auc['value']:.2f}{interval} "
        f"| {export['engine'] if export['shipped'] else 'torch'} {export['precision']} "
        f"| {export['largest_difference']:.2g} | {'yes' if done.document('invocation.json') else 'no'} "
        f"| {pointed.hits} of {pointed.images} | {pointed.chance:.2f} |",
        flush=True,
    )
    return True


_SILENT = SimpleNamespace(changed=lambda records: None)


def point(done: Run, films: Path) -> Pointed:
    """Play the pointing game with the packed model, as the endpoint answers, on the run's test images."""
    manifest = done.manifest()
    tested = set(manifest.image_id[manifest.split == "test"])
    named = dataset_named("mias").read(films).records
    records = [record for record in named if record.image_id in tested and record.lesions]
    with TemporaryDirectory() as name:
        unpack(_folder(done) / "model.tar.gz", Path(name))
        predictor = Predictor(Path(name), engine=EngineSettings(threads=1))
        found = [_hit(predictor, films / f"{record.image_id}.pgm", record) for record in records]
    return Pointed(len(found), sum(hit for hit, _ in found), float(np.mean([chance for _, chance in found] or [0.0])))


def _folder(done: Run) -> Path:
    assert done.folder is not None
    return done.folder


def _hit(predictor: Predictor, path: Path, record: ImageRecord) -> tuple[bool, float]:
    mammogram = read_mammogram(path, record=record)
    heat = predictor.explain(predictor.predict(mammogram), mammogram, Label(record.label)).heat
    breast = mammogram.pixels > 0
    rows, columns = np.ogrid[: heat.shape[0], : heat.shape[1]]
    inside: Any = np.zeros(heat.shape, bool)
    for lesion in record.lesions:
        inside |= np.hypot(rows - lesion.y, columns - lesion.x) <= lesion.radius
    peaks = regions(heat)
    return bool(peaks and inside[peaks[0].peak_y, peaks[0].peak_x]), float((inside & breast).sum() / breast.sum())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
