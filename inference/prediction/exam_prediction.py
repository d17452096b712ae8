"""Predicts an exam from mammograms that are already read, by the rules of the endpoint's exams.

An image that the exclusions leave out is in no score; the result names it and refers its breast and the exam to a
reader. An image that the exclusions refuse, or an exposure that occurs twice, refuses the whole exam.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mammopipe.inference.contract.exclusions import Action, ExcludedImageError
from mammopipe.inference.contract.request import OperatingPoint
from mammopipe.inference.prediction.exam import Combined, LeftOut, ViewScore, left_out
from mammopipe.inference.prediction.image_prediction import Prediction
from mammopipe.inference.prediction.same_exposure import Exposures
from mammopipe.processing.breast.preprocess import Preprocessed
from mammopipe.processing.datasets.manifest import Laterality
from mammopipe.processing.errors import ConfigError, DuplicatePictureError, ImageError
from mammopipe.processing.images.mammogram import Mammogram


class ExamPredictor(Protocol):
    """The interface of a predictor that an exam needs."""

    @property
    def exams_are_exact(self) -> bool:
        """Whether views must be judged in float32, because scores combine the logits of several views."""

    def prepare(self, mammogram: Mammogram) -> Preprocessed:
        """Return the network's input."""

    def judge(
        self, mammogram: Mammogram, prepared: Preprocessed, *, operating_point: OperatingPoint, exact: bool = False
    ) -> Prediction:
        """Return the prediction for a prepared image."""

    def combine(
        self,
        views: Sequence[ViewScore],
        operating_point: OperatingPoint,
        indices: Sequence[int] | None = None,
        left_out: Sequence[LeftOut] = (),
    ) -> Combined:
        """Return the answers for the breasts and the exam."""

    def is_close(self, combined: Combined) -> bool:
        """Return whether the views must be judged again exactly."""


@dataclass(frozen=True)
class RefusedImage:
    """An image of the exam that is in no score."""

    index: int
    """Index of the image in the exam."""
    laterality: Laterality | None
    error: ImageError
    """Why it was refused."""


@dataclass(frozen=True)
class ExamPrediction:
    """The model's prediction for an exam: the images of one patient's study."""

    images: tuple[Prediction, ...]
    """Predictions of the judged images, in the given order."""
    indices: tuple[int, ...]
    """Indices of the judged images in the exam."""
    refused: tuple[RefusedImage, ...]
    """The images that were left out."""
    combined: Combined
    """Answers for the breasts and the exam; they refer to images by their index in the exam."""


def predict_exam(
    predictor: ExamPredictor, mammograms: Sequence[Mammogram], operating_point: OperatingPoint
) -> ExamPrediction:
    """Return the prediction for the mammograms of one patient's study.

    Raises:
        ConfigError: There is no mammogram.
        ImageError: An image shows no breast or occurs twice, the exclusions refuse one, or they leave out all.
    """
    if not mammograms:
        raise ConfigError("an exam needs at least one mammogram")
    prepared = [predictor.prepare(mammogram) for mammogram in mammograms]
    _check_pictures(list(zip(mammograms, prepared, strict=True)))
    found = _judged(predictor, mammograms, prepared, operating_point, exact=predictor.exams_are_exact)
    if predictor.is_close(found.combined):
        return _judged(predictor, mammograms, prepared, operating_point, exact=True)
    return found


def _check_pictures(views: Sequence[tuple[Mammogram, Preprocessed]]) -> None:
    exposures = Exposures()
    for index, (mammogram, prepared) in enumerate(views):
        if exposures.has(mammogram, prepared):
            raise DuplicatePictureError(f"image {index}: the same picture as an earlier image")


def _judged(
    predictor: ExamPredictor,
    mammograms: Sequence[Mammogram],
    prepared: Sequence[Preprocessed],
    point: OperatingPoint,
    *,
    exact: bool,
) -> ExamPrediction:
    images: dict[int, Prediction] = {}
    refused: list[RefusedImage] = []
    for index, (mammogram, view) in enumerate(zip(mammograms, prepared, strict=True)):
        try:
            images[index] = predictor.judge(mammogram, view, operating_point=point, exact=exact)
        except ExcludedImageError as error:
            if error.action is not Action.LEAVE_OUT:
                error.add_note(f"image {index} of the exam")
                raise
            refused.append(RefusedImage(index, mammogram.laterality, error))
    if not images:
        raise refused[0].error
    missing = [left_out(each.index, each.laterality, f"image {each.index}: {each.error}") for each in refused]
    views = [image.as_view for image in images.values()]
    combined = predictor.combine(views, point, list(images), missing)
    return ExamPrediction(tuple(images.values()), tuple(images), tuple(refused), combined)
