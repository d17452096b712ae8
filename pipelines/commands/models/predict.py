"""`mammopipe predict`: writes a model's predictions for many images as CSV, without a server."""

import argparse
import csv
import fcntl
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TextIO

from mammopipe.pipelines.commands.arguments import Subparsers, command, in_runs, refuse
from mammopipe.processing.datasets.own import IMAGE_SUFFIXES
from mammopipe.processing.datasets.own_table import TABLE_SUFFIXES
from mammopipe.processing.errors import ConfigError

if TYPE_CHECKING:
    from mammopipe.inference.prediction.batch import Image

MODEL = "model.tar.gz"
PACKAGE = re.compile(r"arn:aws[a-z-]*:sagemaker:(?P<region>[a-z0-9-]+):\d{12}:model-package/.+")


def add(subparsers: Subparsers) -> None:
    """Add the parser of `predict`."""
    text = "write a model's predictions of images, on this machine as CSV, or by a batch transform on AWS as JSON lines"
    parser = command(subparsers, "predict", text, "predict latest images/ -o predictions.csv")
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a run's ID, a model.tar.gz, the folder of an unpacked one, or a model package's ARN",
    )
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGES",
        help="a folder, files, or one table; on AWS, one s3:// folder of images and exams",
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="the file to write; CSV, or JSON lines on AWS"
    )
    parser.add_argument(
        "--backend",
        choices=["process", "aws"],
        default="process",
        help="where the model runs: on this machine (process, the default) or as a batch transform (aws)",
    )
    parser.add_argument("--heatmaps", type=Path, metavar="DIR", help="also write each image with its heatmap, as PNG")
    parser.add_argument(
        "--exams", action="store_true", help="also write rows of breasts and patients to OUTPUT-exams.csv"
    )
    parser.add_argument(
        "--operating-point",
        choices=["sensitivity", "specificity"],
        default="sensitivity",
        help="the threshold that decides (default: sensitivity)",
    )
    parser.add_argument("--processes", type=int, metavar="N", help="worker processes (default: one per core)")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="TOML file: with [own], which maps a table's columns, or, on AWS, with the stack's outputs",
    )
    in_runs(parser)
    again = "start the same command again: images that already have a row are skipped"
    parser.set_defaults(command=predict, again=again)


def predict(options: argparse.Namespace) -> int:
    """Predict the images that the output lacks; returns 1 if no image could be predicted."""
    if options.backend == "aws":
        return _predict_on_aws(options)
    from mammopipe.inference.prediction.batch import Batch, by_exam, model_columns, predict_groups
    from mammopipe.pipelines.runs.progress import waiting
    from mammopipe.processing.container.job import cores

    processes = cores() if options.processes is None else options.processes
    if processes < 1:
        raise ConfigError(f"--processes {processes}: must be at least 1")
    images = _images([Path(name) for name in options.images], options.config)
    with model_directory(options.model, options.runs) as directory:
        batch = Batch(directory, options.operating_point, options.heatmaps, options.exams)
        with waiting("loading the model"):
            model, columns = model_columns(batch)
        groups = by_exam(images) if options.exams else [[image] for image in images]
        with PredictionTable(options.output, ["model", *columns], model) as table, _exam_table(options, model) as exams:
            left = [group for group in groups if not _is_done(group, table, exams)]
            if len(left) < len(groups):
                print(f"{len(groups) - len(left)} of {len(groups)} were predicted before", file=sys.stderr)
            for rows in _shown(predict_groups(batch, left, processes=processes), left):
                table.add([row for row in rows.images if row["path"] not in table.done])
                if exams is not None:
                    exams.add([row for row in rows.exams if row["path"] not in exams.done])
    print(f"{options.output}: {table.written} images predicted, {table.refused} refused (column error)")
    return int(table.written + table.refused > 0 and table.written == 0)


