"""One synthetic mammogram: breast, pectoral muscle, tissue texture, lesions and film artefacts, each with its mask.

Everything is drawn with the chest wall at the left and at half the resolution, in units of the film's height, then
flipped, enlarged and given film grain. Shape, tissue, artefacts and lesions come from separate random streams, so two
films of the same seed and different labels are equal everywhere but at the lesion: nothing but the lesion can tell the
classes apart.
"""

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from processing.errors import ConfigError
from processing.phantom_marks import draw_lesions, draw_marks, scatter_calcifications
from processing.records import Label, Laterality, Lesion, View

Mask = npt.NDArray[np.bool_]
Grey = npt.NDArray[np.float32]
Pixel = TypeVar("Pixel", np.float32, np.uint8)

SMALLEST = 128
"""Rows or columns below which there is no room for anatomy."""
_WORK = 2
"""Films are drawn at 1 / _WORK of their resolution."""
_SHOULDER = 0.80
"""Grey above which the film's curve flattens, so that dense tissue and label never clip."""


class Density(StrEnum):
    """Character of the background tissue, as in the MIAS table."""

    FATTY = "F"
    GLANDULAR = "G"
    DENSE = "D"


_GLAND = {
    Density.FATTY: (0.55, (0.03, 0.12)),
    Density.GLANDULAR: (0.85, (0.10, 0.20)),
    Density.DENSE: (1.05, (0.20, 0.32)),
}
"""Size of the gland (1 fills most of the breast) and the range of grey it adds to fat."""


class _Stream(IntEnum):
    """The independent random streams of one film."""

    SHAPE = 0
    TISSUE = 1
    MARKS = 2
    LESIONS = 3
    GRAIN = 4
    JITTER = 5


@dataclass(frozen=True)
class Film:
    """A synthetic mammogram and the truth about it; every mask has the shape of `pixels`."""

    pixels: npt.NDArray[np.uint16]
    """Grey over the full 16-bit scale, 0 = air, as `processing.imaging.read_mammogram` would give it."""
    breast: Mask
    """The breast with its pectoral muscle, where no artefact covers it."""
    pectoral: Mask
    """The pectoral muscle, a part of `breast`; empty in a CC view."""
    artefacts: Mask
    """Labels, digits, tape and scanner border."""
    lesion_mask: Mask
    """The pixels that a lesion or calcification brightens noticeably."""
    lesions: tuple[Lesion, ...]
    """Circles with whole-numbered centre and radius; empty for a normal film and for scattered calcifications."""
    label: Label
    laterality: Laterality
    view: View
    density: Density


@dataclass(frozen=True)
class _Shape:
    """One woman's breast: lengths in film heights, taken from the chest wall and the top."""

    nipple_x: float
    nipple_y: float
    upper: float
    lower: float
    axilla: float
    muscle_width: float
    muscle_height: float
    muscle_curve: float
    fade: float
    """Distance from the skin over which the compressed breast reaches its full thickness."""


