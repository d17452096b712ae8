"""Heatmaps: their position over the original image, their regions and their overlays."""

from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mammopipe.inference.prediction import heatmap
from mammopipe.processing.breast.preprocess import PreprocessConfig, preprocess
from mammopipe.processing.datasets.manifest import Label, Laterality, View
from mammopipe.processing.images.mammogram import Mammogram, read_mammogram
from mammopipe.processing.phantoms.mias_tree import make_film


@pytest.mark.parametrize("laterality", list(Laterality))
@pytest.mark.parametrize(("height", "width"), [(96, 64), (640, 512)])
def test_heat_at_a_lesion_lands_on_the_lesion_of_the_image(laterality: Laterality, height: int, width: int) -> None:
    image = make_film(3, label=Label.MALIGNANT, laterality=laterality, height=512, width=400)
    mammogram = Mammogram(image.pixels, laterality, View.MLO)
    lesion = image.lesions[0]
    prepared = preprocess(mammogram, PreprocessConfig(height=height, width=width), image.lesions)
    x, y = round(prepared.lesions[0].x), round(prepared.lesions[0].y)
    heat = np.zeros((height, width), np.float32)
    heat[y, x] = 1
    heat = np.asarray(cv2.GaussianBlur(heat, (0, 0), 2), np.float32)
    seen = heatmap.evidence(heat / heat.max(), prepared, image.pixels.shape)
    region = heatmap.regions(seen.heat)[0]
    scale = prepared.geometry.scale
    assert seen.heat.shape == image.pixels.shape
    assert abs(region.peak_x - lesion.x) <= 1 + 1 / scale and abs(region.peak_y - lesion.y) <= 1 + 1 / scale
    assert region.left <= lesion.x < region.right and region.top <= lesion.y < region.bottom


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(300, 2400),
    shape=st.floats(0.6, 1.0),
    laterality=st.sampled_from(list(Laterality)),
    mirrored=st.booleans(),
    size=st.sampled_from([(96, 64), (320, 192), (512, 256)]),
    place=st.tuples(st.floats(0.15, 0.75), st.floats(0.25, 0.75)),
)
def test_a_blob_survives_orientation_crop_flip_and_reduction(
    rows: int, shape: float, laterality: Laterality, mirrored: bool, size: tuple[int, int], place: tuple[float, float]
) -> None:
    """A bright blob in a half ellipse of tissue, in images of many sizes; large ones are reduced first."""
    columns = round(shape * rows)
    y, x = np.mgrid[0:rows, 0:columns]
    depth = 1 - ((y - rows / 2) / (0.45 * rows)) ** 2 - (x / (0.8 * columns)) ** 2
    centre, up = place[0] * 0.7 * columns, rows / 2 + (place[1] - 0.5) * 0.5 * rows
    radius = 0.05 * min(rows, columns)
    blob = np.exp(-((x - centre) ** 2 + (y - up) ** 2) / (2 * (radius / 2) ** 2))
    mammogram = np.where(depth > 0, 6000 + 10000 * np.sqrt(np.clip(depth, 0, 1)) + 40000 * blob, 200).astype(np.uint16)
    at_right = (laterality is Laterality.RIGHT) is not mirrored
    mammogram, centre = (
        (np.ascontiguousarray(mammogram[:, ::-1]), columns - 1 - centre) if at_right else (mammogram, centre)
    )
    config = PreprocessConfig(height=size[0], width=size[1], remove_pectoral=False)
    prepared = preprocess(Mammogram(mammogram, laterality, View.CC), config)
    lit = prepared.image**8 / (prepared.image**8).max()
    heat = np.asarray(cv2.GaussianBlur(lit, (0, 0), 2), np.float32)
    peak = heatmap.regions(heatmap.evidence(heat / heat.max(), prepared, mammogram.shape).heat)[0]
    tolerance = radius + 2 / prepared.geometry.scale
    assert abs(peak.peak_x - centre) <= tolerance and abs(peak.peak_y - up) <= tolerance
    assert peak.left <= peak.peak_x < peak.right <= columns and peak.top <= peak.peak_y < peak.bottom <= rows


def test_heat_outside_of_the_tissue_is_taken_out_and_counted() -> None:
    pixels = np.zeros((40, 40), np.uint16)
    pixels[:, :20] = 9
    prepared: Any = SimpleNamespace(pixels=pixels, to_original=lambda x, y: (x, y))
    heat = np.full((40, 40), 0.5, np.float32)
    seen = heatmap.evidence(heat, prepared, (40, 40))
    assert seen.outside == pytest.approx(0.5)
    assert seen.heat[:, :19].min() == 0.5 and seen.heat[:, 20:].max() == 0
    assert heatmap.evidence(np.zeros_like(heat), prepared, (40, 40)).outside == 0


def test_regions_are_the_warm_areas_strongest_first() -> None:
    heat = np.zeros((50, 60), np.float32)
    heat[10:20, 5:15] = 0.6
    heat[12, 7] = 0.7
    heat[30:35, 40:50] = 0.9
    heat[33, 44] = 1.0
    heat[0, 0] = 0.4
    boxes = [(r.left, r.top, r.right, r.bottom, r.peak_x, r.peak_y, r.strength) for r in heatmap.regions(heat)]
    assert boxes == [(40, 30, 50, 35, 44, 33, 1.0), (5, 10, 15, 20, 7, 12, 0.7)]
    assert heatmap.regions(np.zeros((5, 5), np.float32)) == []


def test_overlay_leaves_an_image_without_heat_grey_and_colours_the_rest(phantom: Any) -> None:
    pixels = read_mammogram(phantom.pgm).pixels
    heat = np.zeros(pixels.shape, np.float32)
    plain = heatmap.overlay(pixels, heat)
    assert plain.dtype == np.uint8 and plain.shape == (*pixels.shape, 3)
    assert np.array_equal(plain, np.repeat((pixels >> 8).astype(np.uint8)[..., None], 3, axis=2))
    heat[100:150, 100:150] = 1
    warm = heatmap.overlay(pixels, heat)
    assert np.ptp(warm[125, 125].astype(int)) > 50
    assert np.array_equal(warm[:90], plain[:90])
    assert cv2.imdecode(np.frombuffer(heatmap.png(warm), np.uint8), cv2.IMREAD_UNCHANGED).shape == warm.shape
