"""Predictions of many images as rows of a table, one row per image; an unreadable image affects only its own row."""

from collections.abc import Iterable, Iterator
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mammopipe.inference.contract.errors import from_image_error
from mammopipe.inference.contract.request import OperatingPoint
from mammopipe.inference.prediction.heatmap import regions
from mammopipe.processing.datasets.manifest import ImageRecord, Label
from mammopipe.processing.dicom.file import is_dicom, parse
from mammopipe.processing.errors import CorruptImageError, ImageError
from mammopipe.processing.images.mammogram import Mammogram, read_mammogram
from mammopipe.processing.read_config import DEFAULT_CONFIG, ForProcessing, ReadConfig

if TYPE_CHECKING:
    import pandas as pd

PATIENT_ID = 0x00100020
BEFORE = ("path", "image_id", "patient_id", "laterality", "view")
AFTER = (
    *("malignancy", "entropy", "strangeness", "operating_point", "threshold", "finding", "flags"),
    *("referred", "referral_reasons", "warnings", "peak_x", "peak_y", "error"),
)
"""Columns before and after those of the probabilities (`probability_CLASS`)."""


class ImagePredictor(Protocol):
    """The interface of a predictor that the rows need."""

    @property
    def classes(self) -> tuple[Label, ...]:
        """The model's classes."""

    @property
    def for_processing(self) -> ForProcessing:
        """How training treated raw images (for processing)."""

    def predict(self, mammogram: Mammogram, *, operating_point: OperatingPoint) -> Any:
        """Return the prediction of one image."""

    def explain(self, prediction: Any, mammogram: Mammogram, target: Label) -> Any:
        """Return the evidence for a class over the image (`heatmap.Evidence`)."""


def columns(predictor: ImagePredictor) -> list[str]:
    """Return the column names of this model's prediction table, in order."""
    return [*BEFORE, *(f"probability_{label}" for label in predictor.classes), *AFTER]


def predict_rows(
    predictor: ImagePredictor,
    images: Iterable[Path | str],
    *,
    records: Iterable[ImageRecord | None] | None = None,
    operating_point: OperatingPoint = OperatingPoint.SENSITIVITY,
    explain: bool = False,
) -> Iterator[dict[str, Any]]:
    """Yield one row per image as soon as it is judged; the arguments are those of `Predictor.predict_table`."""
    # `repeat` never ends, so the lengths are compared only if there are records.
    for path, record in zip(
        map(Path, images), repeat(None) if records is None else records, strict=records is not None
    ):
        row: dict[str, Any] = dict.fromkeys(columns(predictor))
        row |= {"path": str(path), "image_id": record.image_id if record else path.stem, "error": ""}
        row["patient_id"] = record.patient_id if record else ""
        try:
            row |= _judged(predictor, path, record, operating_point, explain)
        except ImageError as error:
            refusal = from_image_error(error)
            # The image was read from bytes, so the reader's message names no file.
            row["error"] = f"{refusal.code}: {refusal.message}".replace("<bytes>", str(path))
        yield row


def predict_table(predictor: ImagePredictor, rows: Iterable[dict[str, Any]]) -> "pd.DataFrame":
    """Return the rows as a table with the model's columns, even if there are no rows."""
    # Imported here because the server imports this module without pandas.
    import pandas as pd

    return pd.DataFrame(list(rows), columns=columns(predictor))


def _judged(
    predictor: ImagePredictor, path: Path, record: ImageRecord | None, point: OperatingPoint, explain: bool
) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CorruptImageError(f"{path}: cannot be read: {error.strerror}") from None
    mammogram = read_mammogram(data, record=record, config=ReadConfig(for_processing=predictor.for_processing))
    prediction = predictor.predict(mammogram, operating_point=point)
    decision = prediction.decision
    return {
        **({} if record else {"patient_id": _patient(data)}),
        "laterality": mammogram.laterality and str(mammogram.laterality),
        "view": mammogram.view and str(mammogram.view),
        **{f"probability_{label}": value for label, value in prediction.probabilities.items()},
        "malignancy": prediction.malignancy_score / 100,
        "entropy": prediction.entropy,
        "strangeness": prediction.strangeness,
        "operating_point": str(point),
        "threshold": decision.threshold if decision else None,
        "finding": str(decision.finding) if decision else None,
        "flags": str(mammogram.facts.get("flags", "")),
        "referred": prediction.referral.refer,
        "referral_reasons": _joined(reason.code for reason in prediction.referral.reasons),
        "warnings": _joined(warning.code for warning in prediction.warnings),
        **(_peak(predictor, prediction, mammogram) if explain else {}),
    }


def _joined(codes: Iterable[str]) -> str:
    return ";".join(dict.fromkeys(map(str, codes)))


def _patient(data: bytes) -> str:
    if not is_dicom(data):
        return ""
    return parse(data, where="<bytes>", limits=DEFAULT_CONFIG.limits, tags=(PATIENT_ID,)).tags.text(PATIENT_ID)


def _peak(predictor: ImagePredictor, prediction: Any, mammogram: Mammogram) -> dict[str, int]:
    """Return the peak of the evidence for malignant, in pixels of the file; empty if there is no evidence."""
    found = regions(mammogram.turn.undo(predictor.explain(prediction, mammogram, Label.MALIGNANT).heat))
    return {"peak_x": found[0].peak_x, "peak_y": found[0].peak_y} if found else {}