@dataclass
class _Canvas:
    """The film while it is drawn, chest wall at the left."""

    grey: Grey
    breast: Mask
    depth: Grey
    """Distance from the skin in pixels; a film edge is no skin."""
    pectoral: Mask
    height: int = field(init=False)

    def __post_init__(self) -> None:
        self.height = self.grey.shape[0]


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
    scattered: bool = False,
    patient_seed: int | None = None,
    padded: bool = True,
    bits: int = 8,
) -> Film:
    """Return the film that `seed` and the other arguments determine.

    `lesions` counts the lesions of a film that is not normal: the first has the film's label, the others are benign.
    `scattered` draws calcifications without a centre in place of lesions. Films of one `patient_seed` resemble each
    other as two breasts of one woman do. `padded` centres a narrower film in black columns as in MIAS; otherwise the
    film fills the frame as a digital detector does. `bits` is the grey resolution, spread over the 16-bit scale.
    `pixels` is uint16, (height, width). The chest wall lies at the right of a right breast and at the left of a left
    one, as in MIAS and RSNA. Raises `ConfigError` for arguments that contradict each other.
    """
    _refuse(seed, label, view, height, width, lesions, bits)
    patient = seed if patient_seed is None else patient_seed
    rng = {stream: np.random.default_rng((seed, stream)) for stream in _Stream}
    rows, columns = height // _WORK, width // _WORK
    left, film_columns = _film_columns(np.random.default_rng((patient, 7)), rows, columns, padded)
    shape = _draw_shape(np.random.default_rng((patient, _Stream.SHAPE)), rng[_Stream.JITTER], view, film_columns / rows)
    if density is None:
        density = list(Density)[int(np.random.default_rng((patient, 8)).integers(3))]
    canvas = _draw_anatomy(shape, (rows, film_columns), density, rng[_Stream.TISSUE], view)
    marks = draw_marks(canvas.breast, rng[_Stream.MARKS], laterality=laterality, view=view, film_edges=padded)
    place = canvas.breast & ~canvas.pectoral & ~marks.mask
    labels = [] if label is Label.NORMAL or scattered else [label, *[Label.BENIGN] * (lesions - 1)]
    lift, circles = draw_lesions(place, rng[_Stream.LESIONS], labels)
    if scattered:
        lift = scatter_calcifications(place, canvas.depth, rng[_Stream.LESIONS])
    grey = _develop(np.where(marks.mask, marks.grey, canvas.grey + lift), rng[_Stream.GRAIN])
    masks = (canvas.breast & ~marks.mask, canvas.pectoral & ~marks.mask, marks.mask, lift > 0.03)
    breast, pectoral, artefacts, lesion_mask = (
        _place(mask.astype(np.uint8) * np.uint8(255), left, (height, width), laterality) > 127 for mask in masks)
    return Film(
        pixels=_quantise(_place(grey, left, (height, width), laterality), bits), breast=breast,
        pectoral=pectoral & breast, artefacts=artefacts & ~breast, lesion_mask=lesion_mask & breast,
        lesions=tuple(_circle(circle, left, width, laterality) for circle in circles),
        label=label, laterality=laterality, view=view, density=density,
    )


def _refuse(seed: int, label: Label, view: View, height: int, width: int, lesions: int, bits: int) -> None:
    if seed < 0:
        raise ConfigError(f"seed={seed}: must not be negative")
    if view not in (View.CC, View.MLO):
        raise ConfigError(f"view={view}: phantoms are drawn as CC or MLO")
    if min(height, width) < SMALLEST:
        raise ConfigError(f"height={height}, width={width}: a phantom needs {SMALLEST} rows and columns at least")
    if not width >= 0.6 * height:
        raise ConfigError(f"height={height}, width={width}: a phantom needs a width of 0.6 times its height at least")
    if not 1 <= lesions <= 3:
        raise ConfigError(f"lesions={lesions}: must be 1, 2 or 3 (a {Label.NORMAL} film has none whatever this says)")
    if not 8 <= bits <= 16:
        raise ConfigError(f"bits={bits}: must be from 8 to 16")


def _film_columns(rng: np.random.Generator, rows: int, columns: int, padded: bool) -> tuple[int, int]:
    """Return the film's first column and its number of columns within the frame."""
    share = rng.choice([0.51, 0.57, 0.635, 0.635, 0.80])
    wanted = min(columns, int(rows * share)) if padded else columns
    return (columns - wanted) // 2, wanted


def _draw_shape(patient: np.random.Generator, film: np.random.Generator, view: View, aspect: float) -> _Shape:
    def draw(low: float, high: float) -> float:
        return float(patient.uniform(low, high) * film.uniform(0.96, 1.04))

    nipple_x = min(draw(0.34, 0.56), 0.90 * aspect)
    axilla = min(draw(0.26, 0.42), 0.85 * nipple_x)
    muscle_width = min(draw(0.16, 0.32), 0.85 * axilla)
    oblique = view.shows_pectoral
    return _Shape(
        nipple_x=nipple_x, nipple_y=draw(0.55, 0.66) if oblique else draw(0.46, 0.53),
        upper=draw(0.42, 0.54) if oblique else draw(0.33, 0.42),
        lower=draw(0.29, 0.37) if oblique else draw(0.33, 0.42),
        axilla=axilla if oblique else 0.0, muscle_width=muscle_width if oblique else 0.0,
        muscle_height=draw(0.38, 0.75), muscle_curve=draw(0.75, 1.25), fade=draw(0.09, 0.16),
    )


