"""`mammopipe experiment mias`: evaluates every network under every protocol, with local runs of the pipeline.

A cell is one network under one protocol. Each protocol also has a noise control: the real labels on images of noise,
through the same jobs. The results of finished cells are stored in `<out>/cells/`; those cells are not run again. The
missing cells of a protocol share one run, which prepares the images only once.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.data.staging import opened
from mammopipe.pipelines.experiment import tables as experiment_tables
from mammopipe.pipelines.experiment.figures import write_figures
from mammopipe.pipelines.runs.launch import start
from mammopipe.processing.datasets import mias
from mammopipe.processing.datasets.manifest import SplitProtocol
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import sha256, write_json
from mammopipe.processing.phantoms import DEFAULT_PHANTOMS, PHANTOMS
from mammopipe.processing.phantoms.noise import write_noise_tree
from mammopipe.processing.phantoms.trees import write_phantoms

KEPT = ("evaluation.json", "report.html", "execution.json", "predictions.csv")
"""The files kept from a cell's run; its models would fill the disk, and nobody uses them."""
CELL = "cell.json"


@dataclass(frozen=True)
class Cell:
    """One network under one protocol, or a noise control."""

    protocol: SplitProtocol
    cnn: str
    noise: bool = False
    """Whether its images are noise."""

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.protocol}-{'noise-' if self.noise else ''}{self.cnn}"


@dataclass(frozen=True)
class Experiment:
    """The settings of an experiment; the configuration holds the seed."""

    config: PipelineConfig
    protocols: Sequence[SplitProtocol] = tuple(SplitProtocol)
    noise: str | None = None
    """The network of the noise controls; None omits them."""
    source: str = PHANTOMS
    """A folder or tarball of MIAS, or `phantoms`."""
    phantoms: int = DEFAULT_PHANTOMS
    """Number of phantoms."""
    weights: str = ""

    def __post_init__(self) -> None:
        """Refuse configurations that the experiment does not support."""
        if self.config.dataset != "mias":
            raise ConfigError(f"dataset={self.config.dataset}: the experiment runs on mias only")
        if self.source.startswith("s3://"):
            raise ConfigError(f"{self.source}: the experiment reads a local folder or tarball, or phantoms")
        if not self.protocols or len(set(self.protocols)) < len(self.protocols):
            raise ConfigError(f"protocols={', '.join(self.protocols)!r}: at least one, each once")

    def cells(self) -> list[Cell]:
        """Return the cells in their order; the noise control of each protocol is last."""
        controls = [self.noise] if self.noise is not None else []
        return [
            Cell(protocol, cnn, noise)
            for protocol in self.protocols
            for cnn, noise in [*((cnn, False) for cnn in self.config.cnns), *((cnn, True) for cnn in controls)]
        ]

    def config_of(self, cells: Sequence[Cell]) -> PipelineConfig:
        """Return the configuration of a run of cells that differ only in their network; it deploys no endpoint."""
        data = self.config.data.replace(protocol=cells[0].protocol)
        cnns = tuple(cell.cnn for cell in cells)
        # Settings of other networks do not affect these cells.
        own = {name: table for name, table in self.config.per_cnn.items() if name in cnns}
        return self.config.replace(data=data, cnns=cnns, per_cnn=own, deploy=False)

    def identity(self, cell: Cell) -> str:
        """Return the SHA-256 over everything that determines a cell's results, except the code."""
        weights = _identity(Path(self.weights)) if self.weights and not cell.noise else ""
        settings = [self.config_of([cell]).model_dump(mode="json"), cell.noise, self._images(), weights]
        return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()

    def _images(self) -> str:
        return f"{PHANTOMS} {self.phantoms}" if self.source == PHANTOMS else _identity(Path(self.source))


