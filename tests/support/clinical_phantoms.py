"""Synthetic images of many kinds, from digital detectors and digitised films, each with its true masks.

`mammopipe.processing.phantoms.film` imitates one film scanner. But segmentation must also work on detectors that
blacken the air, nearly black fat, implants, tape and borders, and images filled by the breast. Each `Kind` imitates one
of these cases. Everything is drawn with the chest wall at the left, in units of the image's height, and mirrored at the
end.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from mammopipe.processing.datasets.manifest import Laterality, View
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.phantoms.anatomy import Canvas, Density, Shape, draw_anatomy, draw_shape
from mammopipe.processing.phantoms.marks import draw_marks
from mammopipe.processing.phantoms.muscle import MuscleTrait

Mask = npt.NDArray[np.bool_]
Grey = npt.NDArray[np.float32]
Value = TypeVar("Value", np.float32, np.bool_)


class Kind(StrEnum):
    """The kind of image that a phantom imitates."""

    FILM = "film"
    """Digitised film: the air is fog, black padding at both sides, a label."""
    TAPE = "tape"
    """Digitised film with a strip of tape across the top."""
    BORDER = "border"
    """Digitised film with a white border where the scanner recorded beyond the film."""
    FOLD = "fold"
    """Digitised film with a fold of the abdomen below the breast."""
    DARK_FAT = "dark-fat"
    """Detector: air exactly 0, fat at 2 to 6 % of the full scale, dense gland."""
    SKIN_LINE = "skin-line"
    """Like `DARK_FAT`, with a bright line along the skin."""
    MARKED = "marked"
    """Like `DARK_FAT`, overlaid with a label, tape and a white border."""
    NOISY_AIR = "noisy-air"
    """Detector with nearly black, noisy air."""
    CONSTANT_AIR = "constant-air"
    """Inverted image whose air is a single value above 0."""
    WINDOWED = "windowed"
    """Narrow window: the darkest fat is 0, muscle and gland are white."""
    IMPLANT = "implant"
    """Detector with air of exactly 0 and a white implant."""
    DEEP_MUSCLE = "deep-muscle"
    """Detector with a pectoral muscle that reaches the bottom of the image."""
    FULL_FIELD = "full-field"
    """Detector with a breast that fills the image and is cut off opposite the chest wall."""
    CUT_OFF = "cut-off"
    """Like `DARK_FAT`, with a breast that reaches the image's far edge."""
    SHUTTERED = "shuttered"
    """Detector with noisy air inside a collimated field and 0 outside."""


SMALLEST = 128
"""Least number of rows with enough room for the anatomy."""
FILMS = (Kind.FILM, Kind.TAPE, Kind.BORDER, Kind.FOLD)


@dataclass(frozen=True)
class ClinicalPhantom:
    """An image and its true masks; the masks have the shape of `pixels` (rows, columns)."""

    pixels: npt.NDArray[np.uint16]
    """Grey on the full 16-bit scale, 0 = darkest."""
    breast: Mask
    """The breast including its pectoral muscle, where no artefact covers it."""
    pectoral: Mask
    """The pectoral muscle, part of `breast`; empty in a CC view."""
    laterality: Laterality
    view: View
    kind: Kind


