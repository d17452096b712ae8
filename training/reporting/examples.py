"""Picks the example images of the report by a rule and draws them with annotated lesions and a heatmap."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from mammopipe.processing.datasets.manifest import ImageRecord, Split
from mammopipe.training.evaluation.data import SegmentedData
from mammopipe.training.fitting.dataset import ImageDataset
from mammopipe.training.model.calibration import Calibration
from mammopipe.training.model.predictions import Floats, Integers, Predictions
from mammopipe.training.networks.grad_cam import Heatmaps
from mammopipe.training.networks.model_directory import LoadedModel

PICTURE_HEIGHT = 480
"""Maximum height of a picture in the report, in pixels; taller images are reduced."""

_JPEG_QUALITY = 88


@dataclass(frozen=True)
class Circle:
    """An annotated lesion, in pixels of the picture."""

    x: float
    y: float
    radius: float
    label: str


@dataclass(frozen=True)
class Picture:
    """An image and its heatmap overlay as base64 JPEG, with the lesions to draw on both."""

    width: int
    height: int
    image: str
    overlay: str
    circles: tuple[Circle, ...]


def pick_examples(
    chosen: Mapping[Split, Predictions], calibration: Calibration, classes: Sequence[str]
) -> list[dict[str, Any]]:
    """Pick, for each class of test and validation, the correct and the wrong prediction with the highest confidence.

    Args:
        chosen: The selected model's predictions of each split.
        calibration: Its calibration.
        classes: Names of the classes.

    Returns:
        {"image_id", "split", "truth", "predicted", "correct", "probabilities": {class: calibrated probability}} for
        each example.
    """
    examples = []
    for split in (Split.TEST, Split.VALIDATION):
        predictions = chosen[split]
        probabilities = predictions.probabilities(calibration)
        for place in reversed(range(len(classes))):  # Malignant, the last class, first.
            for correct in (True, False):
                index = _surest(predictions.labels, probabilities, place, correct)
                if index is not None:
                    examples.append(_example(split, predictions, probabilities, index, classes))
    return examples


def _surest(labels: Integers, probabilities: Floats, rank: int, correct: bool) -> int | None:
    right = probabilities.argmax(axis=1) == labels
    eligible = np.flatnonzero((labels == rank) & (right == correct))
    return int(eligible[probabilities[eligible].max(axis=1).argmax()]) if len(eligible) else None


def _example(
    split: Split, predictions: Predictions, probabilities: Floats, index: int, classes: Sequence[str]
) -> dict[str, Any]:
    truth, predicted = int(predictions.labels[index]), int(probabilities[index].argmax())
    return {
        "image_id": predictions.image_ids[index],
        "split": str(split),
        "truth": classes[truth],
        "predicted": classes[predicted],
        "correct": truth == predicted,
        "probabilities": {name: float(value) for name, value in zip(classes, probabilities[index], strict=True)},
    }


MOST_MISSED_SHOWN = 12
"""Maximum number of missed cancers shown with a picture; the report lists all of them."""


def missed_cancers(
    chosen: Mapping[Split, Predictions],
    calibration: Calibration,
    threshold: float,
    records: Sequence[ImageRecord],
    classes: Sequence[str],
) -> list[dict[str, Any]]:
    """Return the malignant images with a malignancy score below the threshold: test first, then by rising score.

    Args:
        chosen: The selected model's predictions of each split.
        calibration: Its calibration.
        threshold: Threshold on the malignancy score.
        records: Manifest rows of the images.
        classes: Names of the classes.

    Returns:
        The keys of `pick_examples` with "finding", "density" and "lesion_mm" (diameter of the largest lesion) for each
        image.
    """
    by_id = {record.image_id: record for record in records}
    missed = []
    for split in (Split.TEST, Split.VALIDATION):
        predictions = chosen[split]
        probabilities, malignant = predictions.probabilities(calibration), predictions.malignant_index
        below = (predictions.labels == malignant) & (probabilities[:, malignant] < threshold)
        for index in np.flatnonzero(below).tolist():
            record = by_id[predictions.image_ids[index]]
            spacing = record.pixel_spacing_mm
            widest = max((2 * lesion.radius for lesion in record.lesions), default=None)
            example = _example(split, predictions, probabilities, index, classes)
            size = None if spacing is None or widest is None else spacing * widest
            missed.append({**example, "finding": record.finding, "density": record.density, "lesion_mm": size})
    return sorted(missed, key=lambda item: (item["split"] != Split.TEST, item["probabilities"][classes[malignant]]))


def draw_examples(examples: Sequence[Mapping[str, Any]], data: SegmentedData, model: LoadedModel) -> dict[str, Picture]:
    """Return the picture of each example by image id; the heatmap is that of the predicted class."""
    records = {record.image_id: record for record in data.records}
    heatmap = Heatmaps(model)
    return {
        example["image_id"]: _draw(
            records[example["image_id"]], data, model, heatmap, model.classes.index(example["predicted"])
        )
        for example in examples
    }


def _draw(record: ImageRecord, data: SegmentedData, model: LoadedModel, heatmap: Heatmaps, index: int) -> Picture:
    folder = data.folder / Path(record.path).parent
    images = ImageDataset([record], folder, shape=model.input_shape, description="example")
    image: torch.Tensor = images[0][0]
    mammogram = (image[0].numpy() * 255).round().astype(np.uint8)
    heat = np.asarray(heatmap(image, index))
    scale = min(1.0, PICTURE_HEIGHT / mammogram.shape[0])
    size = (round(mammogram.shape[1] * scale), round(mammogram.shape[0] * scale))
    circles = tuple(
        Circle(lesion.x * scale, lesion.y * scale, lesion.radius * scale, str(lesion.label))
        for lesion in record.lesions
    )
    pictures = [
        cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in (mammogram, overlay(mammogram, heat))
    ]
    return Picture(size[0], size[1], _jpeg(pictures[0]), _jpeg(pictures[1]), circles)


def overlay(image: npt.NDArray[np.uint8], heat: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Blend a heatmap over an image.

    Args:
        image: The image, (H, W).
        heat: The heatmap, (H, W), in 0..1. Higher values cover more of the image.

    Returns:
        (H, W, 3) uint8 in BGR.
    """
    colours = cv2.applyColorMap((heat * 255).round().astype(np.uint8), cv2.COLORMAP_INFERNO).astype(np.float32)
    cover = (0.65 * heat)[..., np.newaxis]
    mixed: npt.NDArray[np.uint8] = (image[..., np.newaxis] * (1 - cover) + colours * cover).round().astype(np.uint8)
    return mixed


def _jpeg(picture: Any) -> str:
    done, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not done:
        raise RuntimeError(f"a picture of shape {picture.shape} could not be encoded as JPEG")
    return base64.b64encode(data.tobytes()).decode()
