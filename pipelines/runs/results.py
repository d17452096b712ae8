"""The results that a run leaves for a person: files from S3, and the answer for a test image beside its truth."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from mammopipe.inference.client.client import Answer, Delivery, MammographyClient, Uploads
from mammopipe.pipelines.backends.local_endpoint import LocalEndpoint
from mammopipe.pipelines.config.pipeline import Keep
from mammopipe.pipelines.data import answers
from mammopipe.pipelines.data.s3 import S3Object, Storage
from mammopipe.pipelines.experiment import trials
from mammopipe.processing.container.s3_uri import S3Uri
from mammopipe.processing.datasets.arranged import IMAGE_FOLDER, LABEL_TABLE
from mammopipe.processing.datasets.manifest import ImageRecord, Split, read_manifest
from mammopipe.processing.errors import ManifestError
from mammopipe.processing.files import write_json
from mammopipe.processing.splits import read_register

RESULTS: Mapping[str, tuple[str, ...]] = {
    "evaluation": ("evaluation.json", "report.html", "predictions.csv", "model_card.md", "model_card.json"),
    "model": ("model.tar.gz",),
}
"""For each output of Evaluate, the files that are copied to the run's folder under their own name."""
WHOLE = tuple(name for names in RESULTS.values() for name in names)
IMAGES = ("prepared", "data_segmentation")
"""The outputs whose images a run may keep."""
SEARCH = "Tune-"
"""Beginning of the name of a step that searches hyperparameters; the rest is the network's name."""
PREPARED = "prepared"
"""The output whose manifest says which images are in the test split."""


@dataclass(frozen=True)
class Output:
    """One output of a processing step."""

    name: str
    uri: str


def outputs(steps: Mapping[str, Mapping[str, Any]]) -> Iterator[Output]:
    """Yield the outputs listed in the properties of the steps that have run."""
    for properties in steps.values():
        for item in properties.get("ProcessingOutputConfig", {}).get("Outputs", []):
            yield Output(item["OutputName"], item["S3Output"]["S3Uri"].rstrip("/"))


def collect(steps: Mapping[str, Mapping[str, Any]], storage: Storage, folder: Path) -> None:
    """Copy into a run's folder what a person looks at: results, pictures, and each stage's summary of its work."""
    for output in outputs(steps):
        if output.name == read_register.NAME:
            continue
        place = S3Uri.parse(output.uri + "/")
        for item in storage.list(output.uri + "/"):
            target = _place_of(output.name, place.name_below(item.key))
            if target is not None:
                storage.fetch(place, item, folder / target)
    for properties in steps.values():
        if "TransformInput" in properties:
            source = properties["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"]
            answers.write(storage, source, properties["TransformOutput"]["S3OutputPath"], folder / answers.FILE)
    searches = {name: made["AllTrainingJobSummaries"] for name, made in steps.items() if name.startswith(SEARCH)}
    trials.write(
        folder, [row for name, made in searches.items() for row in trials.rows(name.removeprefix(SEARCH), made)]
    )


def keep(
    steps: Mapping[str, Mapping[str, Any]], storage: Storage, folder: Path, kinds: Collection[Keep], selected: str
) -> None:
    """Copy models and images of the steps into the run's folder, as the configuration asks.

    Args:
        steps: The properties of the steps that have run.
        storage: The S3 of the run.
        folder: The run's folder: `models/NETWORK.tar.gz`, `images/prepared/`, `images/data_segmentation/`.
        kinds: What to keep.
        selected: The network whose model already is the run's `model.tar.gz`; it is not copied again.
    """
    if Keep.MODELS in kinds:
        for name, properties in steps.items():
            uri = _model_of(properties)
            network = name.removeprefix("Train-").removeprefix(SEARCH)
            if uri and network != selected.replace("_", "-").replace(".", "-"):
                for item in storage.list(uri):
                    storage.fetch(S3Uri.parse(uri), item, folder / "models" / f"{network}.tar.gz")
    if Keep.IMAGES in kinds:
        for output in outputs(steps):
            if output.name in IMAGES:
                storage.download(f"{output.uri}/images/", folder / "images" / output.name)


def _model_of(properties: Mapping[str, Any]) -> str:
    """Return the S3 URI of the model of a training step, or of the best trial of a search; empty for other steps."""
    if "BestTrainingJob" in properties:
        folder = properties["TrainingJobDefinition"]["OutputDataConfig"]["S3OutputPath"].rstrip("/")
        return f"{folder}/{properties['BestTrainingJob']['TrainingJobName']}/output/model.tar.gz"
    return str(properties.get("ModelArtifacts", {}).get("S3ModelArtifacts", ""))


def _place_of(output: str, name: str) -> Path | None:
    """Return where a file at the top of an output goes in the run's folder; None leaves it on S3."""
    path = PurePosixPath(name)
    if len(path.parts) > 1:
        return None
    if name in WHOLE:
        return Path(name)
    if path.suffix == ".png":
        return Path("pictures", f"{output}-{name}")
    if path.suffix == ".json" or name.startswith(("quarantine", "manifest")):
        return Path("stages", f"{output}-{name}")
    return None


