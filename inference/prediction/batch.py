"""Predicts many images without a server, in worker processes: one row per image, breast and patient.

Importing this module loads neither a network nor an image reader; the workers load them.
"""

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mammopipe.processing.datasets.manifest import ImageRecord
from mammopipe.processing.errors import ImageError, MammopipeError, NotAMammogramError

if TYPE_CHECKING:
    from mammopipe.inference.prediction.exam_prediction import ExamPrediction
    from mammopipe.inference.prediction.predictor import Predictor

EXAM_COLUMNS = (
    "path",
    "patient_id",
    "level",
    "laterality",
    "images",
    "malignancy",
    "probability",
    "finding",
    "threshold",
    "referred",
    "refused",
    "error",
)
"""`malignancy` is the score, which decides; `probability` is calibrated, and empty where the model cannot give it.
`images` counts the judged images. `refused` has the codes of images of the exam that are in no score."""

_PREDICTOR = "mammopipe.inference.prediction.predictor"
"""The fork server imports it once for all workers."""
_EXAM_TAGS = (0x00100020, 0x0020000D)
"""Patient ID and Study Instance UID."""


@dataclass(frozen=True)
class Batch:
    """The settings of a batch prediction."""

    model: Path
    """The model directory."""
    operating_point: str = "sensitivity"
    heatmaps: Path | None = None
    """Folder for the overlays; `None` writes none."""
    exams: bool = False
    """Whether to add rows for breasts and patients."""
    threads: int = 1
    """Threads of one worker's forward pass."""


@dataclass(frozen=True)
class Image:
    """One image file, with its record from a label table."""

    path: Path
    record: ImageRecord | None = None


@dataclass(frozen=True)
class Rows:
    """The rows of one group of images."""

    images: list[dict[str, Any]]
    exams: list[dict[str, Any]]


_worker: "tuple[Batch, Predictor] | None" = None
"""Settings and predictor of this worker process."""


