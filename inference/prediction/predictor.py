"""The predictor: preprocesses mammograms as in training, runs the network, calibrates, decides and refers."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from mammopipe.inference.contract.exclusions import DEFAULT_POLICY, ExclusionPolicy
from mammopipe.inference.contract.request import OperatingPoint
from mammopipe.inference.contract.schema import ModelInfo, Prevalence
from mammopipe.inference.engines.base import EngineSettings, Forward
from mammopipe.inference.engines.factory import open_engine
from mammopipe.inference.engines.flips import run_with_mirror_image
from mammopipe.inference.prediction import referral, table
from mammopipe.inference.prediction.exam import (
    BreastModel,
    Combined,
    LeftOut,
    ViewScore,
    combine_views,
    is_close,
    shown_for,
)
from mammopipe.inference.prediction.exam_prediction import ExamPrediction, predict_exam
from mammopipe.inference.prediction.heatmap import Evidence, evidence
from mammopipe.inference.prediction.image_prediction import Prediction
from mammopipe.inference.prediction.thresholds import Thresholds
from mammopipe.inference.prediction.warning_texts import warnings
from mammopipe.processing.breast.preprocess import PreprocessConfig, Preprocessed, preprocess
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Laterality, View
from mammopipe.processing.image_flags import ImageFlag
from mammopipe.processing.images.mammogram import Mammogram
from mammopipe.processing.phantoms.mias_tree import make_film
from mammopipe.processing.read_config import ForProcessing
from mammopipe.processing.variation import may_be_mirrored
from mammopipe.training.model.calibration import Calibration
from mammopipe.training.model.description import DESCRIPTION_FILE, read_description, verify_files
from mammopipe.training.model.exam_scores import Level
from mammopipe.training.model.near_threshold import NearThreshold
from mammopipe.training.model.reference import Reference
from mammopipe.training.model.views.attention import ViewAttention

if TYPE_CHECKING:
    import pandas as pd


class Predictor:
    """A loaded and verified model. It is not thread-safe, and runs fastest in the thread that created it."""

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
            model_dir: Folder with `model.json` and the files that it names.
            model_id: Id of the model in answers; empty uses the architecture and the weights' digest.
            engine: How the network is computed; `None` selects what suits the model and the machine.
            prevalence: Share of the women examined who have cancer, 0 to 1. Probabilities are shown for this
                prevalence; `None` shows them for the prevalence of the validation data.
            exclusions: Policy for images that the model is not intended for.

        Raises:
            ConfigError: A file is missing, altered or does not fit, or the model does not allow a prevalence.
        """
        description = read_description(model_dir)
        verify_files(model_dir, description)
        where = str(model_dir / DESCRIPTION_FILE)
        self._classes = tuple(map(Label, description["classes"]))
        self._thresholds = Thresholds.read(description, where, prevalence=prevalence)
        self._exclusions = exclusions
        self._preprocess = PreprocessConfig.from_json(description["preprocess"])
        self._calibration = Calibration.of(description)
        self._reference = Reference.read(model_dir, description)
        attention = ViewAttention.read(model_dir, description)
        self._breast_model = None if attention is None else BreastModel(attention, self._calibration)
        self._engine = open_engine(model_dir, description, engine or EngineSettings())
        self._flips = bool(description.get("test_flips", False))
        self._close = NearThreshold.of(description, self._engine.margin)
        digest, architecture = str(description["weights_sha256"]), str(description["architecture"])
        self.info = ModelInfo(
            id=model_id or f"{architecture}-{digest[:12]}",
            architecture=architecture,
            weights_sha256=digest,
            preprocess_digest=self._preprocess.digest,
        )

    @property
    def for_processing(self) -> ForProcessing:
        """How training treated raw images (for processing); every reader for this model must treat them alike."""
        return self._preprocess.for_processing

    @property
    def classes(self) -> tuple[Label, ...]:
        """The model's classes, in the order of its outputs."""
        return self._classes

    def shown_for(self, level: Level) -> Prevalence:
        """Return the prevalence that the probabilities of a level assume."""
        return shown_for(level, self._thresholds)

    @property
    def engine(self) -> str:
        """Name of the engine and its number format."""
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
        """Return the prediction for one mammogram, or for an exam.

        Args:
            mammogram: One mammogram, or a sequence of mammograms of one patient's study.
            operating_point: The threshold that decides.

        Returns:
            A `Prediction` for one mammogram, an `ExamPrediction` for a sequence. An image of a sequence that the
            exclusions leave out is in its `refused` and in no score; its breast and the exam are referred.

        Raises:
            ImageError: An image shows no breast or occurs twice, or the exclusions refuse it or leave out every image.
            ConfigError: The exam has no images.
        """
        if isinstance(mammogram, Mammogram):
            return self.judge(mammogram, self.prepare(mammogram), operating_point=operating_point)
        return predict_exam(self, mammogram, operating_point)

    def predict_table(
        self,
        images: Iterable[Path | str],
        *,
        records: Iterable[ImageRecord | None] | None = None,
        operating_point: OperatingPoint = OperatingPoint.SENSITIVITY,
        explain: bool = False,
    ) -> "pd.DataFrame":
        """Return the predictions of many images as a table with one row per image, in the given order.

        Args:
            images: DICOM, PGM or PNG files.
            records: Further facts about each image (laterality, view, spacing, ids), in the same order.
            operating_point: The threshold that decides.
            explain: Whether to add the peak of the heatmap for malignant.

        Returns:
            A table with the columns of `prediction.table`. The row of an image that cannot be judged has no scores; its
            `error` is "code: message".
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
        """Yield the rows of `predict_table` one by one, for tables that do not fit into memory."""
        return table.predict_rows(self, images, records=records, operating_point=operating_point, explain=explain)

    def combine(
        self,
        views: Sequence[ViewScore],
        operating_point: OperatingPoint,
        indices: Sequence[int] | None = None,
        left_out: Sequence[LeftOut] = (),
    ) -> Combined:
        """Return the answers for the breasts and the exam of one patient's views.

        Args:
            views: The views of one patient.
            operating_point: The threshold that decides.
            indices: Indices of the views in the request; `None` counts from 0.
            left_out: Views of the exam that were refused.
        """
        return combine_views(views, self._thresholds, operating_point, indices, left_out, self._breast_model)

    def is_close(self, combined: Combined) -> bool:
        """Return whether rounding could change a decision; never where exams are judged exactly from the start."""
        return not self.exams_are_exact and is_close(combined, self._engine.margin)

    @property
    def exams_are_exact(self) -> bool:
        """Whether the views of an exam are judged exactly from the start, in float32.

        A bound on the rounding error of a view's score is no bound on that of a score made of several views' logits.
        """
        return self._thresholds.compared is not None or self._breast_model is not None

    @property
    def level(self) -> Level:
        """What the model judges. A model that judges breasts takes a single image for a breast with one view."""
        return Level.IMAGE if self._breast_model is None else Level.BREAST

    def prepare(self, mammogram: Mammogram) -> Preprocessed:
        """Return the network's input, preprocessed exactly as in training.

        Raises:
            ImageError: The image shows no breast.
        """
        return preprocess(mammogram, self._preprocess)

    def judge(
        self, mammogram: Mammogram, prepared: Preprocessed, *, operating_point: OperatingPoint, exact: bool = False
    ) -> Prediction:
        """Return the prediction for a prepared image.

        Args:
            mammogram: The mammogram.
            prepared: The result of `prepare` for it.
            operating_point: The threshold that decides.
            exact: Whether to compute in float32, whatever the engine's precision.

        Raises:
            ExcludedImageError: The exclusions refuse the image.
        """
        # First, because a refused image needs no forward pass.
        exclusions = self._exclusions.apply(_flags(mammogram, prepared))
        forward = self._run(prepared.image, mammogram.view, exact=exact)
        shares = self._calibration.probabilities(forward.logits[None])[0]
        malignant, entropy = float(shares[self._thresholds.malignant]), referral.entropy(map(float, shares))
        # Decision, decile and entropy use validation's prevalence; only the probabilities of the answer are shifted.
        shown = self._thresholds.shift.classes(shares[None], malignant=self._thresholds.malignant)[0]
        probabilities = {label: float(share) for label, share in zip(self._classes, shown, strict=True)}
        decision = self._thresholds.decide(self.level, malignant, operating_point)
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
            warnings=warnings(mammogram, prepared, decision, exclusions, self._reference),
            laterality=mammogram.laterality,
            prepared=prepared,
            forward=forward,
            logits=np.asarray(forward.logits, np.float64),
        )

    def _run(self, image: NDArray[np.float32], view: View | None, *, exact: bool) -> Forward:
        if self._flips and may_be_mirrored(view):
            return run_with_mirror_image(self._engine, image, self._close, exact=exact)
        return self._engine.run(image, exact=exact)

    def explain(self, prediction: Prediction, mammogram: Mammogram, target: Label) -> Evidence:
        """Return the evidence for the class `target` over the image of a prediction (class activation map)."""
        heat = self._engine.activation_map(prediction.prepared.image, prediction.forward, self._classes.index(target))
        return evidence(np.asarray(heat, np.float32), prediction.prepared, mammogram.pixels.shape)

    def warm_up(self) -> None:
        """Answer a synthetic image with its heatmap, so that the first request is not slowed by initialisation."""
        image = make_film(0, label=Label.MALIGNANT, laterality=Laterality.LEFT, height=512, width=512)
        mammogram = Mammogram(image.pixels, Laterality.LEFT, View.MLO)
        self.explain(self.predict(mammogram), mammogram, Label.MALIGNANT)


def _flags(mammogram: Mammogram, prepared: Preprocessed) -> list[ImageFlag]:
    """Return the flags of the image reader, and those found in the pixels, such as an implant."""
    of_picture = [ImageFlag(code) for code in prepared.quality["flags"] if code in set(ImageFlag)]
    return list(dict.fromkeys((*mammogram.flags, *of_picture)))
