"""Finds the breast's outline and leaves out labels, tape, borders, fog and the abdomen."""

import cv2
import numpy as np
from numpy.typing import NDArray

from mammopipe.processing.breast.air import Air
from mammopipe.processing.breast.objects import Objects, by_size, dilated, eroded, opened, without_holes
from mammopipe.processing.breast.working_copy import Grey, Mask
from mammopipe.processing.errors import NoBreastError

KINK = 0.03
"""Least depth of the kink between breast and abdomen, as a share of the breast's greatest width."""
NARROW_BELOW = 0.35
"""Greatest width of the breast at the kink, as a share of its greatest width."""
NARROW_ABOVE = 0.2
"""The same limit at the upper end, where the axilla, which belongs to the breast, is narrow, too."""
STRIP = 0.12
"""A strip narrower than this share of the breast's greatest width is not breast if it is also long enough."""
FOLD_HEIGHT, FOLD_WIDTH = 0.40, 0.22
"""Shares of the breast's height and width, at the chest wall's lower end, in which a fold is sought."""
FOLD_STEP, FOLD_LOWER_STEP = 0.15, 0.13
"""Least mean step in grey (0..1) across a fold's edge, and across the lower third of the edge."""
FOLD_LEAST, FOLD_STEEPEST = 0.05, 0.25
"""Step in grey (0..1) that a row must exceed to lengthen the edge, and the limit above which a step counts no more."""
FOLD_STEADY = 0.95
"""Least share of the edge's rows whose step exceeds `FOLD_LEAST`."""
FOLD_BENT = 0.24
"""Greatest movement of a fold's edge to one side and back again, in columns per row."""
FOLD_LENGTH, FOLD_START = 0.10, 0.08
"""Least length of a fold's edge, and greatest distance of its lower end from the breast's, in heights of the breast."""
FOLD_SIDESTEP = 0.02
"""Cost of each column by which the edge of a fold moves from row to row."""
FOLD_TALL = 1.35
"""Least length of a fold's edge, in widths of the fold."""
FOLD_THIN, FOLD_NARROWING, FOLD_SLANT = 8, 1.5, 0.02
"""A fold of at most `FOLD_THIN` pixels may narrow by `FOLD_NARROWING` pixels downward, a wider one by `FOLD_SLANT`
pixels per row."""
_EDGE_ENDS = 2
"""Mark of the row in which an edge ends, in place of its move to the next row: -1, 0 or 1 columns."""

BAND = 0.11
"""Greatest height of a dark band at the film's upper edge, as a share of the breast's height."""
BAND_STEP, BAND_ACROSS = 0.08, 0.85
"""Least step in grey (0..1) from a band to the breast below it, and the share of the columns that must show it."""
TAB_DEPTH, TAB_WIDTH, TAB_AREA = 0.015, 0.4, 0.03
"""Least depth of a tab below the fold and its greatest width and area, as shares of the breast's own."""
STEEP = 0.8
"""Least slope, in columns per row, by which the outline approaches the chest wall above the kink."""


def breast_outline(grey: Grey, air: Air) -> Mask:
    """Return the largest object of tissue, without holes and cut off from objects that touch it by a thin bridge.

    Args:
        grey: The working copy, float32, (rows, columns), 0..1.
        air: The background of `grey`.

    Returns:
        The breast as a mask of the shape of `grey`.

    Raises:
        NoBreastError: The image shows only air, labels and borders.
    """
    # A frame of air, so that opening removes thin fog along the image's edge.
    framed = np.pad(grey, 1)
    objects = (framed > air.threshold).astype(np.uint8)
    objects[0] = objects[-1] = objects[:, 0] = objects[:, -1] = 0
    unit = max(objects.shape) / 100
    objects &= 1 - _labels(framed, unit)
    core = _largest(opened(objects, 2.0 * unit), framed)
    # Opening also removes corners and the nipple; restore what lies close to the core.
    near = dilated(core, 1.6 * unit) & opened(objects, 0.4 * unit)
    if air.fog:
        # Fog along the film's edge is dim: only pixels near a brighter region can be skin.
        near &= dilated(opened(core & (framed > air.threshold + 0.06), unit), 3.5 * unit)
    near = _largest(near, framed)
    closed = eroded(dilated(near, 0.8 * unit), 0.8 * unit)
    return without_holes(closed | near)[1:-1, 1:-1].astype(np.bool_)