def make_clinical_phantom(
    seed: int,
    kind: Kind,
    *,
    laterality: Laterality = Laterality.LEFT,
    view: View = View.MLO,
    rows: int = 400,
    columns: int = 300,
    bits: int = 8,
    trait: MuscleTrait | None = None,
) -> ClinicalPhantom:
    """Return the phantom that the arguments determine.

    Args:
        seed: Determines everything that the other arguments leave open.
        kind: The kind of image. `DEEP_MUSCLE` is always MLO.
        laterality: The side of the body; the chest wall is on this side of the image.
        view: CC or MLO.
        rows: Height in pixels, at least 128.
        columns: Width in pixels, at least 0.6 of `rows`.
        bits: Grey resolution, 8 to 16.
        trait: What makes the muscle of an MLO view hard to find; `None` for a muscle as the kind draws it.

    Raises:
        ConfigError: An argument is out of its range.
    """
    if rows < SMALLEST or columns < 0.6 * rows or not 8 <= bits <= 16:
        raise ConfigError(
            f"rows={rows}, columns={columns}, bits={bits}: a phantom needs {SMALLEST} rows, 0.6 times as many columns "
            "and 8 to 16 bits"
        )
    view = View.MLO if kind is Kind.DEEP_MUSCLE else view
    rng = np.random.default_rng((seed, list(Kind).index(kind), list(View).index(view)))
    padding = int(rng.uniform(0.02, 0.18) * columns) if kind in FILMS else 0
    size = (rows, columns - 2 * padding)
    shape = _shape(rng, kind, view, size[1] / rows)
    density = list(Density)[int(rng.integers(3))] if kind in FILMS else Density.DENSE
    canvas = draw_anatomy(shape, size, density, rng, view, trait)
    grey, visible, bare = _exposed(canvas, shape, kind, rng)
    edges = kind in (*FILMS, Kind.MARKED)
    marks = draw_marks(canvas.breast, rng, laterality=laterality, view=view, film_edges=edges, only=_MARKS.get(kind))
    grey = np.where(marks.mask, marks.grey, grey)
    breast, pectoral = visible & ~marks.mask, canvas.pectoral & bare & ~marks.mask
    if kind is Kind.SHUTTERED:
        field = _field(size, rng)
        grey, breast, pectoral = grey * field, breast & field, pectoral & field
    top = 2**bits - 1
    levels = np.rint(np.clip(_framed(grey.astype(np.float32), padding, laterality), 0, 1) * top)
    return ClinicalPhantom(
        pixels=np.rint(levels * (65535 / top)).astype(np.uint16),
        breast=_framed(breast, padding, laterality),
        pectoral=_framed(pectoral, padding, laterality),
        laterality=laterality,
        view=view,
        kind=kind,
    )


_MARKS = {
    Kind.MARKED: ("label", "digits", "tape", "border"),
    Kind.TAPE: ("label", "tape"),
    Kind.BORDER: ("digits", "border"),
    Kind.FOLD: ("label",),
    Kind.FILM: ("label", "digits"),
}


def _framed(layer: npt.NDArray[Value], padding: int, laterality: Laterality) -> npt.NDArray[Value]:
    framed = np.pad(layer, ((0, 0), (padding, padding)))
    return np.ascontiguousarray(framed[:, ::-1] if laterality is Laterality.RIGHT else framed)


def _shape(rng: np.random.Generator, kind: Kind, view: View, aspect: float) -> Shape:
    shape = draw_shape(rng, rng, view, aspect)
    if kind is Kind.DEEP_MUSCLE:
        width = min(rng.uniform(0.25, 0.40), 0.85 * shape.axilla)
        return replace(
            shape, muscle_width=width, muscle_height=rng.uniform(1.15, 1.6), muscle_curve=rng.uniform(0.8, 1.1)
        )
    if kind is Kind.FULL_FIELD:
        return replace(
            shape,
            nipple_x=aspect * rng.uniform(1.15, 1.5),
            upper=rng.uniform(0.9, 1.3),
            lower=rng.uniform(0.8, 1.2),
            axilla=shape.axilla and aspect * rng.uniform(0.9, 1.2),
        )
    if kind is Kind.CUT_OFF:
        return replace(
            shape, nipple_x=aspect * rng.uniform(1.05, 1.25), axilla=shape.axilla and aspect * rng.uniform(0.5, 0.9)
        )
    if kind is Kind.IMPLANT:
        return replace(shape, nipple_x=min(rng.uniform(0.45, 0.56), 0.9 * aspect))
    return shape


