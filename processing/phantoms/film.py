"""Makes one synthetic mammogram: breast, pectoral muscle, tissue texture, lesions and film artefacts, with masks.

Everything is drawn with the chest wall at the left and at half the resolution, in units of the image's height. Film
grain is added, and the image is flipped and enlarged. Shape, tissue, artefacts and lesions come from separate random
streams. So two images of one seed and different labels differ only at the lesion, and nothing else distinguishes the
classes.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from mammopipe.processing.datasets.manifest import Label, Laterality, Lesion, View
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.phantoms.anatomy import Canvas, Density, draw_anatomy, draw_shape
from mammopipe.processing.phantoms.marks import draw_lesions, draw_marks, scatter_calcifications

Mask = npt.NDArray[np.bool_]
Grey = npt.NDArray[np.float32]
Pixel = TypeVar("Pixel", np.float32, np.uint8)

SMALLEST = 128
"""Least number of rows and columns with enough room for the anatomy."""
_WORK = 2
"""Images are drawn at 1 / _WORK of their resolution."""
_SHOULDER = 0.80
"""Grey above which the film's characteristic curve flattens, so that dense tissue and labels do not saturate."""


class _Stream(IntEnum):
    """The independent random streams of one image."""

    SHAPE = 0
    TISSUE = 1
    MARKS = 2
    LESIONS = 3
    GRAIN = 4
    JITTER = 5
    FRAME = 7
    DENSITY = 8


@dataclass(frozen=True)
class Film:
    """A synthetic mammogram and its true masks and lesions; every mask has the shape of `pixels`."""

    pixels: npt.NDArray[np.uint16]
    """Grey on the full 16-bit scale, 0 = air, like the result of
    `mammopipe.processing.images.mammogram.read_mammogram`."""
    breast: Mask
    """The breast including its pectoral muscle, where no artefact covers it."""
    pectoral: Mask
    """The pectoral muscle, part of `breast`; empty in a CC view."""
    artefacts: Mask
    """Labels, digits, tape and scanner border."""
    lesion_mask: Mask
    """The pixels that a lesion or calcification makes noticeably brighter."""
    lesions: tuple[Lesion, ...]
    """Circles with integer centre and radius; empty for a normal image and for scattered calcifications."""
    label: Label
    laterality: Laterality
    view: View
    density: Density
    padding: Mask
    """The pixels outside the film or detector; they are 0."""