def without_pockets(mask: Mask, *, chest_left: bool) -> Mask:
    """Return the mask with dark pockets filled that it encloses together with the chest wall or the upper edge."""
    turned = mask if chest_left else mask[:, ::-1]
    framed = np.pad(turned, 1).astype(np.uint8)
    for line, edge in ((framed[:, 0], turned[:, 0]), (framed[0], turned[0])):
        touching = np.flatnonzero(edge)
        if touching.size:
            line[touching[0] + 1 : touching[-1] + 2] = 1
    filled = without_holes(framed)[1:-1, 1:-1].astype(np.bool_)
    return np.ascontiguousarray(filled if chest_left else filled[:, ::-1])


def _labels(grey: Grey, unit: float) -> Objects:
    """Return the labels (white plates of lead letters) with a margin: small white objects surrounded by dark pixels.

    Bright tissue is not surrounded by dark pixels: it fades into fat before it reaches the air, and muscle ends at the
    image's edge, where no air follows.
    """
    white = (grey > 0.8).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(white, connectivity=4)
    plates = np.zeros_like(white)
    margin = max(2, round(0.8 * unit))
    for index in range(1, count):
        x, y, width, height, area = (int(value) for value in stats[index])
        if not 4 * unit <= area <= 150 * unit**2 or area < 0.5 * width * height:
            continue
        box = np.s_[max(y - margin, 0) : y + height + margin, max(x - margin, 0) : x + width + margin]
        plate = (labels[box] == index).astype(np.uint8)
        distance = np.rint(cv2.distanceTransform(1 - plate, cv2.DIST_L2, 3))
        if (grey[box][distance == margin] < 0.35).mean() > 0.8:
            plates[box] |= distance <= margin
    return plates


def _largest(objects: Objects, grey: Grey) -> Objects:
    """Return the largest object that is neither a label nor a scanner's border.

    Labels and borders are evenly white; a label fills its rectangle, and a border is a strip or an angle. A breast with
    an implant is evenly white, too, but round.
    """
    for chosen in by_size(objects):
        area = int(np.count_nonzero(chosen))
        dark = np.count_nonzero(chosen.view(np.bool_) & (grey < 0.9))
        if area and (dark > 0.2 * area or _is_round(chosen, area)):
            return chosen
    raise NoBreastError("no breast: nothing but air, labels and borders in the image")


def _is_round(chosen: Objects, area: int) -> bool:
    points = cv2.findNonZero(chosen)
    hull = cv2.contourArea(cv2.convexHull(points))
    (_, (width, height), _) = cv2.minAreaRect(points)
    return area > 0.8 * hull and hull < 0.9 * width * height and min(width, height) > 0.2 * max(width, height)