def _exposed(canvas: Canvas, shape: Shape, kind: Kind, rng: np.random.Generator) -> tuple[Grey, Mask, Mask]:
    """Return the grey (0..1) of the anatomy on the detector or film of a kind, and two masks.

    The masks are the part of the breast that is not black, and the part of it that no implant covers.
    """
    noise = rng.standard_normal(canvas.grey.shape, dtype=np.float32)
    if kind in FILMS:
        grey = _with_fold(canvas.grey, canvas.breast, rng) if kind is Kind.FOLD else canvas.grey
        grain = noise * (0.004 + 0.006 * np.minimum(grey, 0.6))
        return np.asarray(np.minimum(grey, 0.97) + grain, np.float32), canvas.breast, canvas.breast
    grey, fat = _detected(canvas, rng)
    visible = bare = canvas.breast
    if kind is Kind.IMPLANT:
        body = _implant(grey.shape, shape, rng)
        grey, bare = grey * (1 - body) + rng.uniform(0.93, 1.05) * body, canvas.breast & (body < 0.5)
    if kind is Kind.SKIN_LINE:
        depth = canvas.depth / canvas.grey.shape[0]
        grey = grey + rng.uniform(0.15, 0.6) * np.exp(-(((depth - 0.008) / rng.uniform(0.002, 0.005)) ** 2))
    if kind is Kind.WINDOWED:
        low = rng.uniform(0.3, 0.8) * fat
        grey = (grey - low) / (rng.uniform(0.5, 0.8) - low)
        visible = bare = _filled(canvas.breast & (grey > 0.008))
    grey = grey + noise * (0.002 + 0.012 * np.minimum(grey, 0.6))
    air = np.zeros_like(grey)
    if kind in (Kind.NOISY_AIR, Kind.SHUTTERED):
        grey = grey + rng.uniform(0.03, 0.08)
        air = np.maximum(rng.uniform(0.004, 0.025) + rng.uniform(0.002, 0.006) * noise, 0)
    if kind is Kind.CONSTANT_AIR:
        air += np.float32(rng.uniform(0.01, 0.05))
        grey = np.maximum(grey, 0) * (1 - air) + air
    return np.where(canvas.breast, np.maximum(grey, 0), air).astype(np.float32), visible, bare


def _detected(canvas: Canvas, rng: np.random.Generator) -> tuple[Grey, float]:
    """Return the grey of a detector, equalised so that fat keeps its level almost up to the skin, and that level."""
    fat = rng.uniform(0.02, 0.06)
    bright = np.clip((canvas.grey - 0.42) / 0.48, 0, 1) ** rng.uniform(0.9, 1.6)
    rim = np.clip(canvas.depth / (rng.uniform(0.01, 0.03) * canvas.grey.shape[0]), 0, 1)
    return np.asarray(fat * (0.35 + 0.65 * rim) + (1 - fat) * bright, np.float32), fat


def _filled(mask: Mask) -> Mask:
    outline, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.zeros(mask.shape, np.uint8), outline, -1, 1, cv2.FILLED).astype(np.bool_)


def _implant(size: tuple[int, ...], shape: Shape, rng: np.random.Generator) -> Grey:
    """Return the share (0..1) of each pixel covered by an implant: an ellipse with a sharp edge near the chest wall."""
    rows, columns = size
    width = rng.uniform(0.50, 0.72) * shape.nipple_x * rows
    height = rng.uniform(0.75, 0.95) * min(shape.upper, shape.lower) * rows
    centre = rng.uniform(0.05, 0.20) * shape.nipple_x * rows, (shape.nipple_y - rng.uniform(0.0, 0.05)) * rows
    y, x = np.ogrid[:rows, :columns]
    radius = np.hypot((x - centre[0]) / width, (y - centre[1]) / height)
    return np.asarray(1 / (1 + np.exp((radius - 1) * rng.uniform(40, 90))), np.float32)


def _with_fold(grey: Grey, breast: Mask, rng: np.random.Generator) -> Grey:
    """Return the image with the abdomen below the breast: a bright strip at the chest wall that widens downwards."""
    rows, columns = grey.shape
    bottom = int(np.flatnonzero(breast[:, 0])[-1])
    y, x = np.ogrid[:rows, :columns]
    width = (rng.uniform(0.02, 0.05) + rng.uniform(0.0, 0.15) * np.maximum(y - bottom, 0) / rows) * rows
    strip = ((x < width) & (y > bottom - 0.01 * rows) & ~breast).astype(np.float32)
    soft = cv2.GaussianBlur(strip, (0, 0), 0.004 * rows)
    return np.asarray(grey + rng.uniform(0.3, 0.6) * soft * (~breast), np.float32)


def _field(size: tuple[int, int], rng: np.random.Generator) -> Mask:
    """Return the collimated field: a rectangle with large rounded corners opposite the chest wall."""
    rows, columns = size
    field = np.zeros(size, np.uint8)
    top, bottom = int(rng.uniform(0.0, 0.04) * rows), int((1 - rng.uniform(0.0, 0.04)) * rows)
    right = int((1 - rng.uniform(0.0, 0.06)) * columns)
    radius = int(rng.uniform(0.02, 0.16) * columns)
    field[top:bottom, : right - radius] = 1
    field[top + radius : bottom - radius, :right] = 1
    for y in (top + radius, bottom - radius - 1):
        cv2.circle(field, (right - radius - 1, y), radius, 1, -1)
    return field.astype(np.bool_)
