"""The whole RSNA pipeline on sets of growing size: seconds by stage, CPU time, peak memory, size of the report.

Run `python -m benchmarks.bench_scale --images 1000 5000 54706 [--rsna FOLDER]`: a JSON list on stdout, progress on
stderr. With `--rsna`, the rows are the first ones of the real `train.csv` in that folder; otherwise, the table is
generated. Every row gets a synthetic DICOM of 256 rows. Each size is one run of `mammopipe run` with the process
backend: staging,
Prepare, Segment at 96 x 64 pixels, a small network for one epoch with `cache = "disk"`, and Evaluate with the leakage
audit, subgroups, figures by breast and patient, and the report. 54,706 images take half an hour on two cores.

`python -m benchmarks.bench_scale --page ROWS` measures nothing. It copies the rows of an earlier run (a file with its
output) into the table of docs/how-to/growing.md and into docs/BENCHMARKS.md.
"""

import argparse
import csv
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.data.bench_manifest import ROWS, make_table
from benchmarks.rows import Row, row
from benchmarks.serving.process_memory import MemoryWatch
from benchmarks.table import fill_in, replace_between
from mammopipe.processing.datasets.rsna import COLUMNS, LABEL_TABLE
from mammopipe.processing.files import write_csv
from mammopipe.processing.jobs.parallel import map_images
from mammopipe.processing.phantoms.rsna_tree import write_rsna_image

COMMAND = "python -m benchmarks.bench_scale --images 1000 5000 54706"
HEIGHT = 256
SETTINGS = {
    "cnns": '["modified_cnn"]',
    "deploy": "false",
    "augmentation.copies": "0",
    "segmentation.height": "96",
    "segmentation.width": "64",
    "training.epochs": "1",
    "training.head_epochs": "0",
    "training.warmup_epochs": "0.5",
    "training.patience": "1",
    "training.cache": "disk",
    "evaluation.bootstrap": "500",
}
"""Settings of every run; the profile is `quick`, so that the gate tests only the audit."""
DOCS = Path(__file__).parents[1] / "docs"
STEPS = ("Prepare", "Augment", "Segment", "Train-modified-cnn", "Evaluate")
HOURS_BAR, MEMORY_BAR, REPORT_BAR, GROWTH_BAR = 2.0, 3.0, 5.0, 1.15


@dataclass(frozen=True)
class Measured:
    """The time and memory of one run of the pipeline."""

    images: int
    seconds: Mapping[str, float]
    """Wall time by stage; `stage` is compiling and staging."""
    peaks: Mapping[str, int]
    """Greatest resident size in bytes of any process of a job, by job."""
    cpu: Mapping[str, float]
    """CPU seconds by job; on a machine with other load, they are more reliable than `seconds`."""
    report: int
    """Bytes of `report.html`."""
    audit: Mapping[str, Any]
    """What the leakage audit checked, and its verdict."""

    @property
    def total(self) -> float:
        """Seconds from start to end."""
        return sum(self.seconds.values())


def table_rows(rsna: Path | None, images: int, scratch: Path) -> list[dict[str, str]]:
    """Return the first rows of the label table; a few more than `images` if that completes a patient."""
    path = (rsna or scratch) / LABEL_TABLE
    if rsna is None:
        make_table(path)
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    last = rows[min(images, len(rows)) - 1]["patient_id"]
    return [item for place, item in enumerate(rows) if place < images or item["patient_id"] == last]


def write_tree(rows: Sequence[dict[str, str]], folder: Path) -> None:
    """Write the label table and one synthetic DICOM a row, on all cores."""
    work = partial(write_rsna_image, folder, seed=1, height=HEIGHT)
    for _, refused in map_images(work, rows, total=len(rows), title="phantoms"):
        if refused is not None:
            raise RuntimeError(f"{folder}: {refused.reason}")
    write_csv(folder / LABEL_TABLE, list(COLUMNS), rows)


def measure(source: Path, runs: Path, images: int) -> Measured:
    """Run the pipeline on a folder in the layout of RSNA and return its time and memory."""
    assignments = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "mammopipe.pipelines.cli", "run", "--dataset", "rsna", "--source", str(source)]
    started = time.perf_counter()
    process = subprocess.Popen([*command, "--runs", str(runs), *assignments], stdout=sys.stderr)
    with MemoryWatch(process.pid) as watch:
        process.wait()
    total = time.perf_counter() - started
    if process.returncode:
        raise RuntimeError(f"{images} images: the run ended with exit code {process.returncode}; see above")
    found = (runs / "latest").resolve()
    execution = json.loads((found / "execution.json").read_text(encoding="utf-8"))
    seconds = {step["name"]: float(step["seconds"] or 0) for step in execution["steps"] if step["name"] in STEPS}
    report, evaluation = found / "report.html", found / "evaluation.json"
    leakage = json.loads(evaluation.read_text(encoding="utf-8"))["leakage"]
    return Measured(
        images,
        {"stage": total - sum(seconds.values()), **seconds},
        watch.peaks,
        watch.cpu_seconds,
        report.stat().st_size,
        {**leakage["checked"], "findings": len(leakage["findings"])},
    )