def row_ends(mask: Mask) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Return the indices of the rows that hold breast, and the first and the last breast column of each."""
    rows = np.flatnonzero(mask.any(axis=1))
    return rows, mask[rows].argmax(axis=1), mask.shape[1] - 1 - mask[rows, ::-1].argmax(axis=1)


def without_abdomen(mask: Mask) -> Mask:
    """Return the mask without the abdomen below the breast, and without a similar strip above it.

    The abdomen is a strip or fold along the chest wall. Where it begins, the outline has a kink: it leaves the lower
    side of the breast and runs down the chest wall.
    """
    cut = mask.copy()
    widths = mask.sum(axis=1).astype(np.float64)
    rows = np.flatnonzero(widths)
    widest = int(widths.argmax())
    below, above = widths[widest : rows[-1] + 1], widths[rows[0] : widest + 1][::-1]
    cut[widest + _kink(below, rows.size, NARROW_BELOW) :] = False
    cut[: widest + 1 - _kink(above, rows.size, NARROW_ABOVE)] = False
    return cut


def without_tab(mask: Mask, *, chest_left: bool) -> Mask:
    """Return the mask without a tab of the abdomen below the fold under the breast.

    From the breast, the lower outline rises to the fold. Over the abdomen it falls again.
    """
    turned = mask if chest_left else mask[:, ::-1]
    columns = np.flatnonzero(turned.any(axis=0))
    lowest = turned.shape[0] - 1 - turned[::-1, columns].argmax(axis=0)
    tab = np.maximum.accumulate(lowest) - lowest
    breast = np.maximum.accumulate(lowest[::-1])[::-1] - lowest
    depth = np.minimum(tab, breast)[: max(1, round(TAB_WIDTH * columns.size))]
    fold = int(depth.argmax())
    if depth[fold] < TAB_DEPTH * np.count_nonzero(mask.any(axis=1)):
        return mask
    cut = turned.copy()
    cut[lowest[fold] + 1 :, : columns[fold]] = False
    if np.count_nonzero(cut) < (1 - TAB_AREA) * np.count_nonzero(mask):
        return mask
    return np.ascontiguousarray(cut if chest_left else cut[:, ::-1])


def _kink(widths: NDArray[np.float64], height: int, narrow: float) -> int:
    """Return the number of rows, counted from the widest, before a narrow strip begins; all rows without a strip.

    The kink is the row whose width is farthest below the straight line from the widest row to the last one. A strip
    that is too narrow to be breast is cut off without a kink, too.
    """
    if widths.size < 4:
        return widths.size
    reach = max(2, round(0.04 * height))
    depth = np.linspace(widths[0], widths[-1], widths.size) - widths
    kink = int(depth.argmax())
    fall = (widths[max(kink - reach, 0)] - widths[kink]) / reach
    rest = (widths[kink] - widths[min(kink + reach, widths.size - 1)]) / reach
    is_deep = depth[kink] > KINK * widths[0] and widths[kink] < narrow * widths[0]
    is_kink = is_deep and fall > STEEP and rest < 0.4 * fall
    if is_kink and widths.size - kink >= 0.02 * height:
        return kink + 1
    strip = np.flatnonzero(widths < STRIP * widths[0])
    if strip.size and widths.size - strip[0] >= reach:
        return int(strip[0])
    return widths.size


def without_band(grey: Grey, mask: Mask) -> tuple[Mask, int]:
    """Return the mask without a dark band across the film's upper edge, and the band's last row; 0 without a band.

    A band is tape, or the edge of the scanned film. Below it, nearly all columns become brighter at one row. No anatomy
    has such an edge: the muscle's slants.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    top, zone = int(rows[0]), round(BAND * rows.size)
    if top + zone + 4 >= mask.shape[0]:
        return mask, 0
    columns = np.flatnonzero(mask[top : top + zone + 4].all(axis=0))
    if columns.size < 0.2 * mask.any(axis=0).sum():
        return mask, 0
    strip = cv2.blur(grey[top : top + zone + 4, columns], (1, 2))
    steps = strip[3:] - strip[:-3]
    across = (steps > BAND_STEP).mean(axis=1)
    edge = int(across.argmax())
    if across[edge] < BAND_ACROSS:
        return mask, 0
    cut = mask.copy()
    cut[: top + edge + 3] = False
    return cut, top + edge + 3


def without_overhang(mask: Mask, *, chest_left: bool) -> Mask:
    """Return the mask without objects that jut out at the film's upper and lower edge: tape, fog, parts of a label.

    The skin recedes there, or slants gradually towards the arm, but its outline never jumps.
    """
    turned = mask if chest_left else mask[:, ::-1]
    rows, _, last = row_ends(turned)
    limits = last.astype(np.float64)
    zone = max(1, round(0.1 * rows.size))
    for order in (range(zone, -1, -1), range(rows.size - zone - 1, rows.size)):
        bound = np.inf
        for row in order:
            bound = limits[row] = min(limits[row], bound + 1.5)
    cut = turned.copy()
    cut[rows] &= np.arange(mask.shape[1])[None, :] <= limits[:, None]
    return np.ascontiguousarray(cut if chest_left else cut[:, ::-1])