def _draw_anatomy(
    shape: _Shape, size: tuple[int, int], density: Density, rng: np.random.Generator, view: View
) -> _Canvas:
    breast = _breast_mask(shape, size, rng)
    depth = _depth(breast)
    thickness = 1 - (1 - np.minimum(depth / (shape.fade * size[0]), 1)) ** 2.5
    tissue = _tissue(shape, size, density, rng)
    background = rng.uniform(0.012, 0.035) + 0.004 * _noise(rng, size, size[0] // 3)
    grey = np.where(breast, 0.10 + (tissue - 0.10) * thickness, background)
    muscle = np.zeros(size, np.bool_)
    if view.shows_pectoral:
        muscle = _muscle_mask(shape, size, rng)
        soft = _blur(muscle.astype(np.float32), rng.uniform(0.004, 0.010) * size[0])
        soft *= np.minimum(depth / (0.03 * size[0]), 1)
        level = rng.uniform(0.70, 0.80) + 0.02 * _noise(rng, size, size[0] // 4) + 0.25 * (tissue - tissue.mean())
        grey = grey * (1 - soft) + np.maximum(grey, level) * soft
    grey = _blur(grey.astype(np.float32), 0.0013 * size[0])
    return _Canvas(grey, breast, depth, muscle & breast)


def _breast_mask(shape: _Shape, size: tuple[int, int], rng: np.random.Generator) -> Mask:
    """Return the outline's inside: two half ellipses that meet at the nipple, and the axilla above them."""
    rows, columns = size
    y = np.arange(rows, dtype=np.float32) / rows - shape.nipple_y
    reach = np.where(y < 0, shape.upper, shape.lower)
    extent = shape.nipple_x * np.sqrt(np.maximum(1 - np.abs(y / reach) ** 2.1, 0))
    tail = shape.axilla * (1 - 0.15 * np.clip((y + shape.nipple_y) / shape.nipple_y, 0, 1))
    extent = np.where(y < 0, np.maximum(extent, tail), extent) * rows
    extent += 0.004 * rows * _noise(rng, (rows, 1), rows // 8)[:, 0] * (extent > 0.05 * rows)
    inside = (np.arange(columns) < extent[:, None]).astype(np.float32)
    # The blur rounds the corner between axilla and breast, as skin does.
    inside = _blur(inside, 0.030 * rows)
    nipple = np.zeros(size, np.float32)
    centre = (int((shape.nipple_x - 0.004) * rows), int(shape.nipple_y * rows))
    cv2.circle(nipple, centre, max(2, int(rng.uniform(0.010, 0.017) * rows)), 1.0, -1)
    return np.asarray((inside > 0.5) | (_blur(nipple, 0.003 * rows) > 0.5))


def _depth(breast: Mask) -> Grey:
    margin = breast.shape[0] // 4
    wide = cv2.copyMakeBorder(breast.astype(np.uint8), margin, margin, margin, margin, cv2.BORDER_REPLICATE)
    distance = cv2.distanceTransform(wide, cv2.DIST_L2, 5)
    return np.asarray(distance[margin:-margin, margin:-margin], np.float32)


def _tissue(shape: _Shape, size: tuple[int, int], density: Density, rng: np.random.Generator) -> Grey:
    """Return fat, gland and fibres: grey of the fully thick breast."""
    rows, columns = size
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32) / rows
    spread, amount = _GLAND[density]
    fat = rng.uniform(0.40, 0.54) + (0.04 if density is Density.DENSE else 0.0)
    centre_x, centre_y = rng.uniform(0.46, 0.60) * shape.nipple_x, shape.nipple_y - rng.uniform(0.0, 0.06)
    radial = np.hypot((x - centre_x) / (0.50 * spread * shape.nipple_x), (y - centre_y) / (0.27 * spread))
    edge = 0.26 * _noise(rng, size, rows // 6) + 0.13 * _noise(rng, size, rows // 16)
    gland = 1 / (1 + np.exp(rng.uniform(5, 9) * (radial + edge - 1)))
    cloud = 0.6 * _noise(rng, size, rows // 12) + 0.4 * _noise(rng, size, rows // 26)
    cloud += 0.25 * _noise(rng, size, rows // 70)
    web = _ridge(_noise(rng, size, rows // 20) + 0.4 * _noise(rng, size, rows // 50), 0.30)
    fibres = _fibres(shape, x, y, rng)
    lobes = np.clip(0.80 + rng.uniform(0.12, 0.26) * cloud + 0.13 * web + 0.25 * fibres, 0.1, 1.35)
    patchy = np.clip(0.7 + 0.6 * _noise(rng, size, rows // 7), 0, 1.6)
    strands = patchy * (rng.uniform(0.03, 0.07) * fibres + rng.uniform(0.005, 0.02) * web) + 0.012 * cloud
    return np.asarray(fat + strands + rng.uniform(*amount) * gland * lobes, np.float32)


def _ridge(noise: Grey, width: float) -> Grey:
    """Return thin bright lines, 1 at their crest, along the zero crossings of smooth noise."""
    return np.asarray(np.exp(-((noise / np.float32(width)) ** 2)), np.float32)


def _fibres(shape: _Shape, x: Grey, y: Grey, rng: np.random.Generator) -> Grey:
    """Return thin strands from 0 to 1 that run towards the nipple as ducts and Cooper's ligaments do."""
    grid = (64, 512)
    plane = 0.7 * _ridge(_noise(rng, grid, 9), 0.22) + 0.6 * _ridge(_noise(rng, grid, 5), 0.18)
    dx, dy = shape.nipple_x + 0.08 - x, y - shape.nipple_y
    size = (x.shape[0], x.shape[1])
    bend = 9 * _noise(rng, size, size[0] // 4) + 3 * _noise(rng, size, size[0] // 16)
    angle = (np.arctan2(dy, dx) / np.pi + 0.5) * (grid[1] - 1) + bend
    reach = np.hypot(dx, dy) * (grid[0] - 1)
    strands = cv2.remap(plane, angle.astype(np.float32), reach.astype(np.float32), cv2.INTER_LINEAR,
                        borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(strands, np.float32)


def _muscle_mask(shape: _Shape, size: tuple[int, int], rng: np.random.Generator) -> Mask:
    rows, columns = size
    y = np.arange(rows, dtype=np.float32) / rows / shape.muscle_height
    edge = shape.muscle_width * np.maximum(1 - y, 0) ** shape.muscle_curve
    edge = edge + 0.004 * _noise(rng, (rows, 1), rows // 6)[:, 0] * (y < 0.9)
    return np.asarray(np.arange(columns) < (edge * rows)[:, None])


def _noise(rng: np.random.Generator, size: tuple[int, int], cell: int) -> Grey:
    """Return smooth noise of about unit deviation whose bumps are about `cell` pixels wide."""
    coarse = (size[0] // max(cell, 1) + 3, size[1] // max(cell, 1) + 3)
    grid = rng.standard_normal(coarse, dtype=np.float32) * 1.3
    return np.asarray(cv2.resize(grid, size[::-1], interpolation=cv2.INTER_CUBIC), np.float32)


def _blur(image: Grey, sigma: float) -> Grey:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), max(sigma, 0.3), borderType=cv2.BORDER_REPLICATE), np.float32)


def _develop(grey: Grey, rng: np.random.Generator) -> Grey:
    """Return grey in 0..1 with the shoulder of a film's curve and film grain."""
    over = np.maximum(grey - _SHOULDER, 0)
    grey = grey - over + 0.18 * (1 - np.exp(-over / 0.18))
    grain = rng.standard_normal(grey.shape, dtype=np.float32) * (0.005 + 0.010 * np.minimum(grey, 0.6))
    return np.asarray(np.clip(grey + grain, 0, 1), np.float32)


def _place(layer: npt.NDArray[Pixel], left: int, size: tuple[int, int], laterality: Laterality) -> npt.NDArray[Pixel]:
    """Return the layer at full resolution within its frame, turned to the side of the body."""
    height, width = size
    right = max(width // _WORK - left - layer.shape[1], 0)
    framed = cv2.copyMakeBorder(layer, 0, 0, left, right, cv2.BORDER_CONSTANT, value=0.0)
    if laterality is Laterality.RIGHT:
        framed = cv2.flip(framed, 1)
    return np.asarray(cv2.resize(framed, (width, height), interpolation=cv2.INTER_LINEAR), layer.dtype)


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