def run(experiment: Experiment, out: Path, say: Callable[[str], None] = print) -> list[str]:
    """Run the missing cells, write tables and figures of the finished ones, and return why others failed.

    Raises `ConfigError`, before anything runs, if `out` holds cells of other settings.
    """
    cells = experiment.cells()
    done = {cell: _read(cell, experiment, out) for cell in cells}
    for cell in cells:
        if done[cell] is not None:
            say(f"{cell.name}: already measured")
    runs: dict[tuple[SplitProtocol, bool], list[Cell]] = {}
    for cell in cells:
        if done[cell] is None:
            runs.setdefault((cell.protocol, cell.noise), []).append(cell)
    failures = []
    for number, lacking in enumerate(runs.values(), 1):
        names = ", ".join(cell.name for cell in lacking)
        say(f"run {number} of {len(runs)}: {names}")
        reason = _run_cells(lacking, experiment, out, say)
        done |= {cell: _read(cell, experiment, out) for cell in lacking}
        if reason:
            failures.append(f"{names}: {reason}")
        write_results(experiment, done, out)
    if not runs:
        write_results(experiment, done, out)
    return failures


def write_results(experiment: Experiment, done: Mapping[Cell, dict[str, Any] | None], out: Path) -> None:
    """Write `results.csv`, `results.md` and the figures of the finished cells."""
    found = {cell: evaluation for cell, evaluation in done.items() if evaluation is not None}
    if found:
        rows = experiment_tables.rows(
            [(cell.protocol, cell.cnn, cell.noise, evaluation) for cell, evaluation in found.items()]
        )
        figures = write_figures(rows, out, len(next(iter(found.values()))["classes"]))
        experiment_tables.write_csv_table(rows, out / "results.csv")
        facts = experiment_tables.facts(
            next(iter(found.values())), experiment.config.model_dump(mode="json"), len(found), len(done)
        )
        experiment_tables.write_markdown(rows, facts, figures, out / "results.md")


def _run_cells(cells: Sequence[Cell], experiment: Experiment, out: Path, say: Callable[[str], None]) -> str:
    """Run cells together and keep their results; returns why there are none, or an empty text."""
    noise = cells[0].noise
    weights = "" if noise else experiment.weights
    with _images_of(noise, experiment) as source:
        ended = start(
            experiment.config_of(cells),
            source=source,
            phantoms=experiment.phantoms,
            weights=weights,
            runs=out / "runs",
            say=say,
        )
    if ended.folder is None or not (ended.folder / KEPT[0]).is_file():
        return ended.reason or "the run left no evaluation.json"
    for cell in cells:
        folder = out / "cells" / cell.name
        folder.mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            shutil.copyfile(ended.folder / name, folder / name)
        # Written last: its presence means that the other files are complete.
        write_json(folder / CELL, {"identity": experiment.identity(cell), "run": ended.id})
    (out / "runs" / "latest").unlink(missing_ok=True)
    shutil.rmtree(ended.folder)
    return ""


def _read(cell: Cell, experiment: Experiment, out: Path) -> dict[str, Any] | None:
    """Return a finished cell's results, or None if it is unfinished; `ConfigError` for one of other settings."""
    folder = out / "cells" / cell.name
    if not (folder / CELL).is_file():
        return None
    if json.loads((folder / CELL).read_text(encoding="utf-8"))["identity"] != experiment.identity(cell):
        raise ConfigError(f"{folder}: was measured with other images or settings; give another --out, or remove it")
    return dict(json.loads((folder / "evaluation.json").read_text(encoding="utf-8")))


@contextmanager
def _images_of(noise: bool, experiment: Experiment) -> Iterator[str]:
    """Yield the source of a run's images."""
    if not noise:
        yield experiment.source
        return
    with TemporaryDirectory() as name:
        scratch = Path(name)
        if experiment.source == PHANTOMS:
            write_phantoms("mias", scratch / PHANTOMS, experiment.phantoms)
        source = scratch / PHANTOMS if experiment.source == PHANTOMS else Path(experiment.source)
        with opened(source, mias.DATASET) as folder:
            write_noise_tree(folder / mias.LABEL_TABLE, scratch / "noise", seed=experiment.config.data.seed)
        yield str(scratch / "noise")


def _identity(path: Path) -> str:
    """Return a digest that identifies a file, or a folder of files without reading every image."""
    if path.is_file():
        return sha256(path)
    files = sorted(item for item in path.rglob("*") if item.is_file())
    if not files:
        raise ConfigError(f"{path}: no such file, or a folder without files")
    sizes = [[item.relative_to(path).as_posix(), item.stat().st_size] for item in files]
    tables = [sha256(item) for item in files if item.name == mias.LABEL_TABLE]
    return hashlib.sha256(json.dumps([sizes, tables]).encode()).hexdigest()
