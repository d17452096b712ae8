"""Draws lesions into a phantom's tissue, and labels, tape and borders onto the image."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from mammopipe.processing.datasets.manifest import Label, Laterality, Lesion, View

Mask = npt.NDArray[np.bool_]
Grey = npt.NDArray[np.float32]


@dataclass
class Marks:
    """Artefacts of an image: their grey where `mask` is true."""

    grey: Grey
    mask: Mask


def draw_lesions(
    place: Mask, rng: np.random.Generator, labels: Sequence[Label], size: float = 1.0
) -> tuple[Grey, list[Lesion]]:
    """Return the brightness that lesions of these labels add, float32 of the shape of `place`, and their circles.

    Every circle lies inside `place`, and no two overlap. A lesion is smaller if there is little room. `size` is a
    factor of the radius.
    """
    lift = np.zeros(place.shape, np.float32)
    free = place.astype(np.uint8)
    circles = []
    for label in labels:
        lesion, patch = _draw_lesion(free, rng, label, size)
        half, x, y = patch.shape[0] // 2, int(lesion.x), int(lesion.y)
        top, left = max(y - half, 0), max(x - half, 0)
        part = lift[top : y + half + 1, left : x + half + 1]
        part += patch[top - y + half :, left - x + half :][: part.shape[0], : part.shape[1]]
        cv2.circle(free, (x, y), int(lesion.radius) + 2, 0, -1)
        circles.append(lesion)
    return lift, circles


def _draw_lesion(
    free: npt.NDArray[np.uint8], rng: np.random.Generator, label: Label, size: float
) -> tuple[Lesion, Grey]:
    rows = free.shape[0]
    malignant = label is Label.MALIGNANT
    wanted = rng.uniform(0.055, 0.090) * rows if malignant else rng.uniform(0.030, 0.058) * rows
    # The border of the frame counts as outside, so that no circle leaves the image.
    room = cv2.distanceTransform(cv2.copyMakeBorder(free, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0), cv2.DIST_L2, 5)[
        1:-1, 1:-1
    ]
    radius = min(size * wanted, 0.85 * float(room.max()))
    candidates = np.flatnonzero(room >= 1.15 * radius)
    y, x = divmod(int(candidates[rng.integers(len(candidates))]), free.shape[1])
    patch = _spiculated(radius, rng) if malignant else _circumscribed(radius, rng)
    return Lesion(x, y, radius, label, "SPIC" if malignant else "CIRC"), patch


def _polar(radius: float) -> tuple[Grey, Grey]:
    """Return the distance from the centre, in radii, and the angle on a square patch a little wider than the circle."""
    half = int(np.ceil(radius * 1.25)) + 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    return np.hypot(x, y) / np.float32(radius), np.arctan2(y, x)


def _wave(angle: Grey, rng: np.random.Generator, orders: range, size: float) -> Grey:
    """Return the deviation of a closed outline from a circle, by angle."""
    parts = [np.sin(order * angle + rng.uniform(0, 2 * np.pi)) * rng.normal() * size / order for order in orders]
    return np.asarray(np.sum(parts, axis=0), np.float32)


def _circumscribed(radius: float, rng: np.random.Generator) -> Grey:
    """Return a smooth round mass: the projection of a ball with a thin dark halo around its well-defined border."""
    distance, angle = _polar(radius)
    outline = 0.93 * (1 - 0.07 * (1 + np.cos(2 * (angle - rng.uniform(0, np.pi)))) * rng.uniform(0, 1))
    inside = np.maximum(1 - (distance / outline) ** 2, 0) ** 0.5
    halo = np.exp(-(((distance / outline - 1.08) / 0.06) ** 2))
    return _within(distance, rng.uniform(0.15, 0.26) * inside - 0.02 * halo)


def _spiculated(radius: float, rng: np.random.Generator) -> Grey:
    """Return a dense irregular mass whose spicules reach approximately to the circle's edge."""
    distance, angle = _polar(radius)
    outline = 0.50 * (1 + np.clip(_wave(angle, rng, range(2, 9), 0.45), -0.3, 0.35))
    core = 1 / (1 + np.exp(9 * (distance / outline - 1)))
    strokes = np.zeros((4 * distance.shape[0], 4 * distance.shape[1]), np.uint8)
    centre = strokes.shape[0] / 2
    for turn in np.arange(0, 2 * np.pi, 2 * np.pi / rng.integers(15, 26)):
        way = turn + rng.normal(0, 0.12) + np.cumsum(np.r_[0, rng.normal(0, 0.05, 4)])
        reach = np.linspace(0.2, rng.uniform(0.72, 1.0), 5) * radius * 4
        points = np.stack([centre + reach * np.cos(way), centre + reach * np.sin(way)], 1)
        cv2.polylines(
            strokes,
            [points.round().astype(np.int32).reshape(-1, 1, 2)],
            False,
            255,
            int(rng.integers(3, 7)),
            cv2.LINE_AA,
        )
    spicules = cv2.resize(strokes, distance.shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    spicules *= np.clip(1.25 - distance, 0, 1)
    return _within(distance, rng.uniform(0.24, 0.42) * np.maximum(core, 0.66 * spicules))


def _within(distance: Grey, lift: Grey) -> Grey:
    """Return the added brightness without its faint tail beyond 1.25 radii."""
    return np.asarray(lift * np.clip(5 * (1.25 - distance), 0, 1), np.float32)


def scatter_calcifications(place: Mask, depth: Grey, rng: np.random.Generator) -> Grey:
    """Return the brightness of some hundred calcifications spread over the breast, float32 of the shape of `place`."""
    lift = np.zeros(place.shape, np.float32)
    candidates = np.flatnonzero(place & (depth > 0.05 * place.shape[0]))
    for index in rng.choice(candidates, int(rng.integers(90, 180))):
        y, x = divmod(int(index), place.shape[1])
        cv2.circle(lift, (x, y), int(rng.integers(1, 3)), float(rng.uniform(0.15, 0.4)), -1, cv2.LINE_AA)
    return np.asarray(cv2.GaussianBlur(lift, (0, 0), 0.6) * place, np.float32)


def draw_marks(
    breast: Mask,
    rng: np.random.Generator,
    *,
    laterality: Laterality,
    view: View,
    film_edges: bool,
    only: Collection[str] | None = None,
) -> Marks:
    """Return the artefacts of an image with the chest wall at the left; they do not depend on its class.

    Args:
        breast: The breast. Label and digits do not cover it; tape and border may.
        rng: The random generator.
        laterality: The side of the body, for the label.
        view: The view, for the label.
        film_edges: Whether the image is a film. A detector has only a burned-in label.
        only: The artefacts to draw, of `label`, `digits`, `tape` and `border`; by default they are drawn at random.
    """
    marks = Marks(np.zeros(breast.shape, np.float32), np.zeros(breast.shape, np.bool_))
    chances = rng.random(4)
    keep_off = cv2.dilate(breast.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=6) > 0
    if not film_edges:
        _burnt_in(marks, keep_off, laterality, view)
        return marks
    drawn = {name: chance < limit for (name, limit), chance in zip(_CHANCES.items(), chances, strict=True)}
    if only is not None:
        drawn = {name: name in only for name in drawn}
    if drawn["label"]:
        _sticker(marks, keep_off, rng, f"{laterality}", f"{view}"[:2])
    if drawn["digits"]:
        _digits(marks, keep_off, rng)
    if drawn["tape"]:
        _tape(marks, rng)
    if drawn["border"]:
        _border(marks, rng)
    return marks


_CHANCES = {"label": 0.75, "digits": 0.5, "tape": 0.25, "border": 0.3}
"""Probability of each artefact on a film."""


def _stamp(marks: Marks, keep_off: Mask, tile: Grey, cover: Mask, x: int, y: int) -> bool:
    """Draw a tile onto the image if it does not cover the breast; return whether it was drawn."""
    rows, columns = marks.mask.shape
    top, left, bottom, right = max(y, 0), max(x, 0), min(y + tile.shape[0], rows), min(x + tile.shape[1], columns)
    if bottom - top < 4 or right - left < 4:
        return False
    window, part = np.s_[top:bottom, left:right], np.s_[top - y : bottom - y, left - x : right - x]
    if (keep_off[window] & cover[part]).any():
        return False
    marks.grey[window] = np.where(cover[part], tile[part], marks.grey[window])
    marks.mask[window] |= cover[part]
    return True


def _text(text: str, size: float) -> npt.NDArray[np.uint8]:
    """Return the text in letters about `size` pixels high, 255 on 0."""
    (width, height), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 1.0, 3)
    tile = np.zeros((height + base, width + 6), np.uint8)
    cv2.putText(tile, text, (3, height), cv2.FONT_HERSHEY_SIMPLEX, 1.0, 255, 3, cv2.LINE_AA)
    scale = size / tile.shape[0]
    return np.asarray(cv2.resize(tile, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)


def _sticker(marks: Marks, keep_off: Mask, rng: np.random.Generator, side: str, view: str) -> None:
    """Draw a white label with dark letters, half of the time mirrored, at the outer upper corner."""
    rows, columns = marks.mask.shape
    height, width = int(0.115 * rows), int(0.072 * rows)
    tile = np.full((height, width), rng.uniform(0.85, 0.95), np.float32)
    for line, text in enumerate((side, view)):
        letters = _text(text, 0.040 * rows)[:, : width - 2]
        y, x = int((0.014 + 0.048 * line) * rows), (width - letters.shape[1]) // 2
        tile[y : y + letters.shape[0], x : x + letters.shape[1]] *= 1 - letters / np.float32(255) * 0.85
    tile = tile[:, ::-1] if rng.random() < 0.5 else tile
    turned, cover = _turned(np.ascontiguousarray(tile), rng.normal(0, 9))
    y = int(rng.uniform(-0.04, 0.08) * rows)
    for _ in range(6):
        if _stamp(marks, keep_off, turned, cover, int(columns - rng.uniform(0.7, 2.2) * width), y):
            return


def _turned(tile: Grey, degrees: float) -> tuple[Grey, Mask]:
    rows, columns = tile.shape
    side = int(np.hypot(rows, columns)) + 2
    matrix = cv2.getRotationMatrix2D((columns / 2, rows / 2), degrees, 1.0)
    matrix[:, 2] += (side - columns) / 2, (side - rows) / 2
    turned = cv2.warpAffine(tile, matrix, (side, side))
    cover = cv2.warpAffine(np.ones_like(tile), matrix, (side, side)) > 0.5
    return np.asarray(turned, np.float32), np.asarray(cover)


def _digits(marks: Marks, keep_off: Mask, rng: np.random.Generator) -> None:
    """Draw faint film numbers at the outer side."""
    rows, columns = marks.mask.shape
    letters = _text(str(rng.integers(1, 99)), 0.030 * rows)[:, ::-1] / np.float32(255)
    grey = np.asarray(letters * rng.uniform(0.12, 0.35), np.float32)
    _stamp(
        marks,
        keep_off,
        grey,
        letters > 0.2,
        int(columns - rng.uniform(0.06, 0.11) * rows),
        int(rng.uniform(0.17, 0.24) * rows),
    )


def _tape(marks: Marks, rng: np.random.Generator) -> None:
    """Draw a strip of tape across the top of the film."""
    height = max(2, int(rng.uniform(0.008, 0.026) * marks.mask.shape[0]))
    strip = np.full((height, marks.mask.shape[1]), rng.uniform(0.15, 0.5), np.float32)
    strip += rng.normal(0, 0.02, (height, 1)).astype(np.float32)
    strip[-1] = 0.75
    marks.grey[:height], marks.mask[:height] = strip, True


def _border(marks: Marks, rng: np.random.Generator) -> None:
    """Draw the bright line at the outer edge where the scanner recorded beyond the film."""
    width = max(1, int(rng.uniform(0.002, 0.008) * marks.mask.shape[0]))
    marks.grey[:, -width:], marks.mask[:, -width:] = rng.uniform(0.5, 0.95), True


def _burnt_in(marks: Marks, keep_off: Mask, laterality: Laterality, view: View) -> None:
    """Draw the label that a digital machine burns into the image: laterality and view at the outer upper corner."""
    rows, columns = marks.mask.shape
    letters = _text(f"{laterality}-{view}", 0.030 * rows) / np.float32(255)
    if laterality is Laterality.RIGHT:
        # The image of a right breast is mirrored after drawing; mirror the text now, so that it is readable then.
        letters = letters[:, ::-1]
    _stamp(
        marks,
        keep_off,
        np.asarray(letters, np.float32),
        letters > 0.2,
        columns - letters.shape[1] - rows // 40,
        rows // 30,
    )
