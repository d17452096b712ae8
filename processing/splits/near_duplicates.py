"""Pictures of the same film, found again by what they show, whatever their names say.

Local features (ORB: E. Rublee et al. 2011, ICCV) of two pictures must agree on one similarity transform (RANSAC).
Rotated, scaled, deformed, re-exposed and re-encoded copies of a film agree on dozens of features, different films of
one patient on fewer than `SAME_FILM`. A mirrored or an inverted image has other features: such copies are found by the
features of an image's `Variant`s. Which pictures are worth comparing says
`mammopipe.processing.splits.duplicate_index`.
"""

from dataclasses import dataclass
from enum import StrEnum

import cv2
import numpy as np
from numpy.typing import NDArray

FEATURES = 300
"""Features kept of a picture."""
HEIGHT = 320
"""Rows that pictures are brought to first, so that the limits below mean the same at every size of network input."""
SAME_FILM = 24
"""Features that agree on one transform from which on two pictures show the same film.

Measured on mini-MIAS, segmented at 160 x 112 and at 384 x 256: at least 32 between a film and its augmented copies, at
most 17 between different films.
"""
_TOLERANCE = 4.0
"""Pixels by which a feature may miss the common transform; elastic deformation needs some."""
_ITERATIONS = 500
"""Of RANSAC."""
_RIM = 9
"""Pixels along the outline of the breast that are left out, for outlines resemble each other."""


class Variant(StrEnum):
    """What may have been done to a copy that changes its features; either direction of a mirror is one, for turns are.

    Measured on mini-MIAS: different images agree on at most 15 features under any of them, a mirrored or inverted copy
    on at least 182.
    """

    AS_IT_IS = "as it is"
    MIRRORED = "mirrored"
    INVERTED = "inverted"
    MIRRORED_AND_INVERTED = "mirrored and inverted"

    def of(self, pixels: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """Return a segmented image (uint16, 0 outside the tissue) so altered; outside the tissue it stays 0."""
        if self in (Variant.INVERTED, Variant.MIRRORED_AND_INVERTED):
            pixels = np.where(pixels > 0, 65536 - pixels.astype(np.int32), 0).astype(np.uint16)
        if self in (Variant.MIRRORED, Variant.MIRRORED_AND_INVERTED):
            pixels = np.ascontiguousarray(pixels[::-1])
        return pixels


ALTERED = tuple(variant for variant in Variant if variant is not Variant.AS_IT_IS)


@dataclass(frozen=True)
class Features:
    """What is remembered of one picture: feature positions (n, 2) and binary descriptors (n, 32), strongest first."""

    points: NDArray[np.float32]
    descriptors: NDArray[np.uint8]


def features(pixels: NDArray[np.uint16]) -> Features:
    """Return the features of a segmented film (uint16, 0 outside the tissue), with its contrast evened out."""
    size = (max(1, round(pixels.shape[1] * HEIGHT / pixels.shape[0])), HEIGHT)
    shrinks = pixels.shape[0] > HEIGHT
    pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR))
    inside = cv2.erode((pixels > 0).astype(np.uint8) * np.uint8(255), np.ones((_RIM, _RIM), np.uint8), borderValue=(0,))
    even = cv2.createCLAHE(4.0, (6, 4)).apply((np.asarray(pixels, np.uint16) >> 8).astype(np.uint8))
    found, descriptors = cv2.ORB.create(nfeatures=FEATURES, fastThreshold=4).detectAndCompute(even, inside)
    if descriptors is None:
        return Features(np.zeros((0, 2), np.float32), np.zeros((0, 32), np.uint8))
    order = np.argsort([-point.response for point in found], kind="stable")
    return Features(
        np.array([point.pt for point in found], np.float32)[order], np.asarray(descriptors, np.uint8)[order]
    )


@dataclass(frozen=True)
class Match:
    """How two images agree."""

    agreeing: int
    """Features that agree on one transform."""
    transform: NDArray[np.float64] | None
    """Of points (x, y) of the first image into the second, 2 x 3, both at `HEIGHT` rows; `None` where there is none."""


NO_MATCH = Match(0, None)


def match(first: Features, second: Features) -> Match:
    """Return how many features of two images agree on one similarity transform, and which; the same in every run."""
    if min(len(first.points), len(second.points)) < 4:
        return NO_MATCH
    matches = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(first.descriptors, second.descriptors)
    if len(matches) < 4:
        return NO_MATCH
    source = np.array([first.points[pair.queryIdx] for pair in matches], np.float32)
    target = np.array([second.points[pair.trainIdx] for pair in matches], np.float32)
    cv2.setRNGSeed(0)
    transform, agreeing = cv2.estimateAffinePartial2D(
        source, target, ransacReprojThreshold=_TOLERANCE, maxIters=_ITERATIONS
    )
    if transform is None or agreeing is None:
        return NO_MATCH
    return Match(int(np.count_nonzero(agreeing)), np.asarray(transform, np.float64))


def agreement(first: Features, second: Features) -> int:
    """Return how many features of two images agree on one similarity transform."""
    return match(first, second).agreeing
