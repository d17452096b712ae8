"""`mammopipe invoke`: an image, or the images of an exam, to an endpoint; the answer as tables or JSON and as files."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from mammopipe.inference.client.client import Delivery, ExamImage, MammographyClient, Uploads
from mammopipe.processing.datasets.manifest import Laterality, View
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import write_bytes

CHOICES: Mapping[str, type[StrEnum]] = {"laterality": Laterality, "view": View}
"""What may be said of a file."""


@dataclass(frozen=True)
class Film:
    """One file, and what the caller says of it."""

    path: Path
    laterality: str | None
    view: str | None

    @property
    def image(self) -> ExamImage:
        """The file as a part of an exam."""
        return ExamImage(self.path, self.laterality, self.view)


def invoke(options: argparse.Namespace) -> int:
    """Ask the endpoint, show the answer and save what was asked for."""
    films, client = _films(options), _client(options)
    if len(films) == 1:
        _ask_image(films[0], client, options)
    else:
        _ask_exam(films, client, options)
    _save(films, client, options)
    return 0


def _ask_image(film: Film, client: MammographyClient, options: argparse.Namespace) -> None:
    answer = client.predict(
        film.path, laterality=film.laterality, view=film.view, heatmap=True, operating_point=options.operating_point
    )
    if options.json:
        print(json.dumps(answer.raw, indent=2))
        return
    from mammopipe.pipelines.commands.answer_table import image_table
    from mammopipe.pipelines.runs.progress import console

    console().print(image_table(answer, film.path.name))


def _ask_exam(films: Sequence[Film], client: MammographyClient, options: argparse.Namespace) -> None:
    answer = client.predict_exam([film.image for film in films], heatmap=True, operating_point=options.operating_point)
    if options.json:
        print(json.dumps(answer.raw, indent=2))
        return
    from mammopipe.pipelines.commands.answer_table import exam_tables
    from mammopipe.pipelines.runs.progress import console

    console().print(exam_tables(answer, [film.path.name for film in films]))


def _save(films: Sequence[Film], client: MammographyClient, options: argparse.Namespace) -> None:
    """Write each image's overlay and, where asked for, the DICOM results; JSON on stdout stays alone there."""
    for index, film in enumerate(films):
        stem = film.path.stem if len(films) == 1 else f"{index}-{film.path.stem}"
        said = {"laterality": film.laterality, "view": film.view}
        _write(options, f"{stem}-overlay.png", client.overlay(film.path, **said))
        if options.dicom:
            _write(options, f"{stem}-overlay.dcm", client.dicom_overlay(film.path, **said))
    if options.dicom:
        sources = films[0].path if len(films) == 1 else [film.image for film in films]
        report = client.dicom_report(sources, operating_point=options.operating_point)
        _write(options, f"{films[0].path.stem}-report.dcm", report)


def _write(options: argparse.Namespace, name: str, data: bytes) -> None:
    try:
        write_bytes(options.output / name, data)
    except OSError as error:
        raise ConfigError(f"{options.output / name}: {error.strerror}") from None
    if not options.json:
        print(f"saved {options.output / name}")


def _films(options: argparse.Namespace) -> list[Film]:
    count = len(options.files)
    sides, views = (_per_file(getattr(options, name), name, count) for name in ("laterality", "view"))
    return [Film(*film) for film in zip(options.files, sides, views, strict=True)]


def _per_file(given: str | None, name: str, count: int) -> list[str | None]:
    """Return what was given of each file: one word for all, or one for each, where an empty one says nothing."""
    words: list[str | None] = [word.strip() or None for word in given.split(",")] if given is not None else [None]
    if len(words) not in (1, count):
        raise ConfigError(f"--{name} {given}: {len(words)} words for {count} files; give one, or one for each")
    choices = [str(choice) for choice in CHOICES[name]]
    for word in filter(None, words):
        if word not in choices:
            raise ConfigError(f"--{name} {given}: {word!r} is none of {', '.join(choices)}")
    return words * count if len(words) == 1 else words


def _client(options: argparse.Namespace) -> MammographyClient:
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