def without_fold(grey: Grey, mask: Mask, *, chest_left: bool) -> Mask:
    """Return the mask without a fold of the abdomen that covers the breast's lower corner at the chest wall.

    The fold is thick and bright, the lower breast beside it thin and dark. The edge between them is sharp and runs from
    the mask's lower end upward, to the row where the breast is as bright as the fold. Above that row, the fold cannot
    be distinguished from the breast and is kept. A fold widens downward; what narrows is a muscle or an implant.
    """
    turned, picture = (mask, grey) if chest_left else (mask[:, ::-1], grey[:, ::-1])
    rows, columns = np.flatnonzero(turned.any(axis=1)), np.flatnonzero(turned.any(axis=0))
    top, first = int(rows[-1]) - round(FOLD_HEIGHT * rows.size), int(columns[0])
    box = np.s_[max(top, 0) : rows[-1] + 1, first : first + max(8, round(FOLD_WIDTH * columns.size))]
    step, inside = _steps_outward(picture[box], turned[box])
    if not step.size:
        return mask
    gain = np.where(inside, np.minimum(step, FOLD_STEEPEST) - FOLD_LEAST, -1.0)
    apex, edge = _steepest_edge(gain, start=round(FOLD_START * rows.size))
    if not _is_fold(edge, step[np.arange(apex, apex + edge.size), edge], rows.size):
        return mask
    cut = turned.copy()
    limits = np.full(mask.shape[0], first + 2 + int(edge[-1]))
    above = box[0].start + apex
    limits[:above] = 0
    limits[above : above + edge.size] = first + 2 + edge
    cut &= np.arange(mask.shape[1])[None, :] >= limits[:, None]
    return np.ascontiguousarray(cut if chest_left else cut[:, ::-1])


def _is_fold(edge: NDArray[np.intp], steps: Grey, height: int) -> bool:
    """Return whether an edge, given by its column in each row and by its steps, is that of a fold.

    Gland has steep edges, too, but they are not straight, or do not stay steep down to the thin lower breast.
    """
    widest = int(edge.max()) + 2
    if edge.size < max(3.0, FOLD_LENGTH * height, FOLD_TALL * widest):
        return False
    may_narrow = FOLD_NARROWING if widest <= FOLD_THIN else FOLD_SLANT * edge.size
    sidesteps = np.diff(edge)
    back_and_forth = np.abs(sidesteps).sum() - abs(sidesteps.sum())
    return bool(
        edge[:3].mean() - edge[-3:].mean() <= may_narrow
        and back_and_forth <= FOLD_BENT * edge.size
        and (steps > FOLD_LEAST).mean() >= FOLD_STEADY
        and steps.mean() >= FOLD_STEP
        and steps[-edge.size // 3 :].mean() >= FOLD_LOWER_STEP
    )


def _steps_outward(grey: Grey, mask: Mask) -> tuple[Grey, Mask]:
    """Return the step from bright to dark, away from the chest wall, and whether it lies in the breast.

    Both results have 5 columns fewer than the image: their column c is the image's column c + 2.
    """
    sums = np.pad(np.cumsum(grey, axis=1, dtype=np.float32), ((0, 0), (1, 0)))
    bright, dark = sums[:, 2:-4] - sums[:, :-6], sums[:, 5:-1] - sums[:, 3:-3]
    return np.asarray((bright - dark) / 2, np.float32), mask[:, 2:-3] & mask[:, 4:-1]


def _steepest_edge(gain: NDArray[np.floating], *, start: int) -> tuple[int, NDArray[np.intp]]:
    """Return the first row and the columns, from top to bottom, of the edge with the highest sum of gains.

    The edge ends in one of the last `start` rows. From row to row it moves by one column at most.
    """
    count, width = gain.shape
    totals, moves = np.full((count, width + 2), -np.inf), np.full(gain.shape, _EDGE_ENDS, np.int8)
    totals[:, 1:-1] = gain
    for row in range(count - 2, -1, -1):
        below = totals[row + 1]
        left, straight, right = below[:-2] - FOLD_SIDESTEP, below[1:-1], below[2:] - FOLD_SIDESTEP
        kept = np.maximum(left, straight)
        best, moved = np.maximum(kept, right), np.where(right > kept, 1, np.where(left > straight, -1, 0))
        if count - 1 - row <= start:
            moved[best < 0] = _EDGE_ENDS
            best = np.maximum(best, 0)
        totals[row, 1:-1] += best
        moves[row] = moved
        if count - 1 - row > start and totals[row].max() <= 0:
            totals[:row] = -np.inf  # no edge reaches further up
            break
    totals = totals[:, 1:-1]
    apex, column = (int(index) for index in np.unravel_index(int(totals.argmax()), totals.shape))
    edge = [column]
    while (move := int(moves[apex + len(edge) - 1, edge[-1]])) != _EDGE_ENDS:
        edge.append(edge[-1] + move)
    return apex, np.array(edge, np.intp)
