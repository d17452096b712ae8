"""The pointing game: measures how often the maximum of an image's heatmap lies in an annotated lesion.

The heatmap is that of the image's true class. An empty heatmap counts as a miss. The chance level is the hit rate of a
point drawn uniformly from the breast.

Source: Zhang et al. 2018, "Top-down Neural Attention by Excitation Backprop" (https://arxiv.org/abs/1608.00507). Their
tolerance of 15 pixels is not used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mammopipe.processing.classes import class_index
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Lesion
from mammopipe.training.evaluation.batch_prediction import forward
from mammopipe.training.metrics.bootstrap import Resamples
from mammopipe.training.metrics.metric import mean_metric
from mammopipe.training.metrics.scale import Scale
from mammopipe.training.metrics.scorecard import figure, undefined
from mammopipe.training.model.predictions import Floats, Integers
from mammopipe.training.networks.grad_cam import Heatmaps
from mammopipe.training.networks.model_directory import LoadedModel


def asked(classes: Sequence[str]) -> tuple[Label, ...]:
    """Return the classes that take part: all but the first (normal or negative), which shows no lesion."""
    return tuple(Label(name) for name in reversed(classes[1:]))


_NEEDS = "an image with an annotated lesion"
hit_share = mean_metric("hits", lambda hits, chance: hits, needs=_NEEDS, share=True)
chance_level = mean_metric("chance", lambda hits, chance: chance, needs=_NEEDS)
above_chance = mean_metric("above_chance", lambda hits, chance: hits - chance, needs=_NEEDS, scale=Scale.REAL)
"""Proportion of hits minus the chance level of the same images."""


@dataclass(frozen=True)
class Pointed:
    """Result of the pointing game for one image."""

    hit: bool
    chance: float
    """Area of the circles within the breast, divided by the area of the breast."""
    empty: bool
    """Whether the heatmap is 0 everywhere: no position is evidence for the image's class."""


@dataclass(frozen=True)
class Outputs:
    """A network's outputs for images, from one pass over them."""

    logits: Floats
    """(images, classes)."""
    features: Floats
    """(images, channels), the means of the last feature maps."""
    pointed: Mapping[int, Pointed]
    """The result of each image that takes part in the pointing game, by its position."""


def outputs_of(model: LoadedModel, mammograms: Sequence[tuple[Sequence[ImageRecord], Path]]) -> Outputs:
    """Return a network's outputs for images; the heatmaps come from the feature maps of the same forward pass.

    Args:
        model: The model.
        mammograms: Manifest rows of the images, grouped by folder.
    """
    heatmaps, pointed, offset = Heatmaps(model), dict[int, Pointed](), 0
    logits, features = [], []
    for records, folder in mammograms:
        for first, images, given, maps in forward(model, records, folder):
            logits.append(given.numpy())
            features.append(maps.mean(dim=(2, 3)).numpy())
            for row, record in enumerate(records[first : first + len(images)]):
                if takes_part(record, model.classes):
                    heat = heatmaps.of_maps(images[row], maps[row], class_index(record.label, model.classes))
                    pointed[offset + first + row] = point(heat, images[row, 0].numpy(), record.lesions)
        offset += len(records)
    return Outputs(np.concatenate(logits).astype(np.float64), np.concatenate(features).astype(np.float64), pointed)


def takes_part(record: ImageRecord, classes: Sequence[str]) -> bool:
    """Return whether an image takes part: its class shows lesions, and it has an annotated one."""
    return record.label in asked(classes) and bool(record.lesions)


def pointing_game(
    records: Sequence[ImageRecord], found: Mapping[int, Pointed], classes: Sequence[str], resamples: Resamples
) -> dict[str, Any]:
    """Return the metrics of the pointing game on a split.

    Images without an annotated lesion do not take part; their number is reported.

    Args:
        records: Manifest rows of the split's images.
        found: The result of each image that takes part, by its position.
        classes: The model's classes.
        resamples: Bootstrap draws of the images.

    Returns:
        For benign and malignant images together ("both") and, with three classes, for each of them: numbers of images
        and patients, proportion of hits, chance level, and their difference. With two classes, only malignant images
        take part.
    """
    labels_asked = asked(classes)
    groups = {"both": set(labels_asked)}
    groups |= {str(label): {label} for label in labels_asked} if len(labels_asked) > 1 else {}
    return {
        name: _group([index for index, record in enumerate(records) if record.label in labels], found, resamples)
        for name, labels in groups.items()
    }


def _group(members: Sequence[int], found: Mapping[int, Pointed], resamples: Resamples) -> dict[str, Any]:
    playing = np.array([index for index in members if index in found], np.int64)
    draws = resamples.of(playing)
    hits: Integers = np.array([found[index].hit for index in playing], np.int64)
    chance: Floats = np.array([found[index].chance for index in playing], np.float64)
    measured = {
        metric.name: figure(metric, hits, chance, draws)
        if len(playing)
        else undefined(f"undefined: there must be {metric.needs}")
        for metric in (hit_share, chance_level, above_chance)
    }
    return {
        "images": len(playing),
        "patients": draws.patients,
        "not_annotated": len(members) - len(playing),
        "empty_maps": sum(found[index].empty for index in playing),
        **measured,
    }


def point(heat: npt.NDArray[np.float32], image: npt.NDArray[np.float32], lesions: Sequence[Lesion]) -> Pointed:
    """Return the result for one image.

    Args:
        heat: The heatmap of the image's true class, (H, W).
        image: The image, (H, W), 0 outside of the breast.
        lesions: The annotated lesions, in pixels of the image.
    """
    inside, breast = inside_circles(lesions, (image.shape[0], image.shape[1])), image > 0
    row, column = peak(heat)
    empty = not heat.any()
    # An empty map has its maximum at every pixel; the middle of the image is no answer.
    return Pointed(
        bool(inside[row, column]) and not empty,
        float((inside & breast).sum() / max(int(breast.sum()), 1)),
        empty,
    )


def peak(heat: npt.NDArray[np.float32]) -> tuple[int, int]:
    """Return row and column of the maximum; with several maxima, the one nearest to their mean position."""
    rows, columns = np.nonzero(heat == heat.max())
    nearest = np.hypot(rows - rows.mean(), columns - columns.mean()).argmin()
    return int(rows[nearest]), int(columns[nearest])


def inside_circles(lesions: Sequence[Lesion], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return a mask (H, W) of the pixels with their centre in a lesion's circle."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    inside = np.zeros(shape, bool)
    for lesion in lesions:
        inside |= np.hypot(rows - lesion.y, columns - lesion.x) <= lesion.radius
    return inside