def _predict_on_aws(options: argparse.Namespace) -> int:
    """Run a batch transform; returns 1 if an object got no answer."""
    from mammopipe.pipelines.account import batch
    from mammopipe.pipelines.backends import sessions
    from mammopipe.pipelines.config.pipeline import PipelineConfig

    refuse(
        options, "heatmaps", "exams", "processes", rule="on this machine only; an exam on S3 is one ZIP or JSON object"
    )
    if options.operating_point != "sensitivity":
        raise ConfigError("--operating-point: on this machine only; the answers of a batch use the default one")
    if len(options.images) != 1 or not options.images[0].startswith("s3://"):
        raise ConfigError(f"{options.images[0]}: with --backend aws, give one s3:// folder")
    config = PipelineConfig.load(options.config)
    sagemaker = sessions.caller_session(config).client("sagemaker")
    (source,) = options.images
    storage = sessions.caller_storage(config)
    written = batch.predict(config, sagemaker, storage, options.model, source, options.output, print)
    print(
        f"{options.output}: {written.answered} answered, {written.refused} refused, {written.missing} without an answer"
    )
    return int(written.missing > 0 or not written.answered)


def _is_done(group: "Sequence[Image]", table: "PredictionTable", exams: "PredictionTable | None") -> bool:
    """Return whether every image of a group has a row, and so has the exam that they form."""
    paths = [str(image.path) for image in group]
    return set(paths) <= table.done and (exams is None or paths[0] in exams.done)


def _shown(found: Iterator[Any], groups: Sequence[Any]) -> Iterator[Any]:
    from tqdm import tqdm

    yield from tqdm(found, total=len(groups), desc="predict", disable=not sys.stderr.isatty())


def _images(given: Sequence[Path], config: Path | None) -> "list[Image]":
    """Return the images of folders, files or one table; raises `ConfigError` if there are none."""
    from mammopipe.inference.prediction.batch import Image
    from mammopipe.pipelines.config.pipeline import PipelineConfig
    from mammopipe.processing.datasets.own import images_of, read_own
    from mammopipe.processing.datasets.own_table import find_table

    if any(path.suffix.lower() in TABLE_SUFFIXES for path in given):
        if len(given) > 1:
            raise ConfigError(f"{given[0]}: give one table, or images; not both")
        mapping = PipelineConfig.load(config).own
        table = read_own(given[0], mapping, labelled=False)
        folder = images_of(find_table(given[0]), mapping)
        for _, reason in table.refused:
            print(f"left out: {reason}", file=sys.stderr)
        return [Image(folder / record.path, record) for record in table.records]
    found: list[Path] = []
    for path in given:
        if not path.exists():
            raise ConfigError(f"{path}: no such file or folder")
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        found += [item for item in inside if item == path or (item.is_file() and item.suffix.lower() in IMAGE_SUFFIXES)]
    if not found:
        raise ConfigError(f"{given[0]}: no images here; they end in {', '.join(IMAGE_SUFFIXES)}")
    return [Image(path) for path in dict.fromkeys(found)]


@contextmanager
def model_directory(name: str, runs: Path) -> Iterator[Path]:
    """Yield the directory of a model, from a folder, a `model.tar.gz`, a run, or a model package's ARN."""
    from mammopipe.pipelines.runs.folder import find_run
    from mammopipe.training.model.archive import unpack

    if name.startswith("arn:"):
        with TemporaryDirectory() as scratch:
            _fetch_package(name, Path(scratch) / MODEL)
            unpack(Path(scratch) / MODEL, Path(scratch) / "model")
            yield Path(scratch) / "model"
        return
    path = Path(name)
    if (path / "model.json").is_file():
        yield path
        return
    if path.is_dir() and not (path / MODEL).is_file():
        raise ConfigError(f"{path}: neither model.json nor {MODEL} here")
    archive = path / MODEL if path.is_dir() else path if path.is_file() else find_run(runs, name).path / MODEL
    if not archive.is_file():
        raise ConfigError(f"run {name} has no {MODEL}: it ended before that (mammopipe status {name})")
    with TemporaryDirectory() as scratch:
        unpack(archive, Path(scratch))
        yield Path(scratch)


def _fetch_package(arn: str, target: Path) -> None:
    """Download the model of a registered package, which lies on S3; raises `ConfigError` or `StorageError`."""
    from mammopipe.pipelines.backends import sessions
    from mammopipe.pipelines.config.pipeline import PipelineConfig
    from mammopipe.processing.files import write_bytes

    found = PACKAGE.fullmatch(arn)
    if found is None:
        raise ConfigError(
            f"{arn}: must be the ARN of a model package, arn:aws:sagemaker:REGION:ACCOUNT:model-package/..."
        )
    config = PipelineConfig(region=found["region"])
    sagemaker = sessions.caller_session(config).client("sagemaker", region_name=found["region"])
    with sessions.aws_errors():
        package = sagemaker.describe_model_package(ModelPackageName=arn)
    uri = package["InferenceSpecification"]["Containers"][0]["ModelDataUrl"]
    write_bytes(target, sessions.caller_storage(config).read(uri))