def predict_groups(batch: Batch, groups: Sequence[Sequence[Image]], *, processes: int) -> Iterator[Rows]:
    """Yield the rows of each group of images as they are judged, in the order of the groups.

    Args:
        batch: The settings.
        groups: Images that belong together: those of one patient if exams are wanted, otherwise one image per group.
        processes: Number of worker processes; 1 works in this process.

    Raises:
        ConfigError: The model cannot be used.
    """
    if not groups:
        return
    if processes == 1 or len(groups) == 1:
        _start(batch)
        yield from map(_judge, groups)
        return
    # The fork server has no threads. A fork of this process could copy a lock that is never released.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_PREDICTOR])
    with ProcessPoolExecutor(min(processes, len(groups)), context, _start, (batch,)) as pool:
        # Larger chunks need fewer messages; several chunks per process keep all processes busy until the end.
        chunk = max(1, min(8, len(groups) // (4 * processes)))
        yield from pool.map(_judge, groups, chunksize=chunk)


def by_exam(images: Sequence[Image]) -> list[list[Image]]:
    """Return the images grouped by patient and study, in the order of each group's first image.

    The patient in the table takes precedence over the one in the file. An image without a patient is its own group.
    """
    groups: dict[tuple[str, ...], list[Image]] = {}
    for image in images:
        groups.setdefault(_exam_of(image) or (str(image.path),), []).append(image)
    return list(groups.values())


def _exam_of(image: Image) -> tuple[str, ...] | None:
    from mammopipe.processing.dicom.file import is_dicom, parse
    from mammopipe.processing.read_config import DEFAULT_CONFIG

    if image.record is not None and image.record.patient_id:
        return "table", image.record.patient_id
    try:
        data = image.path.read_bytes()
        if not is_dicom(data):
            return None
        tags = parse(data, where=str(image.path), limits=DEFAULT_CONFIG.limits, tags=_EXAM_TAGS).tags
    except (OSError, ImageError):
        return None  # the image's own row reports the error
    patient, study = (tags.text(tag) for tag in _EXAM_TAGS)
    return ("file", patient, study) if patient else None


def model_columns(batch: Batch) -> tuple[str, list[str]]:
    """Return the model's id and the columns of its image rows; raises `ConfigError` if the model cannot be used."""
    from mammopipe.inference.prediction.table import columns

    _start(batch)
    assert _worker is not None
    return _worker[1].info.id, columns(_worker[1])


def _start(batch: Batch) -> None:
    from mammopipe.inference.engines.base import EngineSettings
    from mammopipe.inference.prediction.predictor import Predictor

    global _worker
    if _worker is None or _worker[0] != batch:
        _worker = batch, Predictor(batch.model, engine=EngineSettings(threads=batch.threads))


def _judge(group: Sequence[Image]) -> Rows:
    from mammopipe.inference.contract.request import OperatingPoint

    assert _worker is not None
    batch, predictor = _worker
    point = OperatingPoint(batch.operating_point)
    paths, records = [image.path for image in group], [image.record for image in group]
    rows = list(
        predictor.predict_rows(paths, records=records, operating_point=point, explain=batch.heatmaps is not None)
    )
    if batch.heatmaps is not None:
        for image, row in zip(group, rows, strict=True):
            if not row["error"]:
                _draw(predictor, image, batch.heatmaps)
    return Rows(rows, _exam(predictor, group, rows, point) if batch.exams else [])


def _draw(predictor: "Predictor", image: Image, folder: Path) -> None:
    from mammopipe.inference.prediction.heatmap import overlay, png
    from mammopipe.processing.datasets.manifest import Label
    from mammopipe.processing.files import write_bytes
    from mammopipe.processing.images.mammogram import ReadConfig, read_mammogram

    config = ReadConfig(for_processing=predictor.for_processing)
    mammogram = read_mammogram(image.path, record=image.record, config=config)
    evidence = predictor.explain(predictor.predict(mammogram), mammogram, Label.MALIGNANT)
    name = image.record.image_id if image.record else image.path.stem
    write_bytes(folder / f"{name}.png", png(overlay(mammogram.pixels, evidence.heat)))


def _exam(
    predictor: "Predictor", group: Sequence[Image], rows: Sequence[dict[str, Any]], point: Any
) -> list[dict[str, Any]]:
    """Return one row for each breast of the patient and one row for the patient, by the rules of the endpoint's exams.

    If the exam is refused, its only row is the patient's, with the reason.
    """
    from mammopipe.inference.contract.errors import RequestError
    from mammopipe.inference.prediction.exam import unseen_breasts

    patient = next((str(row["patient_id"]) for row in rows if row["patient_id"]), "")
    # The first image names the group: a patient may have several studies.
    common: dict[str, Any] = dict.fromkeys(EXAM_COLUMNS, "") | {"path": rows[0]["path"], "patient_id": patient}
    if not patient:
        reason = "no patient id: the views of one patient cannot be recognised"
        return [common | {"level": "patient", "images": 0, "error": reason}]
    try:
        found, refused = _predicted(predictor, group, point)
    except (MammopipeError, RequestError, OSError) as error:
        return [common | {"level": "patient", "images": 0, "error": str(error)}]
    combined, codes = found.combined, ";".join(refused)
    breasts = [
        common | _verdict(breast) | {"level": "breast", "laterality": str(breast.laterality or ""),
                                     "images": len(breast.images)}
        for breast in combined.breasts
    ]  # fmt: skip
    # As at the endpoint: an image that is no whole-breast view may be all that the exam shows of a breast.
    unseen = bool(refused) and bool(unseen_breasts(breast.laterality for breast in combined.breasts))
    of_patient = {
        "level": "patient",
        "images": len(found.images),
        "refused": codes,
        "referred": unseen or combined.exam.referral.refer,
    }
    return [*breasts, common | _verdict(combined.exam) | of_patient]


def _predicted(predictor: "Predictor", group: Sequence[Image], point: Any) -> "tuple[ExamPrediction, list[str]]":
    """Return the prediction of an exam, and the codes of its images that are in no score.

    Raises:
        RequestError: Files state different patients or studies, or an instance occurs twice.
        ImageError: An image is damaged or refuses the exam, or none is left.
    """
    from mammopipe.inference.contract.errors import from_image_error
    from mammopipe.inference.payload.exam_body import ReceivedImage
    from mammopipe.inference.payload.identity import check_exam
    from mammopipe.processing.images.mammogram import ReadConfig, read_mammogram

    config = ReadConfig(for_processing=predictor.for_processing)
    if all(image.record is None for image in group):
        sources = [ReceivedImage(image.path.read_bytes(), index=index) for index, image in enumerate(group)]
        check_exam(sources, config.limits)
    views, refused, reason = [], [], None
    for image in group:
        try:
            views.append(read_mammogram(image.path, record=image.record, config=config))
        except NotAMammogramError as error:
            reason = error
            refused.append(from_image_error(error).code)
    if not views:
        raise reason or NotAMammogramError(f"{group[0].path}: the exam has no image")
    found = predictor.predict(views, operating_point=point)
    return found, [*refused, *(from_image_error(each.error).code for each in found.refused)]


def _verdict(level: Any) -> dict[str, Any]:
    decision = level.decision
    return {
        "malignancy": level.malignancy_score / 100,
        "probability": "" if level.probability is None else level.probability,
        "finding": str(decision.finding) if decision else "",
        "threshold": decision.threshold if decision else "",
        "referred": level.referral.refer,
    }
