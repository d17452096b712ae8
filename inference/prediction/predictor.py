"""From films to predictions: the preprocessing of training, the deployed network, calibration, thresholds, referral."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from mammopipe.inference.contract.schema import Decision, ModelInfo, OperatingPoint, QualityWarning, Referral
from mammopipe.inference.engines.base import EngineSettings, Forward
from mammopipe.inference.engines.factory import open_engine
from mammopipe.inference.prediction import referral, table
from mammopipe.inference.prediction.exam import Combined, ViewScore, combine_views, is_close
from mammopipe.inference.prediction.heatmap import Evidence, evidence
from mammopipe.inference.prediction.thresholds import Thresholds
from mammopipe.processing.breast.preprocess import PreprocessConfig, Preprocessed, preprocess
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Laterality, View
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.images.mammogram import Mammogram
from mammopipe.processing.phantoms.mias_tree import make_film
from mammopipe.training.model.calibration import Calibration
from mammopipe.training.model.description import DESCRIPTION_FILE, read_description, verify_files
from mammopipe.training.model.exam_scores import Level
from mammopipe.training.model.predictions import Floats
from mammopipe.training.model.reference import Reference

if TYPE_CHECKING:
    import pandas as pd

WARNINGS: Mapping[str, str] = {
    "coverage-low": "the breast covers less of the image than usual; the segmentation may have lost some of it",
    "coverage-high": "the breast covers more of the image than usual; the segmentation may hold something else",
    "skin-cut-off": "the breast runs into the edge of the image opposite the chest wall; some of it is missing",
    "chest-side-unclear": "the picture does not show clearly that the chest wall lies on the side that was taken",
    "chest-side-against-laterality": "nothing of the breast touches the side that the laterality says",
    "pectoral-not-found": "no pectoral muscle was found in a view that normally shows it",
    "view-inferred": "neither the file nor the request says which view this is; it was taken from the picture",
    "view-unclear": "nothing says which view this is, and the picture does not show it for sure; no muscle was removed",
    "implant": "the breast holds an implant, which hides tissue",
    "laterality-inferred": "neither the file nor the request says which breast this is; it was taken from the picture",
    "no-operating-point": "the model has no such operating point; it gives a score but no decision",
    "no-reference": "the model does not know what is usual for it; only a poor segmentation refers to a reader",
}
"""What a warning means; the first nine are `mammopipe.processing.breast.quality.Flag`."""


@dataclass(frozen=True)
class Prediction:
    """What the model says of one film."""

    probabilities: Mapping[Label, float]
    """Calibrated, by class; they sum to 1."""
    malignancy_score: float
    """100 times the probability of malignant."""
    decile: int | None
    """Of the score among those of the validation films, 1 to 10; `None` where the model has no reference."""
    entropy: float
    """Of the probabilities, in nats."""
    strangeness: float | None
    """How unlike the training images it is; `None` where the model has no reference."""
    decision: Decision | None
    """What the operating point says; `None` where the model has none."""
    referral: Referral
    """Whether a reader should judge, whatever the score says."""
    warnings: tuple[QualityWarning, ...]
    laterality: Laterality | None
    prepared: Preprocessed
    """The network's input and where in the film it came from."""
    forward: Forward
    """What the network made of it."""
    logits: Floats
    """(classes,), in the order of `Label`."""

    @property
    def as_view(self) -> ViewScore:
        """What its breast is made of."""
        return ViewScore(self.laterality, self.probabilities[Label.MALIGNANT], self.referral, self.logits)


@dataclass(frozen=True)
class ExamPrediction:
    """What the model says of the films of one patient."""

    images: tuple[Prediction, ...]
    """In the order that they were given."""
    combined: Combined
    """Breasts and exam."""