def make_film(
    seed: int,
    *,
    label: Label,
    laterality: Laterality,
    view: View = View.MLO,
    height: int = 1024,
    width: int = 1024,
    density: Density | None = None,
    lesions: int = 1,
    lesion_size: float = 1.0,
    scattered: bool = False,
    patient_seed: int | None = None,
    padded: bool = True,
    bits: int = 8,
) -> Film:
    """Return the synthetic mammogram that the arguments determine.

    Args:
        seed: Determines everything that the other arguments leave open.
        label: The class.
        laterality: The side of the body; the chest wall is on this side of the image, as in MIAS and RSNA.
        view: CC or MLO.
        height: Rows of the image.
        width: Columns of the image.
        density: Density of the tissue; by default it is drawn at random.
        lesions: Number of lesions unless the class is normal. The first has the class `label`, the others are benign.
        lesion_size: Factor of the radius of lesions.
        scattered: Whether to draw calcifications without a centre instead of lesions.
        patient_seed: Images of one patient seed resemble each other like the two breasts of one woman.
        padded: Whether black columns flank a narrower film, as in MIAS; else a detector's image fills the frame.
        bits: Grey resolution on the 16-bit scale.

    Raises:
        ConfigError: An argument is out of its range, or arguments contradict each other.
    """
    _refuse(seed, label, view, height, width, lesions, scattered, bits)
    rng, woman = _streams(seed), _streams(seed if patient_seed is None else patient_seed)
    left, film_columns = _film_columns(woman[_Stream.FRAME], height // _WORK, width // _WORK, padded)
    shape = draw_shape(woman[_Stream.SHAPE], rng[_Stream.JITTER], view, film_columns / (height // _WORK))
    density = density or list(Density)[int(woman[_Stream.DENSITY].integers(3))]
    canvas = draw_anatomy(shape, (height // _WORK, film_columns), density, rng[_Stream.TISSUE], view)
    marks = draw_marks(canvas.breast, rng[_Stream.MARKS], laterality=laterality, view=view, film_edges=padded)
    lift, circles = _draw_findings(canvas, marks.mask, rng[_Stream.LESIONS], label, lesions, lesion_size, scattered)
    grey = _develop(np.where(marks.mask, marks.grey, canvas.grey + lift), rng[_Stream.GRAIN])
    grey *= padded | canvas.breast | marks.mask  # a digital detector blackens everything except the breast
    masks = (canvas.breast & ~marks.mask, canvas.pectoral & ~marks.mask, marks.mask, lift > 0.03)
    breast, pectoral, artefacts, lesion_mask = (_place_mask(mask, left, (height, width), laterality) for mask in masks)
    return Film(
        pixels=_quantise(_place(grey, left, (height, width), laterality), bits),
        breast=breast,
        pectoral=pectoral & breast,
        artefacts=artefacts & ~breast,
        lesion_mask=lesion_mask & breast,
        lesions=tuple(_circle(circle, left, width, laterality) for circle in circles),
        label=label, laterality=laterality, view=view, density=density,
        padding=~_place_mask(np.ones_like(canvas.breast), left, (height, width), laterality),
    )  # fmt: skip


def _streams(seed: int) -> dict[_Stream, np.random.Generator]:
    return {stream: np.random.default_rng((seed, stream)) for stream in _Stream}


def _draw_findings(
    canvas: Canvas, marks: Mask, rng: np.random.Generator, label: Label, lesions: int, size: float, scattered: bool
) -> tuple[Grey, list[Lesion]]:
    """Return the grey that findings add, and the circles of the lesions."""
    place = canvas.breast & ~canvas.pectoral & ~marks
    if scattered:
        return scatter_calcifications(place, canvas.depth, rng), []
    labels = [] if label is Label.NORMAL else [label, *[Label.BENIGN] * (lesions - 1)]
    return draw_lesions(place, rng, labels, size)


def _refuse(
    seed: int, label: Label, view: View, height: int, width: int, lesions: int, scattered: bool, bits: int
) -> None:
    if seed < 0:
        raise ConfigError(f"seed={seed}: must not be negative")
    if view not in (View.CC, View.MLO):
        raise ConfigError(f"view={view}: phantoms are drawn as CC or MLO")
    if min(height, width) < SMALLEST:
        raise ConfigError(f"height={height}, width={width}: a phantom needs {SMALLEST} rows and columns at least")
    if not width >= 0.6 * height:
        raise ConfigError(f"height={height}, width={width}: a phantom needs a width of 0.6 times its height at least")
    if not 1 <= lesions <= 3:
        raise ConfigError(f"lesions={lesions}: must be 1, 2 or 3, and is ignored for a {Label.NORMAL} film")
    if scattered and label is Label.NORMAL:
        raise ConfigError(f"scattered={scattered}: a {label} film has no calcifications")
    if not 8 <= bits <= 16:
        raise ConfigError(f"bits={bits}: must be from 8 to 16")


def _film_columns(rng: np.random.Generator, rows: int, columns: int, padded: bool) -> tuple[int, int]:
    """Return the first column and the number of columns of the film inside the frame."""
    share = rng.choice([0.51, 0.57, 0.635, 0.635, 0.80])
    wanted = min(columns, int(rows * share)) if padded else columns
    return (columns - wanted) // 2, wanted


def _develop(grey: Grey, rng: np.random.Generator) -> Grey:
    """Return grey in 0..1 with the shoulder of a film's characteristic curve and with film grain."""
    over = np.maximum(grey - _SHOULDER, 0)
    grey = grey - over + 0.18 * (1 - np.exp(-over / 0.18))
    grain = rng.standard_normal(grey.shape, dtype=np.float32) * (0.005 + 0.010 * np.minimum(grey, 0.6))
    return np.asarray(np.clip(grey + grain, 0, 1), np.float32)


def _place(layer: npt.NDArray[Pixel], left: int, size: tuple[int, int], laterality: Laterality) -> npt.NDArray[Pixel]:
    """Return the layer at full resolution inside its frame, mirrored for a right breast."""
    height, width = size
    right = max(width // _WORK - left - layer.shape[1], 0)
    framed = cv2.copyMakeBorder(layer, 0, 0, left, right, cv2.BORDER_CONSTANT, value=0.0)
    if laterality is Laterality.RIGHT:
        framed = cv2.flip(framed, 1)
    return np.asarray(cv2.resize(framed, (width, height), interpolation=cv2.INTER_LINEAR), layer.dtype)


def _place_mask(mask: Mask, left: int, size: tuple[int, int], laterality: Laterality) -> Mask:
    return _place(mask.astype(np.uint8) * np.uint8(255), left, size, laterality) > 127


def _quantise(grey: Grey, bits: int) -> npt.NDArray[np.uint16]:
    top = 2**bits - 1
    levels = (grey * np.float32(top) + np.float32(0.5)).astype(np.uint16)
    if 65535 % top == 0:
        return levels * np.uint16(65535 // top)
    table = np.round(np.arange(top + 1) * (65535 / top)).astype(np.uint16)
    return np.asarray(table[levels])


def _circle(lesion: Lesion, left: int, width: int, laterality: Laterality) -> Lesion:
    x = (lesion.x + left + 0.5) * _WORK - 0.5
    y = (lesion.y + 0.5) * _WORK - 0.5
    if laterality is Laterality.RIGHT:
        x = width - 1 - x
    return Lesion(float(round(x)), float(round(y)), float(round(lesion.radius * _WORK)), lesion.label, lesion.finding)
