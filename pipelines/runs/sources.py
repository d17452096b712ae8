"""The sources of a run's images and weights, and their transfer to the S3 that the run reads."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mammopipe.pipelines.backends.sessions import LocalServices
from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.data import staging
from mammopipe.pipelines.data.model_uri import folder_of
from mammopipe.pipelines.data.s3 import Storage
from mammopipe.pipelines.data.staging import stage_salt
from mammopipe.pipelines.runs.preflight import check_division
from mammopipe.processing.datasets.manifest import ImageRecord
from mammopipe.processing.datasets.own import NAME as OWN
from mammopipe.processing.datasets.registry import dataset_named
from mammopipe.processing.errors import ConfigError, LabelError
from mammopipe.processing.phantoms import DEFAULT_PHANTOMS, PHANTOMS
from mammopipe.processing.phantoms.trees import write_phantoms


@dataclass(frozen=True)
class DataSource:
    """The source of a run's images and weights."""

    place: str = PHANTOMS
    """A folder or tarball, an `s3://` folder that is already staged, or `phantoms`."""
    phantoms: int = DEFAULT_PHANTOMS
    """Number of phantoms to generate."""
    weights: str = ""
    """A folder or file of pretrained weights, an `s3://` folder of staged weights, or empty."""


def bring(
    config: PipelineConfig,
    source: DataSource,
    services: LocalServices,
    parameters: Mapping[str, Any],
    given: Mapping[str, Any],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Stage the images, and the weights if any, to the run's S3.

    Args:
        config: The configuration.
        source: The images and weights.
        services: The services of the run.
        parameters: The pipeline's parameters.
        given: The parameters that the caller set; locations among them are left unchanged.
        say: Called with each line for the user.

    Returns:
        The parameters, with the locations of the staged images and weights.
    """
    services.storage.ensure_bucket(config.storage.bucket)
    stage_salt(config, services.storage)
    places = dict(parameters)
    if "InputDataUri" not in given:
        places["InputDataUri"] = _stage_images(config, source, services, say)
    if source.weights and "WeightsUri" not in given:
        places["WeightsUri"] = _weights(config, source.weights, services, say)
    # Without the trailing slash: the definition appends file names.
    return {name: value.rstrip("/") if name.endswith("Uri") else value for name, value in places.items()}


def stage_source(config: PipelineConfig, source: Path, uri: str, storage: Storage) -> staging.Staged:
    """Check a folder, tarball or table of the configuration's dataset and upload it to `uri`; raises `LabelError`."""
    if config.dataset == OWN:
        return staging.stage_own(source, uri, storage, config.own)
    return staging.stage(dataset_named(config.dataset), source, uri, storage)


def _stage_images(
    config: PipelineConfig, source: DataSource, services: LocalServices, say: Callable[[str], None]
) -> str:
    dataset = config.dataset
    if source.place.startswith("s3://"):
        return source.place
    if source.place != PHANTOMS:
        staged = stage_source(config, Path(source.place), config.storage.uri("raw", dataset), services.storage)
    else:
        with TemporaryDirectory() as scratch:
            write_phantoms(dataset, Path(scratch), source.phantoms)
            try:
                check_division(config, phantom_records(dataset, Path(scratch)), PHANTOMS)
            except LabelError as error:
                raise ConfigError(f"--phantoms {source.phantoms}: too few: {error}") from None
            say(
                f"SYNTHETIC IMAGES: {source.phantoms} phantoms stand in for {dataset}; "
                "no figure of this run says anything about real mammograms."
            )
            uri = config.storage.uri("raw", f"{dataset}-phantoms")
            staged = staging.stage(dataset_named(dataset), Path(scratch), uri, services.storage)
    say(f"Staged {staged}")
    return staged.uri


def phantom_records(dataset: str, folder: Path) -> list[ImageRecord]:
    """Return the records of phantoms in the layout in which the dataset is released."""
    known = dataset_named(dataset)
    return known.released.check(known.released.find(folder)).records if known.released else known.read(folder).records


def _weights(config: PipelineConfig, place: str, services: LocalServices, say: Callable[[str], None]) -> str:
    if place.startswith("s3://"):
        return folder_of(place)
    staged = staging.stage_weights(Path(place), config.storage.uri("weights"), services.storage)
    say(f"Staged weights: {staged}")
    return staged.uri
