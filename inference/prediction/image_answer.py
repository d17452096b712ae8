"""Answers one image of a request: reads, prepares, judges and explains it, and times each step."""

import base64
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mammopipe.inference.contract.errors import BadOptionError, ExcludedViewError, from_image_error
from mammopipe.inference.contract.request import RequestOptions
from mammopipe.inference.contract.schema import Heatmap, ImageExclusion, ImageInfo, Prevalence, QualityWarning
from mammopipe.inference.payload.exam_body import ReceivedImage
from mammopipe.inference.prediction.heatmap import OUTSIDE_LIMIT, Evidence, grey_png, regions
from mammopipe.inference.prediction.image_prediction import Prediction
from mammopipe.inference.prediction.predictor import Predictor
from mammopipe.processing.datasets.manifest import Label
from mammopipe.processing.errors import ImageError
from mammopipe.processing.images.mammogram import Mammogram, ReadConfig, read_mammogram

T = TypeVar("T")


@dataclass
class Clock:
    """Milliseconds per step, summed over the images of an exam."""

    spent: dict[str, float] = field(default_factory=dict)

    def time(self, name: str, work: Callable[[], T]) -> T:
        """Return the result of `work` and add its duration to the step `name`."""
        begun = time.perf_counter()
        result = work()
        self.spent[name] = round(self.spent.get(name, 0.0) + (time.perf_counter() - begun) * 1000, 2)
        return result


@dataclass(frozen=True)
class JudgedImage:
    """One image with its prediction."""

    source: ReceivedImage
    mammogram: Mammogram
    prediction: Prediction
    evidence: Evidence | None
    """Evidence over the pixels in the file's orientation; `None` if the request did not ask for it."""
    prevalence: Prevalence
    """Prevalence that the probabilities assume."""

    @property
    def pixels(self) -> NDArray[np.uint16]:
        """The pixels in the file's orientation, as viewers show them; the model may see the image turned."""
        return self.mammogram.turn.undo(self.mammogram.pixels)

    @property
    def info(self) -> ImageInfo:
        """Facts about the image for the answer."""
        shape = self.mammogram.pixels.shape
        rows, columns = reversed(shape) if self.mammogram.turn.transposed else shape
        return ImageInfo(
            sha256=self.source.sha256,
            rows=rows,
            columns=columns,
            laterality=self.mammogram.laterality,
            view=self.mammogram.view,
            quality=dict(self.prediction.prepared.quality),
        )

    def scores(self, heatmap: Heatmap | None) -> dict[str, Any]:
        """Return the fields that `Answer` and `ImageAnswer` share."""
        predicted = self.prediction
        return {
            "image": self.info,
            "probabilities": dict(predicted.probabilities),
            "malignancy_score": predicted.malignancy_score,
            "decile": predicted.decile,
            "entropy": predicted.entropy,
            "decision": predicted.decision,
            "referral": predicted.referral,
            "flags": list(self.mammogram.flags),
            "exclusions": [
                ImageExclusion(flag=each.flag, action=each.action, attribute=each.where, message=each.reason)
                for each in predicted.exclusions
            ],
            "prevalence": self.prevalence,
            "warnings": list(predicted.warnings),
            "heatmap": heatmap,
        }

    def heatmap(self, target: Label) -> Heatmap | None:
        """Return the heatmap for an answer; `None` if there is no evidence."""
        if self.evidence is None:
            return None
        rows, columns = self.evidence.heat.shape
        return Heatmap(
            target=target,
            rows=rows,
            columns=columns,
            regions=regions(self.evidence.heat),
            outside_share=round(self.evidence.outside, 4),
            png=base64.b64encode(grey_png(self.evidence.heat)).decode(),
        )


@dataclass(frozen=True)
class RequestContext:
    """The model, the image reader's settings, the options of a request and its clock."""

    predictor: Predictor
    reading: ReadConfig
    options: RequestOptions
    clock: Clock

    def image(self, source: ReceivedImage, *, explain: bool, exact: bool = False) -> JudgedImage:
        """Return an image with its prediction; raises `RequestError` if the image cannot be used."""
        laterality = None
        try:
            mammogram = self.clock.time("read", lambda: _read(source, self.reading))
            laterality = mammogram.laterality
            prepared = self.clock.time("preprocess", lambda: self.predictor.prepare(mammogram))
            # The forward pass leaves Python's lock free, so the digest is computed beside it (`Digest.start`).
            if source.digest is not None:
                source.digest.start()
            prediction = self.clock.time(
                "infer",
                lambda: self.predictor.judge(
                    mammogram, prepared, operating_point=self.options.operating_point, exact=exact
                ),
            )
        except ImageError as error:
            refusal = from_image_error(error)
            if isinstance(refusal, ExcludedViewError):
                refusal.laterality = laterality
            raise refusal from None
        evidence = None
        if explain:
            judged, target = prediction, self.options.target
            evidence = self.clock.time("explain", lambda: self.predictor.explain(judged, mammogram, target))
            prediction = _with_warning(prediction, evidence)
            evidence = replace(evidence, heat=mammogram.turn.undo(evidence.heat))
        return JudgedImage(source, mammogram, prediction, evidence, self.predictor.shown_for(self.predictor.level))


def _read(source: ReceivedImage, reading: ReadConfig) -> Mammogram:
    """Return the image with the request's laterality and view.

    They may not contradict the file, but they override a laterality inferred from the pixels.
    """
    mammogram = read_mammogram(source.data, config=reading)
    if source.laterality is not None and mammogram.facts.get("laterality_inferred"):
        mammogram = replace(mammogram, laterality=None, facts={**mammogram.facts, "laterality_inferred": False})
    for name in ("laterality", "view"):
        given, read = getattr(source, name), getattr(mammogram, name)
        if given is not None and read is not None and given is not read:
            raise BadOptionError("contradiction", f"option {name}={given} contradicts the image's own {name}")
    return replace(mammogram, laterality=mammogram.laterality or source.laterality, view=mammogram.view or source.view)


def _with_warning(prediction: Prediction, evidence: Evidence) -> Prediction:
    if evidence.outside <= OUTSIDE_LIMIT:
        return prediction
    warning = QualityWarning(
        code="evidence-outside-breast",
        message=f"{evidence.outside:.0%} of the heat is outside the tissue; do not rely on it",
    )
    return replace(prediction, warnings=(*prediction.warnings, warning))
