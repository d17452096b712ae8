"""The memory and disk that a job needs, and workers that the machine kills."""

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mammopipe.processing.datasets.manifest import read_manifest
from mammopipe.processing.phantoms.mias_tree import write_mias_tree, write_rsna_tree

ROOT = Path(__file__).parents[3]
J2K = "1.2.840.10008.1.2.4.90"
SIDE = 7000
"""Rows and columns of the image whose decoding needs more memory than a worker of small images ever has."""
FEW, MANY = 12, 48
PER_IMAGE_MIB = 2.0
"""An image of these phantoms as the jobs hold it: 1024 x 1024 pixels of 16 bits."""


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("phantoms")
    for images in (FEW, MANY):
        write_mias_tree(folder / str(images), films=images)
    return {images: folder / str(images) for images in (FEW, MANY)}


def start(job: str, base: Path, inputs: dict[str, Path], *arguments: str) -> "subprocess.Popen[bytes]":
    """Start a container job as a process of its own on the folders of a container."""
    (base / "processing" / "input").mkdir(parents=True)
    for name, folder in inputs.items():
        (base / "processing" / "input" / name).symlink_to(folder)
    environment = {"MAMMOPIPE_BASE": str(base), "PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-m", f"mammopipe.processing.jobs.{job}", *arguments]
    with (base / "log").open("wb") as log:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=log)


def children(pid: int) -> list[int]:
    """Return the ids of a job's workers: the children of its fork server, without the resource tracker."""

    def below(parent: int) -> list[int]:
        return [int(each) for each in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]

    try:
        servers = [each for each in below(pid) if b"forkserver" in Path(f"/proc/{each}/cmdline").read_bytes()]
        return [worker for server in servers for worker in below(server)]
    except OSError:
        return []


def peak_mib(pid: int) -> float:
    """Return the peak resident size of a process so far, 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)


def watched(process: "subprocess.Popen[bytes]", base: Path) -> dict[str, float]:
    """Wait for a job; return the peak of its parent and of its largest worker, in MiB."""
    peaks = {"parent": 0.0, "worker": 0.0}
    while True:
        peaks["parent"] = max(peaks["parent"], peak_mib(process.pid))
        peaks["worker"] = max([peaks["worker"], *map(peak_mib, children(process.pid))])
        try:
            assert process.wait(0.02) == 0, (base / "log").read_text()
            return peaks
        except subprocess.TimeoutExpired:
            continue


def test_memory_does_not_grow_with_the_number_of_images(trees: dict[int, Path], tmp_path: Path) -> None:
    peaks: dict[tuple[str, int], dict[str, float]] = {}
    for images, tree in trees.items():
        base = tmp_path / f"prepare-{images}"
        process = start("prepare", base, {"labels": tree, "images": tree}, "--dataset", "mias")
        peaks["prepare", images] = watched(process, base)
        prepared = base / "processing" / "output" / "prepared"
        inputs = {
            "prepared-manifest": prepared,
            "prepared-images": prepared / "images",
            "prepared-stage": prepared,
            "augmented-manifest": empty(tmp_path / f"none-{images}", prepared),
            "augmented-images": tmp_path / f"none-{images}",
        }
        base = tmp_path / f"segment-{images}"
        process = start("segment", base, inputs, "--height", "96", "--width", "64", "--montage-images", "0")
        peaks["segment", images] = watched(process, base)
    # A job that held its images would need this much more for the many; a quarter of that is the machine's noise.
    held = (MANY - FEW) * PER_IMAGE_MIB
    for job in ("prepare", "segment"):
        for who in ("parent", "worker"):
            few, many = peaks[job, FEW][who], peaks[job, MANY][who]
            assert few > 20, f"the {who} of {job} was not seen"
            assert many - few < held / 4, f"{who} of {job}: {few:.0f} MiB for {FEW} images, {many:.0f} for {MANY}"


def empty(folder: Path, prepared: Path) -> Path:
    folder.mkdir()
    header = (prepared / "manifest.csv").read_text().splitlines()[0]
    (folder / "manifest.csv").write_text(header + "\n")
    return folder


def test_a_worker_killed_while_it_decodes_costs_one_image(make_dicom: Callable[..., bytes], tmp_path: Path) -> None:
    tree, base = tmp_path / "tree", tmp_path / "container"
    write_rsna_tree(tree, patients=2, height=300)
    large = sorted(tree.rglob("*.dcm"))[2]
    cells = np.tile(np.arange(SIDE, dtype=np.uint16) % 4096, (SIDE, 1))
    large.write_bytes(make_dicom(cells, syntax=J2K, bits=12))
    inputs = {"labels": tree, "images": tree / "train_images"}
    process = start("prepare", base, inputs, "--dataset", "rsna", "--max-quarantine", "0.2")
    killed = set()
    while process.poll() is None:
        for worker in children(process.pid):
            # Only the large image's decoding needs so much: the others are 300 pixels high.
            if peak_mib(worker) > SIDE * SIDE * 4 / 2**20:
                os.kill(worker, signal.SIGKILL)
                killed.add(worker)
    assert process.returncode == 0, (base / "log").read_text()
    output = base / "processing" / "output" / "prepared"
    with (output / "quarantine.csv").open() as stream:
        ((image_id, reason),) = [(row["image_id"], row["reason"]) for row in csv.DictReader(stream)]
    assert image_id == large.stem and "worker process died" in reason
    assert len(killed) == 2, "once among others, once alone"
    assert len(read_manifest(output)) == 7
