"""Reads captured requests and answers (SageMaker data capture) as figures per image; keeps nothing else of them.

    <prefix>/<endpoint>/<variant>/yyyy/mm/dd/hh/<name>.jsonl      one request per line

An image's figures come from the JSON answer, which includes them (`quality`). If the answer is an overlay or a DICOM
result, they are measured again from the image. Machine and site come from `mammopipe.processing.dicom.header.origin`.
Source: "Data capture" (SageMaker Developer Guide), the format of a captured line.
"""

import base64
import binascii
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mammopipe.inference.contract.errors import RequestError
from mammopipe.inference.contract.schema import PrevalenceSource
from mammopipe.inference.monitoring.windows import PROGRESS, SUFFIX, Windows
from mammopipe.inference.payload.exam_body import ReceivedImage, unpack
from mammopipe.inference.payload.limits import HandlerLimits
from mammopipe.processing.breast.preprocess import PreprocessConfig, preprocess
from mammopipe.processing.dicom.header import origin
from mammopipe.processing.errors import ConfigError, ImageError
from mammopipe.processing.images.mammogram import read_mammogram
from mammopipe.processing.jobs.parallel import SECONDS_BETWEEN_LINES
from mammopipe.processing.read_config import ReadConfig
from mammopipe.training.model.drift_features import image_figures
from mammopipe.training.model.prevalence import adjusted


@dataclass(frozen=True)
class CapturedImage:
    """One image of a request."""

    figures: Mapping[str, float]
    """Values by the names of `mammopipe.training.model.drift_features`; without those that could not be measured."""
    machine: str = ""
    site: str = ""


@dataclass(frozen=True)
class CapturedExam:
    """One request: the images of one patient."""

    time: datetime
    images: tuple[CapturedImage, ...]


@dataclass
class Captures:
    """The captured requests of a folder."""

    folder: Path
    preprocess: PreprocessConfig
    """The model's preprocessing settings, used to measure figures that the answer does not include."""
    windows: Windows = Windows()
    """The windows whose captures are read."""
    prevalence: float | None = None
    """Proportion of malignant images in validation. Scores that a deployment shows for another prevalence are moved
    back to it, because the reference distributions hold for it; `None` leaves such scores out."""
    unreadable: Counter[str] = field(default_factory=Counter)
    """Number of lines without a readable image, by reason; filled while the exams are read."""

    def exams(self) -> Iterator[CapturedExam]:
        """Yield the captured requests, file by file in the order of their names.

        Raises:
            ConfigError: The folder has no captures.
        """
        files = sorted(map(str, self.folder.rglob(f"*{SUFFIX}")))
        if not files:
            raise ConfigError(f"{self.folder}: the folder has no *{SUFFIX} files, which data capture writes")
        for path in _with_progress(self.windows.needed(files)):
            # Read as bytes: a line that is not UTF-8 counts as unreadable and does not end the job.
            with open(path, "rb") as lines:
                for line in lines:
                    exam = self._exam(line)
                    if exam is not None:
                        yield exam

    def _exam(self, line: bytes) -> CapturedExam | None:
        try:
            captured = json.loads(line)
            data, stated = captured["captureData"], captured["eventMetadata"]["inferenceTime"]
            time = datetime.fromisoformat(stated.replace("Z", "+00:00")).astimezone(UTC)
            images = tuple(_with_origin(*pair) for pair in self._pairs(data))
        except (ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
            self.unreadable[f"not a captured request ({type(error).__name__})"] += 1
            return None
        except (RequestError, ImageError) as error:
            self.unreadable[f"an image that cannot be read ({type(error).__name__})"] += 1
            return None
        if not images:
            self.unreadable["neither an answer with figures nor an image"] += 1
            return None
        return CapturedExam(time, images)

    def _pairs(self, data: Mapping[str, Any]) -> Iterator[tuple[CapturedImage, ReceivedImage | None]]:
        answers = _answers(data.get("endpointOutput"))
        sources = _sources(data.get("endpointInput"))
        for index in range(max(len(answers), len(sources))):
            source = sources[index] if index < len(sources) else None
            figures = _answered(answers[index], self.prevalence) if index < len(answers) else {}
            # An answer as JSON has the figures; of an overlay or a DICOM result only the request's image has them.
            if "level_low" not in figures and source is not None:
                figures = {**self._measured(source), **figures}
            if figures:
                yield CapturedImage(figures), source

    def _measured(self, source: ReceivedImage) -> dict[str, float]:
        image = read_mammogram(source.data, config=ReadConfig(for_processing=self.preprocess.for_processing))
        image = replace(image, laterality=image.laterality or source.laterality, view=image.view or source.view)
        return image_figures(preprocess(image, self.preprocess).quality)


def _with_progress(files: Sequence[str]) -> Iterator[str]:
    """Yield the files, and regularly print to stderr how many have been read."""
    logged = time.monotonic()
    for number, path in enumerate(files):
        if time.monotonic() - logged >= SECONDS_BETWEEN_LINES:
            logged = time.monotonic()
            print(f"{PROGRESS}{number} of {len(files)} files read", file=sys.stderr, flush=True)
        yield path


def _content(captured: Mapping[str, Any] | None) -> bytes:
    if captured is None:
        return b""
    text = str(captured["data"])
    return base64.b64decode(text, validate=True) if captured.get("encoding") == "BASE64" else text.encode()


def _answers(captured: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Return the answer for each image; empty if the answer is an error or not JSON of this endpoint."""
    kind = str((captured or {}).get("observedContentType", ""))
    if captured is None or not kind.startswith("application/json"):
        return []
    answer = json.loads(_content(captured))
    images = answer.get("images", [answer])
    return [image for image in images if "image" in image]


def _answered(answer: Mapping[str, Any], prevalence: float | None) -> dict[str, float]:
    figures = {**image_figures(answer["image"]["quality"]), "entropy": float(answer["entropy"])}
    malignancy, shown = answer["malignancy_score"] / 100, answer.get("prevalence") or {}
    if shown.get("of") == PrevalenceSource.DEPLOYMENT:
        if prevalence is None or shown["value"] is None:
            return figures
        malignancy = adjusted(malignancy, prevalence=shown["value"], to=prevalence)
    return {**figures, "malignancy": malignancy}


def _sources(captured: Mapping[str, Any] | None) -> tuple[ReceivedImage, ...]:
    """Return the images of a request; empty if it was not captured or names images on S3, which are not fetched."""
    if captured is None:
        return ()
    try:
        return unpack(str(captured["observedContentType"]), _content(captured), HandlerLimits()).sources
    except RequestError:
        return ()


def _with_origin(image: CapturedImage, source: ReceivedImage | None) -> CapturedImage:
    if source is None:
        return image
    machine, site = origin(source.data, where="<captured>")
    return replace(image, machine=machine, site=site)
