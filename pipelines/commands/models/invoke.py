"""`mammopipe invoke`: sends an image or an exam to an endpoint; shows the answer and saves files.

With `--dicomweb`, the exam is a study on a DICOMweb server, and `--store` stores the DICOM results there.
The command needs only the base install. Tables need rich; without it the answer is printed as JSON.
"""

import argparse
import io
import json
import os
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from mammopipe.pipelines.commands.arguments import Subparsers, command, in_runs
from mammopipe.processing.datasets.manifest import Laterality, View
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import write_bytes

if TYPE_CHECKING:
    from mammopipe.inference.client.answers import Answer
    from mammopipe.inference.client.client import ExamAnswer, ExamImage, MammographyClient

CHOICES: Mapping[str, type[StrEnum]] = {"laterality": Laterality, "view": View}
"""The properties of a file that the caller may give."""
TOKEN_VARIABLE = "MAMMOPIPE_DICOMWEB_TOKEN"
"""Environment variable with a bearer token for the DICOMweb server; any process could read an argument."""


@dataclass(frozen=True)
class SentImage:
    """One file, with the properties that the caller gives."""

    path: Path
    laterality: str | None
    view: str | None

    @property
    def image(self) -> "ExamImage":
        """The file as an image of an exam."""
        from mammopipe.inference.client.client import ExamImage

        return ExamImage(self.path, self.laterality, self.view)


def add(subparsers: Subparsers) -> None:
    """Add the parser of `invoke`."""
    parser = command(
        subparsers,
        "invoke",
        "send one image, or the images of one exam, to an endpoint",
        "invoke lcc.dcm lmlo.dcm --endpoint http://127.0.0.1:8080 --output answers",
    )
    parser.add_argument("files", type=Path, nargs="*", metavar="FILE", help="PGM, PNG or DICOM; several are one exam")
    parser.add_argument("--dicomweb", metavar="URL", help="send a study of this DICOMweb server instead of files")
    parser.add_argument("--study", metavar="UID", help="with --dicomweb: Study Instance UID")
    parser.add_argument("--store", action="store_true", help="with --dicomweb: store all DICOM results in the study")
    parser.add_argument(
        "--endpoint", metavar="NAME|URL", help="the endpoint (default: the one that the run of --id keeps)"
    )
    parser.add_argument("--id", default="latest", metavar="ID", help="the run whose endpoint is used (default: latest)")
    per_file = "for files that do not state it: one value for all, or one for each, such as {}; an empty value: none"
    parser.add_argument("--laterality", metavar="L|R[,...]", help=per_file.format("L,L,R,R"))
    parser.add_argument("--view", metavar="CC|MLO[,...]", help=per_file.format("CC,MLO,CC,MLO"))
    parser.add_argument(
        "--operating-point",
        choices=["sensitivity", "specificity"],
        help="the threshold that decides (default: sensitivity)",
    )
    parser.add_argument("--json", action="store_true", help="print the answer's JSON instead of tables")
    parser.add_argument(
        "--output", type=Path, default=Path(), metavar="FOLDER", help="folder for the overlays (default: this folder)"
    )
    parser.add_argument(
        "--dicom",
        action="store_true",
        help="also save a structured report and each overlay as DICOM; needs DICOM files",
    )
    _add_asynchronous(parser)
    in_runs(parser)
    parser.set_defaults(command=invoke)


def _add_asynchronous(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--uploads",
        metavar="s3://...",
        help="S3 folder for requests above the limit of a real-time call (25 MB), which are sent to the async endpoint",
    )
    parser.add_argument(
        "--async-endpoint", metavar="NAME", help="name of the async endpoint (default: the endpoint's, with -async)"
    )
    parser.add_argument(
        "--async", action="store_true", dest="asynchronous", help="send the request async, whatever its size"
    )


def invoke(options: argparse.Namespace) -> int:
    """Send the images to the endpoint, show the answer and save the requested files."""
    _check_source(options)
    if options.dicomweb is not None:
        return _ask_study(_client(options), options)
    images, client = _sent_images(options), _client(options)
    if len(images) == 1:
        _ask_image(images[0], client, options)
    else:
        _ask_exam(images, client, options)
    _save(images, client, options)
    return 0


def _ask_image(image: SentImage, client: "MammographyClient", options: argparse.Namespace) -> None:
    answer = client.predict(
        image.path, laterality=image.laterality, view=image.view, heatmap=True, operating_point=options.operating_point
    )
    _show(answer, [image.path.name], as_json=options.json)


def _ask_exam(images: Sequence[SentImage], client: "MammographyClient", options: argparse.Namespace) -> None:
    answer = client.predict_exam(
        [mammogram.image for mammogram in images], heatmap=True, operating_point=options.operating_point
    )
    _show(answer, [mammogram.path.name for mammogram in images], as_json=options.json)


def _check_source(options: argparse.Namespace) -> None:
    """Refuse file arguments together with a study."""
    if options.dicomweb is None:
        if options.study is not None or options.store:
            raise ConfigError("--study and --store need --dicomweb URL")
        if not options.files:
            raise ConfigError("invoke needs FILEs, or --dicomweb URL and --study UID")
        return
    if options.study is None:
        raise ConfigError("--dicomweb needs --study UID")
    for name in ("files", "laterality", "view", "dicom"):
        if getattr(options, name):
            given = "FILEs" if name == "files" else f"--{name}"
            raise ConfigError(f"{given} cannot be given with --dicomweb: the study's own files state it")


