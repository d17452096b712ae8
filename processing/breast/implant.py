"""Finds an implant in a breast: a large, even, white body with a sharp round edge."""

import cv2
import numpy as np
from numpy.typing import NDArray

from mammopipe.processing.breast.objects import opened
from mammopipe.processing.breast.working_copy import Grey, Mask

WHITE = 0.80
"""Grey (0..1) above which a pixel may belong to an implant."""
EVEN = 0.03
"""Slope of the grey, per working pixel, at and above which a pixel belongs to an edge."""
LEAST_SHARE = 0.15
"""Least share of the breast that an implant covers."""
SOLID = 0.93
"""Least share of its convex hull that an implant fills."""
ELLIPTIC = 0.92
"""Least Dice overlap of an implant with an ellipse."""
FLAT = 0.014
"""Greatest 90th percentile of the slope inside an implant; dense tissue reaches 0.010 to 0.020."""
SHARP = 0.045
"""Least median slope along an implant's edge; round dense tissue on mini-MIAS reaches 0.042."""

TOUCHING = 2
"""A body touches an edge if at most this number of rows lies between them, because the edge is blurred."""

Body = NDArray[np.uint8]


def find_implant(grey: Grey, mask: Mask) -> Mask | None:
    """Return the mask of the implant, or `None` if the breast shows none.

    Glands and muscle can be as white, but they are never even, round and sharply bounded at the same time.

    Args:
        grey: The working copy, float32, (rows, columns), 0..1.
        mask: The breast, of the same shape.
    """
    white = mask & (grey > WHITE)
    if np.count_nonzero(white) < LEAST_SHARE * np.count_nonzero(mask):
        return None
    slope = cv2.magnitude(*(cv2.Sobel(grey, cv2.CV_32F, *way, scale=0.125) for way in ((1, 0), (0, 1))))
    even = (white & (slope < EVEN)).astype(np.uint8)
    body = opened(even, 6)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(body, connectivity=4)
    if count < 2:
        return None
    index = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    top = int(mask.any(axis=1).argmax())
    if stats[index, cv2.CC_STAT_AREA] < LEAST_SHARE * mask.sum() or stats[index, cv2.CC_STAT_TOP] <= top + TOUCHING:
        # A white body that touches the upper edge of the exposed field is muscle.
        return None
    chosen = (labels == index).astype(np.uint8)
    if not _is_elliptic(chosen):
        return None
    square = np.ones((5, 5), np.uint8)
    inside = cv2.erode(chosen, square) > 0
    edge = (cv2.morphologyEx(chosen, cv2.MORPH_GRADIENT, square[:3, :3]) > 0) & (
        cv2.erode(mask.astype(np.uint8), square) > 0
    )
    if not edge.any() or np.percentile(slope[inside], 90) > FLAT or np.median(cv2.dilate(slope, square)[edge]) < SHARP:
        return None
    return cv2.dilate(chosen, square) > 0


def _is_elliptic(body: Body) -> bool:
    outline = max(cv2.findContours(body, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0], key=len)
    if cv2.contourArea(outline) < SOLID * cv2.contourArea(cv2.convexHull(outline)):
        return False
    points = outline[:, 0]
    # Points where the image's edge cuts the body straight are not part of the ellipse.
    free = (points > 1).all(axis=1) & (points[:, 0] < body.shape[1] - 2) & (points[:, 1] < body.shape[0] - 2)
    if free.sum() < 20:
        return False
    ellipse = np.asarray(cv2.ellipse(np.zeros_like(body), cv2.fitEllipse(outline[free]), 1, cv2.FILLED), np.uint8)
    overlap = 2 * int((ellipse & body).sum()) / (int(ellipse.sum()) + int(body.sum()))
    return overlap >= ELLIPTIC