def growth(small: Measured, large: Measured, stage: str | None = None) -> float:
    """Return the time of an image in the larger set, times that in the smaller one; 1 is linear growth."""
    each = [(run.seconds[stage] if stage else run.total) / run.images for run in (small, large)]
    return each[1] / each[0]


def figures(runs: Sequence[Measured]) -> list[Row]:
    """Return the rows of the benchmark."""
    found = []
    for run in runs:
        label = f"RSNA pipeline, {run.images:,} images"
        bar = HOURS_BAR if run.images >= ROWS else None
        found += [
            row(f"{label}: hours in all", run.total / 3600, "h", bar, "lower", COMMAND, **run.seconds),
            row(
                f"{label}: largest process",
                max(run.peaks.values()) / 1e9,
                "GB",
                MEMORY_BAR,
                "lower",
                COMMAND,
                **{name: peak / 1e9 for name, peak in sorted(run.peaks.items())},
            ),
            row(f"{label}: CPU hours", sum(run.cpu.values()) / 3600, "h", None, "lower", COMMAND, **run.cpu),
            row(f"{label}: report", run.report / 1e6, "MB", REPORT_BAR, "lower", COMMAND),
        ]
    for small, large in pairwise(runs):
        label = f"RSNA pipeline, {small.images:,} to {large.images:,} images: seconds an image"
        by_stage = {stage: growth(small, large, stage) for stage in large.seconds}
        found.append(row(label, growth(small, large), "x", GROWTH_BAR, "lower", COMMAND, **by_stage))
    return found


def stage_table(rows: Sequence[Row]) -> str:
    """Return a Markdown table of the seconds of each stage, one line a run, from the rows of `figures`."""
    runs = [each for each in rows if each["name"].endswith("hours in all")]
    sizes = [each["name"].removeprefix("RSNA pipeline, ").split(" ")[0] for each in runs]
    memory = [each for each in rows if each["name"].endswith("largest process")]
    stages = ("stage", *STEPS)
    lines = [f"| images | {' | '.join(stages)} | in all | largest process |", "|---" * (len(stages) + 3) + "|"]
    for size, run, most in zip(sizes, runs, memory, strict=True):
        seconds = [f"{run['peers'][stage]:,.0f} s" for stage in stages]
        lines.append(f"| {size} | {' | '.join(seconds)} | {run['value'] * 60:.1f} min | {most['value']:.2f} GB |")
    for each in rows:
        if each["name"].endswith("seconds an image"):
            sizes_compared = each["name"].removeprefix("RSNA pipeline, ").split(":")[0]
            factors = [f"{each['peers'][stage]:.2f} x" for stage in stages]
            lines.append(f"| an image, {sizes_compared} | {' | '.join(factors)} | {each['value']:.2f} x | |")
    return "\n".join(lines) + "\n"


def fill_pages(rows: Sequence[Row], docs: Path = DOCS) -> None:
    """Put rows into the two pages that show them."""
    replace_between(docs / "how-to" / "growing.md", "scale", stage_table(rows))
    fill_in(docs / "BENCHMARKS.md", rows)


def main() -> None:
    """Print the rows, or put rows that were printed earlier into the pages."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 5000, ROWS], help="sizes of the sets")
    parser.add_argument("--rsna", type=Path, help=f"folder with the real {LABEL_TABLE}")
    parser.add_argument("--scratch", type=Path, help="folder of the images and runs, kept; by default a temporary one")
    parser.add_argument("--page", type=Path, metavar="ROWS", help="fill the pages from printed rows; measure nothing")
    options = parser.parse_args()
    if options.page is not None:
        return fill_pages(json.loads(options.page.read_text(encoding="utf-8")))
    scratch = options.scratch or Path(tempfile.mkdtemp(prefix="bench-scale-"))
    runs: list[Measured] = []
    try:
        for images in sorted(options.images):
            rows = table_rows(options.rsna, images, scratch)
            source = scratch / f"rsna-{len(rows)}"
            if not (source / LABEL_TABLE).is_file():
                write_tree(rows, source)
            runs.append(measure(source, scratch / f"runs-{len(rows)}", len(rows)))
            print(json.dumps(asdict(runs[-1])), file=sys.stderr, flush=True)
    finally:
        if options.scratch is None:
            shutil.rmtree(scratch, ignore_errors=True)
    print(json.dumps(figures(runs), indent=2))


if __name__ == "__main__":
    main()
