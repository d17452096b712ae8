"""One request's work on the inference thread: bytes in, the answer's bytes out, and what the log may know of it."""

import base64
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from inference.errors import BadOptionError, from_image_error
from inference.explain import OUTSIDE_LIMIT, Evidence, grey_png, overlay, png, regions
from inference.media import AnswerType, pack_attributes
from inference.predictor import Prediction, Predictor
from inference.schema import Answer, Heatmap, ImageInfo, ModelInfo, QualityWarning
from inference.task import Reply as Reply
from inference.task import Task as Task
from processing.errors import ImageError
from processing.imaging import Mammogram, ReadConfig, read_mammogram
from processing.records import Label

T = TypeVar("T")


@dataclass
class _Clock:
    """Milliseconds by the name of the work."""

    spent: dict[str, float] = field(default_factory=dict)

    def time(self, name: str, work: Callable[[], T]) -> T:
        begun = time.perf_counter()
        result = work()
        self.spent[name] = round((time.perf_counter() - begun) * 1000, 2)
        return result


def answer(predictor: Predictor, task: Task, reading: ReadConfig) -> Reply:
    """Return the reply to a task; raises `RequestError` where the image or an option cannot be used."""
    clock = _Clock()
    try:
        mammogram = clock.time("read", lambda: _read(task, reading))
        prepared = clock.time("preprocess", lambda: predictor.prepare(mammogram))
    except ImageError as error:
        raise from_image_error(error) from None
    point = task.options.operating_point
    prediction = clock.time("infer", lambda: predictor.judge(mammogram, prepared, operating_point=point))
    seen = None
    if task.options.heatmap or task.form is AnswerType.OVERLAY:
        seen = clock.time("explain", lambda: predictor.explain(prepared, mammogram, task.options.target))
        prediction = _with_warning(prediction, seen)
    if task.form is AnswerType.OVERLAY and seen is not None:
        heat = seen.heat
        body = clock.time("encode", lambda: png(overlay(mammogram.pixels, heat)))
    else:
        heatmap = clock.time("encode", lambda: _heatmap(seen, task.options.target)) if seen is not None else None
        body = _json(task, mammogram, prediction, predictor.info, heatmap, clock.spent)
    return Reply(body, task.form, _attributes(task, prediction), _facts(mammogram, prediction, clock.spent))


def _read(task: Task, reading: ReadConfig) -> Mammogram:
    """Return the image with what the options add to it: they may not contradict the file, but they outdo a guess."""
    mammogram = read_mammogram(task.body, config=reading)
    if task.options.laterality is not None and mammogram.facts.get("laterality_inferred"):
        mammogram = replace(mammogram, laterality=None, facts={**mammogram.facts, "laterality_inferred": False})
    for name in ("laterality", "view"):
        told, read = getattr(task.options, name), getattr(mammogram, name)
        if told is not None and read is not None and told is not read:
            raise BadOptionError("contradiction", f"option {name}={told} contradicts the image's own {name}")
    return replace(mammogram, laterality=mammogram.laterality or task.options.laterality,
                   view=mammogram.view or task.options.view)


def _with_warning(prediction: Prediction, seen: Evidence) -> Prediction:
    if seen.outside <= OUTSIDE_LIMIT:
        return prediction
    warning = QualityWarning(code="evidence-outside-breast",
                             message=f"{seen.outside:.0%} of the heat lay outside of the tissue; do not rely on it")
    return replace(prediction, warnings=(*prediction.warnings, warning))


def _heatmap(seen: Evidence, target: Label) -> Heatmap:
    rows, columns = seen.heat.shape
    return Heatmap(target=target, rows=rows, columns=columns, regions=regions(seen.heat),
                   outside_share=round(seen.outside, 4), png=base64.b64encode(grey_png(seen.heat)).decode())


def _json(task: Task, mammogram: Mammogram, prediction: Prediction, model: ModelInfo, heatmap: Heatmap | None,
          spent: dict[str, float]) -> bytes:
    rows, columns = mammogram.pixels.shape
    image = ImageInfo(sha256=hashlib.sha256(task.body).hexdigest(), rows=rows, columns=columns,
                      laterality=mammogram.laterality, view=mammogram.view, quality=dict(prediction.prepared.quality))
    return Answer(
        request_id=task.request_id,
        model=model,
        image=image,
        probabilities=dict(prediction.probabilities),
        malignancy_score=prediction.malignancy_score,
        decision=prediction.decision,
        warnings=list(prediction.warnings),
        heatmap=heatmap,
        timings_ms=dict(spent),
    ).model_dump_json().encode()


def _attributes(task: Task, prediction: Prediction) -> str:
    values = {"request_id": task.request_id, "malignancy_score": f"{prediction.malignancy_score:.2f}"}
    if prediction.decision is not None:
        values |= {"operating_point": prediction.decision.operating_point, "finding": prediction.decision.finding}
    return pack_attributes(values)


def _facts(mammogram: Mammogram, prediction: Prediction, spent: dict[str, float]) -> dict[str, Any]:
    rows, columns = mammogram.pixels.shape
    return {
        "rows": rows,
        "columns": columns,
        "probabilities": {str(label): round(value, 6) for label, value in prediction.probabilities.items()},
        "finding": str(prediction.decision.finding) if prediction.decision else None,
        "warnings": [warning.code for warning in prediction.warnings],
        "ms": dict(spent),
    }