def _ask_study(client: "MammographyClient", options: argparse.Namespace) -> int:
    """Send the mammograms of a study to the endpoint, and store the DICOM results if requested."""
    from mammopipe.inference.client.client import ExamAnswer
    from mammopipe.inference.client.dicomweb import DicomWeb, result_files

    token = os.environ.get(TOKEN_VARIABLE)
    pacs = DicomWeb(options.dicomweb, headers={"Authorization": f"Bearer {token}"} if token else None)
    images = pacs.mammograms(options.study)
    names = [f"of {len(images)}"] * len(images)
    if not options.store:
        answer = client.predict_exam(images, heatmap=True, operating_point=options.operating_point)
        _show(answer, names, as_json=options.json)
        return 0
    archive = client.dicom_results(images, operating_point=options.operating_point)
    results = result_files(archive)
    pacs.store(results, options.study)
    with zipfile.ZipFile(io.BytesIO(archive)) as members:
        answer = ExamAnswer.from_json(json.loads(members.read("answer.json")))
        if "cad-report.json" in members.namelist():
            print(f"no CAD report: {json.loads(members.read('cad-report.json'))['error']['message']}", file=sys.stderr)
    _show(answer, names, as_json=options.json)
    print(f"stored {len(results)} results in the study", file=sys.stderr if options.json else sys.stdout)
    return 0


def _show(answer: "Answer | ExamAnswer", names: Sequence[str], *, as_json: bool) -> None:
    """Print an answer as tables, or as JSON if requested or if rich is not installed."""
    from mammopipe.inference.client.answers import Answer

    if not as_json:
        try:
            from mammopipe.pipelines.commands.models.answer_table import exam_tables, image_table
            from mammopipe.pipelines.runs.progress import console
        except ModuleNotFoundError as error:
            note = f"tables need {error.name} (pip install 'mammopipe[pipelines]'); the answer as JSON:"
            print(note, file=sys.stderr)
        else:
            console().print(image_table(answer, names[0]) if isinstance(answer, Answer) else exam_tables(answer, names))
            return
    print(json.dumps(answer.raw, indent=2))


def _save(images: Sequence[SentImage], client: "MammographyClient", options: argparse.Namespace) -> None:
    """Write each image's overlay and, if requested, the DICOM results; with `--json`, print nothing more."""
    for index, mammogram in enumerate(images):
        stem = mammogram.path.stem if len(images) == 1 else f"{index}-{mammogram.path.stem}"
        given = {"laterality": mammogram.laterality, "view": mammogram.view}
        _write(options, f"{stem}-overlay.png", client.overlay(mammogram.path, **given))
        if options.dicom:
            _write(options, f"{stem}-overlay.dcm", client.dicom_overlay(mammogram.path, **given))
    if options.dicom:
        sources = images[0].path if len(images) == 1 else [mammogram.image for mammogram in images]
        report = client.dicom_report(sources, operating_point=options.operating_point)
        _write(options, f"{images[0].path.stem}-report.dcm", report)


def _write(options: argparse.Namespace, name: str, data: bytes) -> None:
    try:
        write_bytes(options.output / name, data)
    except OSError as error:
        raise ConfigError(f"{options.output / name}: {error.strerror}") from None
    if not options.json:
        print(f"saved {options.output / name}")


def _sent_images(options: argparse.Namespace) -> list[SentImage]:
    count = len(options.files)
    sides, views = (_per_file(getattr(options, name), name, count) for name in ("laterality", "view"))
    return [SentImage(*image) for image in zip(options.files, sides, views, strict=True)]


def _per_file(given: str | None, name: str, count: int) -> list[str | None]:
    """Return the value for each file: one value applies to all, and an empty value means unspecified."""
    words: list[str | None] = [word.strip() or None for word in given.split(",")] if given is not None else [None]
    if len(words) not in (1, count):
        raise ConfigError(f"--{name} {given}: {len(words)} values for {count} files; give one, or one for each file")
    choices = [str(choice) for choice in CHOICES[name]]
    for word in filter(None, words):
        if word not in choices:
            raise ConfigError(f"--{name} {given}: {word!r} is none of {', '.join(choices)}")
    return words * count if len(words) == 1 else words


def _client(options: argparse.Namespace) -> "MammographyClient":
    from mammopipe.inference.client.client import Delivery, MammographyClient, Uploads
    from mammopipe.pipelines.backends.local_endpoint import read_kept, read_kept_async
    from mammopipe.pipelines.runs.folder import find_run

    uploads = Uploads(options.uploads) if options.uploads else None
    delivery = Delivery.ASYNC if options.asynchronous else Delivery.BY_SIZE
    name: str | None = options.endpoint
    if name is not None:
        url = name if name.startswith(("http://", "https://")) else None
        return MammographyClient(
            "mammopipe" if url else name,
            endpoint_url=url,
            uploads=uploads,
            delivery=delivery,
            async_endpoint=options.async_endpoint,
        )
    folder = find_run(options.runs, options.id).path
    kept, queue = read_kept(folder), read_kept_async(folder)
    if queue is None:
        return MammographyClient(str(kept["name"]), endpoint_url=str(kept["url"]), uploads=uploads, delivery=delivery)
    return MammographyClient(
        str(kept["name"]),
        endpoint_url=str(kept["url"]),
        async_endpoint=str(queue["name"]),
        async_endpoint_url=str(queue["url"]),
        uploads=uploads or Uploads(str(queue["uploads"])),
        delivery=Delivery.ASYNC if kept == queue else delivery,
    )