@dataclass(frozen=True)
class TestImage:
    """An image that no model has seen."""

    record: ImageRecord
    """Its row of the label table, with the truth."""
    place: S3Uri
    item: S3Object


def choose_image(steps: Mapping[str, Mapping[str, Any]], raw: str, storage: Storage) -> TestImage | None:
    """Return the first test image of the most serious label; None if the run prepared no images."""
    prepared = [output for output in outputs(steps) if output.name == PREPARED]
    if not prepared:
        return None
    with TemporaryDirectory() as scratch:
        storage.download(f"{prepared[0].uri}/manifest", Path(scratch))
        records = read_manifest(Path(scratch))
    tests = sorted(
        (record for record in records if record.split is Split.TEST and not record.source_image_id),
        key=lambda record: (-record.label.rank, record.image_id),
    )
    place = S3Uri.parse(raw + "/")
    images = _by_id(raw, storage)
    for record in tests:
        if record.image_id in images:
            return TestImage(record, place, images[record.image_id])
    raise ManifestError(f"{prepared[0].uri}: none of its {len(tests)} test images lies in {raw}")


def _by_id(raw: str, storage: Storage) -> dict[str, S3Object]:
    """Return the files of a staged dataset by image id.

    A dataset that is staged with a manifest states each image's path there; in all others, the file's name is the id.
    """
    place = S3Uri.parse(raw + "/")
    files = {place.name_below(item.key): item for item in storage.list(raw + "/")}
    if LABEL_TABLE not in files:
        return {PurePosixPath(name).stem: item for name, item in files.items()}
    with TemporaryDirectory() as scratch:
        storage.download(f"{raw}/{LABEL_TABLE}", Path(scratch))
        records = read_manifest(Path(scratch))
    paths = {record.image_id: f"{IMAGE_FOLDER}/{record.path}" for record in records}
    return {image_id: files[path] for image_id, path in paths.items() if path in files}


def ask(endpoint: LocalEndpoint, image: TestImage, storage: Storage, folder: Path, say: Callable[[str], None]) -> None:
    """Send an image to a local endpoint, show the answer beside the truth, and write it to a file.

    Args:
        endpoint: The running endpoint.
        image: The image.
        storage: The S3 of the run.
        folder: Folder for `invocation.json`; for async inference, the file is `invocation-async.json`.
        say: Called with one line for the user.
    """
    target = folder / ("invocation-async.json" if endpoint.asynchronous else "invocation.json")
    ask_client(_client(endpoint, storage), endpoint.name, image, storage, target, say)


def ask_client(
    client: MammographyClient, name: str, image: TestImage, storage: Storage, target: Path, say: Callable[[str], None]
) -> None:
    """Send an image through a client; the table's side and view are sent along, in case the file lacks them.

    Args:
        client: The endpoint's client.
        name: Name of the endpoint.
        image: The image.
        storage: The S3 of the run.
        target: File for the answer.
        say: Called with one line for the user.
    """
    laterality = str(image.record.laterality) if image.record.laterality else None
    view = str(image.record.view) if image.record.view else None
    with TemporaryDirectory() as scratch:
        path = Path(scratch, PurePosixPath(image.item.key).name)
        storage.fetch(image.place, image.item, path)
        clock = time.perf_counter()
        answer = client.predict(path, laterality=laterality, view=view)
        seconds = time.perf_counter() - clock
    write_json(
        target,
        {
            "endpoint": name,
            "film": path.name,
            "image_id": image.record.image_id,
            "split": str(image.record.split),
            "truth": str(image.record.label),
            "seconds": round(seconds, 3),
            "answer": dict(answer.raw),
        },
    )
    say(f"Endpoint {name} on the test image {path.name}: {describe(answer)}; truth: {image.record.label}")


def _client(endpoint: LocalEndpoint, storage: Storage) -> MammographyClient:
    """Return the client of a local endpoint."""
    if not endpoint.asynchronous:
        return MammographyClient(endpoint.name, endpoint_url=endpoint.url)
    return MammographyClient(
        endpoint.name,
        async_endpoint=endpoint.name,
        endpoint_url=endpoint.url,
        uploads=Uploads(endpoint.uploads),
        delivery=Delivery.ASYNC,
        storage=storage.client,
    )


def describe(answer: Answer) -> str:
    """Return an answer as one line."""
    chances = ", ".join(
        f"{label} {value:.2f}" for label, value in sorted(answer.probabilities.items(), key=lambda item: -item[1])
    )
    warnings = f" ({', '.join(warning.code for warning in answer.warnings)})" if answer.warnings else ""
    return chances + warnings + ("; refer to reader" if answer.referral.refer else "")