class Predictor:
    """A model directory, loaded and verified; not thread-safe, and fastest in the thread that made it."""

    def __init__(self, model_dir: Path, *, model_id: str = "", engine: EngineSettings | None = None) -> None:
        """Load the model; `ConfigError` where a file is missing, altered or does not fit."""
        description = read_description(model_dir)
        verify_files(model_dir, description)
        where = str(model_dir / DESCRIPTION_FILE)
        self._classes = _classes(description["classes"], where)
        self._thresholds = Thresholds.read(description, where)
        self._preprocess = PreprocessConfig.from_json(description["preprocess"])
        self._calibration = Calibration.of(description)
        self._reference = Reference.read(model_dir, description)
        self._engine = open_engine(model_dir, description, engine or EngineSettings())
        digest, architecture = str(description["weights_sha256"]), str(description["architecture"])
        self.info = ModelInfo(
            id=model_id or f"{architecture}-{digest[:12]}",
            architecture=architecture,
            weights_sha256=digest,
            preprocess_digest=self._preprocess.digest,
        )

    @property
    def classes(self) -> tuple[Label, ...]:
        """The model's classes, in the order of its outputs."""
        return self._classes

    @property
    def engine(self) -> str:
        """What computes the network, and in which number format."""
        return f"{self._engine.name} {self._engine.precision}"

    @overload
    def predict(self, mammogram: Mammogram, *, operating_point: OperatingPoint = ...) -> Prediction: ...

    @overload
    def predict(self, mammogram: Sequence[Mammogram], *, operating_point: OperatingPoint = ...) -> ExamPrediction: ...

    def predict(
        self,
        mammogram: Mammogram | Sequence[Mammogram],
        *,
        operating_point: OperatingPoint = OperatingPoint.SENSITIVITY,
    ) -> Prediction | ExamPrediction:
        """Return what the model says of a film, or of an exam: the films of one patient.

        Raises `ImageError` where there is no breast in a film, `ConfigError` for an exam without films.
        """
        if isinstance(mammogram, Mammogram):
            return self.judge(mammogram, self.prepare(mammogram), operating_point=operating_point)
        if not mammogram:
            raise ConfigError("an exam needs at least one mammogram")
        prepared = [self.prepare(film) for film in mammogram]

        def judge(exact: bool) -> list[Prediction]:
            return [
                self.judge(film, view, operating_point=operating_point, exact=exact)
                for film, view in zip(mammogram, prepared, strict=True)
            ]

        images = judge(self.compares_breasts)
        combined = self.combine([image.as_view for image in images], operating_point)
        if self.is_close(combined):
            images = judge(True)
            combined = self.combine([image.as_view for image in images], operating_point)
        return ExamPrediction(tuple(images), combined)

    def predict_table(
        self,
        images: Iterable[Path | str],
        *,
        records: Iterable[ImageRecord | None] | None = None,
        operating_point: OperatingPoint = OperatingPoint.SENSITIVITY,
        explain: bool = False,
    ) -> "pd.DataFrame":
        """Return the predictions of many images, one row an image, in their order.

        Args:
            images: files, DICOM, PGM or PNG.
            records: what is known of each image besides its file, in the same order: side, view, spacing, ids.
            operating_point: the threshold that decides.
            explain: whether to add the strongest place of the heatmap for malignant.

        Returns:
            The columns of `prediction.table`. An image that cannot be judged is a row with `error`, "code: message",
            and without scores.
        """
        rows = self.predict_rows(images, records=records, operating_point=operating_point, explain=explain)
        return table.predict_table(self, rows)

    def predict_rows(
        self,
        images: Iterable[Path | str],
        *,
        records: Iterable[ImageRecord | None] | None = None,
        operating_point: OperatingPoint = OperatingPoint.SENSITIVITY,
        explain: bool = False,
    ) -> Iterator[dict[str, Any]]:
        """Yield the rows of `predict_table` one by one, for more images than fit into memory as a table."""
        return table.predict_rows(self, images, records=records, operating_point=operating_point, explain=explain)

    def combine(
        self, views: Sequence[ViewScore], operating_point: OperatingPoint, indices: Sequence[int] | None = None
    ) -> Combined:
        """Return breasts and exam of the views of one patient; `indices` name the views, from 0 where not given."""
        return combine_views(views, self._thresholds, operating_point, indices)

    def is_close(self, combined: Combined) -> bool:
        """Return whether the engine's rounding could tip a decision on several views: judge them again, exactly.

        Never of a model that compares breasts, whose exams are judged exactly from the first.
        """
        return not self.compares_breasts and is_close(combined, self._engine.margin)

    @property
    def compares_breasts(self) -> bool:
        """Whether the breasts of an exam are scored beside each other: then its views must be judged exactly.

        No bound on what rounding does to a view's score is one on what it does to a difference of two.
        """
        return self._thresholds.compared is not None

    def prepare(self, mammogram: Mammogram) -> Preprocessed:
        """Return the network's input, made exactly as for training; `ImageError` where there is no breast."""
        return preprocess(mammogram, self._preprocess)

    def judge(
        self, mammogram: Mammogram, prepared: Preprocessed, *, operating_point: OperatingPoint, exact: bool = False
    ) -> Prediction:
        """Return what the model says of a film that has been prepared; `exact` computes in float32 at any cost."""
        forward = self._engine.run(prepared.image, exact=exact)
        shares = self._calibration.probabilities(forward.logits[None])[0]
        probabilities = {label: float(share) for label, share in zip(self._classes, shares, strict=True)}
        malignant, entropy = probabilities[Label.MALIGNANT], referral.entropy(probabilities.values())
        decision = self._thresholds.decide(Level.IMAGE, malignant, operating_point)
        return Prediction(
            probabilities=probabilities,
            malignancy_score=100 * malignant,
            decile=self._reference.decile(malignant) if self._reference else None,
            entropy=entropy,
            strangeness=self._reference.strangeness(forward.features) if self._reference else None,
            decision=decision,
            referral=referral.judge(
                prepared.quality,
                side_known=mammogram.laterality is not None,
                entropy_nats=entropy,
                features=forward.features,
                reference=self._reference,
            ),
            warnings=self._warnings(mammogram, prepared, decision),
            laterality=mammogram.laterality,
            prepared=prepared,
            forward=forward,
            logits=np.array([forward.logits[self._classes.index(label)] for label in Label], np.float64),
        )

    def explain(self, prediction: Prediction, mammogram: Mammogram, target: Label) -> Evidence:
        """Return the evidence for `target` over the film that the prediction is of (class activation map)."""
        heat = self._engine.activation_map(prediction.prepared.image, prediction.forward, self._classes.index(target))
        return evidence(np.asarray(heat, np.float32), prediction.prepared, mammogram.pixels.shape)

    def warm_up(self) -> None:
        """Answer a synthetic film, with heatmap, so that the first caller waits for nothing but the answer."""
        film = make_film(0, label=Label.MALIGNANT, laterality=Laterality.LEFT, height=512, width=512)
        mammogram = Mammogram(film.pixels, Laterality.LEFT, View.MLO)
        self.explain(self.predict(mammogram), mammogram, Label.MALIGNANT)

    def _warnings(
        self, mammogram: Mammogram, prepared: Preprocessed, decision: Decision | None
    ) -> tuple[QualityWarning, ...]:
        codes = list(prepared.quality["flags"])
        if mammogram.facts.get("laterality_inferred"):
            codes.append("laterality-inferred")
        if decision is None:
            codes.append("no-operating-point")
        if self._reference is None:
            codes.append("no-reference")
        return tuple(QualityWarning(code=code, message=WARNINGS[code]) for code in codes)


def _classes(names: Sequence[str], where: str) -> tuple[Label, ...]:
    if set(names) != set(Label):
        raise ConfigError(f"{where}: classes={list(names)} must be {', '.join(Label)} to be served")
    return tuple(map(Label, names))
