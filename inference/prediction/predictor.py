"""From films to predictions: the preprocessing of training, the deployed network, calibration, thresholds, referral."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from mammopipe.inference.contract.exclusions import DEFAULT_POLICY, Exclusion, ExclusionPolicy
from mammopipe.inference.contract.schema import (
    Decision,
    ModelInfo,
    OperatingPoint,
    Prevalence,
    QualityWarning,
    Referral,
)
from mammopipe.inference.engines.base import EngineSettings, Forward
from mammopipe.inference.engines.factory import open_engine
from mammopipe.inference.prediction import referral, table
from mammopipe.inference.prediction.exam import Combined, ViewScore, combine_views, is_close, shown_for
from mammopipe.inference.prediction.heatmap import Evidence, evidence
from mammopipe.inference.prediction.thresholds import Thresholds
from mammopipe.processing.breast.preprocess import PreprocessConfig, Preprocessed, preprocess
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Laterality, View
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.image_flags import ImageFlag
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
    """Calibrated, by class, for the prevalence that answers are shown for; they sum to 1."""
    malignancy: float
    """Calibrated probability of malignant at validation's prevalence, 0 to 1: thresholds and breasts are made of it."""
    malignancy_score: float
    """100 times the probability of malignant."""
    decile: int | None
    """Of the score among those of the validation films, 1 to 10; `None` where the model has no reference."""
    entropy: float
    """Of the probabilities at validation's prevalence, in nats."""
    strangeness: float | None
    """How unlike the training images it is; `None` where the model has no reference."""
    decision: Decision | None
    """What the operating point says; `None` where the model has none."""
    referral: Referral
    """Whether a reader should judge, whatever the score says."""
    exclusions: tuple[Exclusion, ...]
    """Why the model is not for this image, although it was scored."""
    warnings: tuple[QualityWarning, ...]
    laterality: Laterality | None
    prepared: Preprocessed
    """The network's input and where in the film it came from."""
    forward: Forward
    """What the network made of it."""
    logits: Floats
    """(classes,), in the order of the model's classes."""

    @property
    def as_view(self) -> ViewScore:
        """What its breast is made of."""
        return ViewScore(self.laterality, self.malignancy, self.referral, self.logits)


@dataclass(frozen=True)
class ExamPrediction:
    """What the model says of the films of one patient."""

    images: tuple[Prediction, ...]
    """In the order that they were given."""
    combined: Combined
    """Breasts and exam."""


class Predictor:
    """A model directory, loaded and verified; not thread-safe, and fastest in the thread that made it."""

    def __init__(
        self,
        model_dir: Path,
        *,
        model_id: str = "",
        engine: EngineSettings | None = None,
        prevalence: float | None = None,
        exclusions: ExclusionPolicy = DEFAULT_POLICY,
    ) -> None:
        """Load the model.

        Args:
            model_dir: `model.json` and the files that it names.
            model_id: what answers name as the model; "": the architecture and the weights' digest.
            engine: what computes the network; `None`: what suits model and machine.
            prevalence: share of the women examined who have cancer, which probabilities are then shown for; `None`:
                they hold for the model's validation data.
            exclusions: what is done with images that the model is not for.

        Raises:
            ConfigError: a file is missing, altered or does not fit, or the model does not allow a prevalence.
        """
        description = read_description(model_dir)
        verify_files(model_dir, description)
        where = str(model_dir / DESCRIPTION_FILE)
        self._classes = _classes(description["classes"], where)
        self._thresholds = Thresholds.read(description, where, prevalence=prevalence)
        self._exclusions = exclusions
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

    def shown_for(self, level: Level) -> Prevalence:
        """Return which prevalence the probabilities of a level are shown for."""
        return shown_for(level, self._thresholds)

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

        Raises `ImageError` where there is no breast in an image or the exclusions refuse it, `ConfigError` for an exam
        without images.
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
        """Return what the model says of an image that has been prepared; `exact` computes in float32 at any cost.

        Raises `ExcludedImageError` where the exclusions refuse the image.
        """
        exclusions = self._exclusions.apply(_flags(mammogram, prepared))
        forward = self._engine.run(prepared.image, exact=exact)
        shares = self._calibration.probabilities(forward.logits[None])[0]
        malignant, entropy = float(shares[self._thresholds.malignant]), referral.entropy(map(float, shares))
        shown = self._thresholds.shift.classes(shares[None], malignant=self._thresholds.malignant)[0]
        probabilities = {label: float(share) for label, share in zip(self._classes, shown, strict=True)}
        decision = self._thresholds.decide(Level.IMAGE, malignant, operating_point)
        return Prediction(
            probabilities=probabilities,
            malignancy=malignant,
            malignancy_score=100 * probabilities[Label.MALIGNANT],
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
                exclusions=exclusions,
            ),
            exclusions=exclusions,
            warnings=self._warnings(mammogram, prepared, decision, exclusions),
            laterality=mammogram.laterality,
            prepared=prepared,
            forward=forward,
            logits=np.asarray(forward.logits, np.float64),
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
        self,
        mammogram: Mammogram,
        prepared: Preprocessed,
        decision: Decision | None,
        exclusions: Sequence[Exclusion],
    ) -> tuple[QualityWarning, ...]:
        excluded = {str(each.flag): each.reason for each in exclusions}
        codes = [code for code in prepared.quality["flags"] if code not in excluded]
        if mammogram.facts.get("laterality_inferred"):
            codes.append("laterality-inferred")
        if decision is None:
            codes.append("no-operating-point")
        if self._reference is None:
            codes.append("no-reference")
        texts = excluded | {code: WARNINGS[code] for code in codes}
        return tuple(QualityWarning(code=code, message=message) for code, message in texts.items())


def _flags(mammogram: Mammogram, prepared: Preprocessed) -> list[ImageFlag]:
    """Return the reader's flags, and those that the picture itself raises, as an implant does."""
    of_picture = [ImageFlag(code) for code in prepared.quality["flags"] if code in set(ImageFlag)]
    return list(dict.fromkeys((*mammogram.flags, *of_picture)))


def _classes(names: Sequence[str], where: str) -> tuple[Label, ...]:
    if not set(names) <= set(Label) or Label.MALIGNANT not in names or len(names) < 2:
        raise ConfigError(
            f"{where}: classes={list(names)} must be {', '.join(Label)}, malignant among them, to be served"
        )
    return tuple(map(Label, names))