def _exam_table(options: argparse.Namespace, model: str) -> "Any":
    from contextlib import nullcontext

    from mammopipe.inference.prediction.batch import EXAM_COLUMNS

    if not options.exams:
        return nullcontext()
    output: Path = options.output
    return PredictionTable(output.with_name(f"{output.stem}-exams{output.suffix}"), ["model", *EXAM_COLUMNS], model)


def _locked(path: Path) -> TextIO:
    """Return the file at `path`, open and locked; it is made if it is missing.

    Raises:
        ConfigError: Another process holds it.
    """
    while True:
        stream = path.open("a", encoding="utf-8", newline="")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            raise ConfigError(
                f"{path}: another command is writing it; wait for its end, or give another file"
            ) from None
        # Whoever held it may have replaced it between our opening and our locking.
        if path.exists() and os.path.samestat(os.fstat(stream.fileno()), path.stat()):
            return stream
        stream.close()


class PredictionTable:
    """A CSV file to which rows are added, with the rows that it already has; one process at a time writes it."""

    def __init__(self, path: Path, columns: Sequence[str], model: str) -> None:
        self._path, self._columns, self._model = path, columns, model
        self.done: set[str] = set()
        """Paths of the images that have a row; in the table of exams, of the first image of each."""
        self.written = self.refused = 0

    def __enter__(self) -> "PredictionTable":
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _locked(self._path)
            try:
                kept = self._kept()
                if self._path.is_file():  # not a device or a pipe
                    self._file = self._rewritten(kept)
                else:
                    self._write(self._file, kept)
            except BaseException:
                self._file.close()
                raise
        except OSError as error:
            raise ConfigError(f"{self._path}: cannot be written: {error.strerror}") from None
        self._writer = csv.DictWriter(self._file, self._columns, lineterminator="\n")
        return self

    def _rewritten(self, kept: Sequence[Mapping[str, str]]) -> TextIO:
        """Return the file, open and locked, with these rows alone: without the incomplete row of a stopped run."""
        target = self._path.resolve()  # a link stays one: the file behind it is replaced
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        stream = os.fdopen(descriptor, "w", encoding="utf-8", newline="")
        try:
            self._write(stream, kept)
            os.chmod(name, 0o644)
            fcntl.flock(stream, fcntl.LOCK_EX)
            os.replace(name, target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            with suppress(OSError):  # on a full disk, closing fails as writing did
                stream.close()
            raise
        self._file.close()
        return stream

    def _write(self, stream: TextIO, rows: Sequence[Mapping[str, str]]) -> None:
        writer = csv.DictWriter(stream, self._columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        stream.flush()

    def __exit__(self, *details: object) -> None:
        self._file.close()

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows; they have been handed to the operating system when this returns."""
        try:
            for row in rows:
                self._writer.writerow({"model": self._model, **row})
                self.refused += bool(row["error"])
                self.written += not row["error"]
            self._file.flush()
        except OSError as error:
            raise ConfigError(f"{self._path}: cannot be written: {error.strerror}") from None

    def _kept(self) -> list[dict[str, str]]:
        """Return the complete rows of an earlier run; `ConfigError` if another model made them."""
        if not self._path.is_file() or not self._path.stat().st_size:
            return []
        with self._path.open(encoding="utf-8", newline="") as stream:
            lines = stream.readlines()
        rows = list(csv.DictReader(line for line in lines if line.endswith("\n")))
        if rows and (list(rows[0]) != list(self._columns) or {row["model"] for row in rows} != {self._model}):
            raise ConfigError(f"{self._path}: holds other columns, or another model's predictions; give another file")
        # An exam is complete with its last row, the patient's; the rows of images have no level.
        self.done = {row["path"] for row in rows if row.get("level", "patient") == "patient"}
        return [row for row in rows if row["path"] in self.done]
