"""The pointing game: measures how often the maximum of an image's heatmap lies in an annotated lesion.

Source: Zhang et al. 2018, "Top-down Neural Attention by Excitation Backprop" (https://arxiv.org/abs/1608.00507), but
without their tolerance of 15 pixels. The heatmap is that of the image's true class. An empty heatmap counts as a miss.
The chance level is the hit rate of a point drawn uniformly from the breast.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mammopipe.processing.classes import class_index
from mammopipe.processing.datasets.manifest import ImageRecord, Label, Lesion
from mammopipe.training.fitting.dataset import FilmDataset
from mammopipe.training.metrics.bootstrap import Resamples, Scale
from mammopipe.training.metrics.metric import mean_metric
from mammopipe.training.metrics.scorecard import figure, undefined
from mammopipe.training.model.predictions import Floats, Integers
from mammopipe.training.networks.grad_cam import Heatmaps
from mammopipe.training.networks.model_directory import LoadedModel


def asked(classes: Sequence[str]) -> tuple[Label, ...]:
    """Return the classes of images that play: all but the first (normal or negative), which shows no lesion."""
    return tuple(Label(name) for name in reversed(classes[1:]))


_NEEDS = "an image with an annotated lesion"
hit_share = mean_metric("hits", lambda hits, chance: hits, needs=_NEEDS, share=True)
chance_level = mean_metric("chance", lambda hits, chance: chance, needs=_NEEDS)
above_chance = mean_metric("above_chance", lambda hits, chance: hits - chance, needs=_NEEDS, scale=Scale.REAL)
"""Proportion of hits minus the chance level of the same images."""


@dataclass(frozen=True)
class Pointed:
    """Result of the pointing game for one image."""

    image_id: str
    hit: bool
    chance: float
    """Area of the circles within the breast, divided by the area of the breast."""
    empty: bool
    """Whether the heatmap is empty: nothing in the image is evidence for its class."""


def pointing_game(
    model: LoadedModel, films: Sequence[tuple[Sequence[ImageRecord], Path]], resamples: Resamples
) -> dict[str, Any]:
    """Play the pointing game on a split.

    Images without an annotated lesion are left out and counted.

    Args:
        model: The model.
        films: Manifest rows of the split's images, in parts with the folder of each part.
        resamples: Bootstrap draws of the images.

    Returns:
        For benign and malignant images together ("both") and, with three classes, for each of them: numbers of images
        and patients, proportion of hits, chance level, and their difference. With two classes, only malignant images
        play.
    """
    records = [record for part, _ in films for record in part]
    labels_asked = asked(model.classes)

    def plays(record: ImageRecord) -> bool:
        return record.label in labels_asked and bool(record.lesions)

    places = [index for index, record in enumerate(records) if plays(record)]
    pointed = (found for part, folder in films for found in point(model, list(filter(plays, part)), folder))
    found = dict(zip(places, pointed, strict=True))
    groups = {"both": set(labels_asked)}
    groups |= {str(label): {label} for label in labels_asked} if len(labels_asked) > 1 else {}
    return {
        name: _group([index for index, record in enumerate(records) if record.label in labels], found, resamples)
        for name, labels in groups.items()
    }


def _group(members: Sequence[int], found: dict[int, Pointed], resamples: Resamples) -> dict[str, Any]:
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


def point(model: LoadedModel, records: Sequence[ImageRecord], folder: Path) -> Iterator[Pointed]:
    """Yield the result for each image `<folder>/<image_id>.png`, with the heatmap of its true class."""
    films = FilmDataset(records, folder, shape=model.input_shape, description="annotated images")
    heatmap = Heatmaps(model)
    for index, record in enumerate(records):
        image: torch.Tensor = films[index][0]
        heat = np.asarray(heatmap(image, class_index(record.label, model.classes)))
        lesions = inside_circles(record.lesions, model.input_shape)
        breast = image[0].numpy() > 0
        row, column = peak(heat)
        empty = not heat.any()
        yield Pointed(
            record.image_id,
            bool(lesions[row, column]) and not empty,
            float((lesions & breast).sum() / max(int(breast.sum()), 1)),
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
