"""Recognises images of the same original by their content, not by their names.

Local features (ORB: E. Rublee et al. 2011, ICCV) of two images must agree on one similarity transform (RANSAC).
Rotated, scaled, deformed, re-exposed and re-encoded copies of an original agree on dozens of features; different images
of one patient agree on fewer than `SAME_IMAGE`. Mirrored and inverted images have different features, so the features
of each `Variant` of an image are compared, too. `mammopipe.processing.splits.duplicate_index` selects the pairs.
"""

from dataclasses import dataclass
from enum import StrEnum

import cv2
import numpy as np
from numpy.typing import NDArray

FEATURES = 300
"""Number of features kept per image."""
HEIGHT = 320
"""Images are first scaled to this number of rows, so that the limits below hold for every size of network input."""
SAME_IMAGE = 24
"""Least number of features that agree on one transform if two images show the same original.

Measured on mini-MIAS, segmented at 160 x 112 and at 384 x 256: at least 32 between a film and its augmented copies, at
most 17 between different images.
"""
_TOLERANCE = 4.0
"""Greatest distance of a feature from the common transform, in pixels; elastic deformation requires some."""
_ITERATIONS = 500
"""Iterations of RANSAC."""
_RIM = 9
"""Width of the rim along the breast's outline that is left out, in pixels, because outlines resemble each other."""


class Variant(StrEnum):
    """Alterations of an image that change its features.

    One direction of mirroring is enough: the other equals it after a rotation, which the features tolerate.
    Measured on mini-MIAS: different images agree on at most 15 features under any variant; a mirrored or inverted copy
    agrees on at least 182.
    """

    AS_IT_IS = "as it is"
    MIRRORED = "mirrored"
    INVERTED = "inverted"
    MIRRORED_AND_INVERTED = "mirrored and inverted"

    def of(self, pixels: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """Return the altered image; `pixels` is uint16, (rows, columns), and 0 outside the tissue, as is the result."""
        if self in (Variant.INVERTED, Variant.MIRRORED_AND_INVERTED):
            pixels = np.where(pixels > 0, 65536 - pixels.astype(np.int32), 0).astype(np.uint16)
        if self in (Variant.MIRRORED, Variant.MIRRORED_AND_INVERTED):
            pixels = np.ascontiguousarray(pixels[::-1])
        return pixels


@dataclass(frozen=True)
class Features:
    """The features of one image: positions (n, 2) and binary descriptors (n, 32), strongest first."""

    points: NDArray[np.float32]
    descriptors: NDArray[np.uint8]


def features(pixels: NDArray[np.uint16]) -> Features:
    """Return the features of a segmented image (uint16, 0 outside the tissue) after equalising its contrast."""
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
    """The agreement of two images."""

    agreeing: int
    """Number of features that agree on one transform."""
    transform: NDArray[np.float64] | None
    """Maps points (x, y) of the first image to the second; 2 x 3, both images at `HEIGHT` rows; `None` if not found."""


NO_MATCH = Match(0, None)


def match(first: Features, second: Features) -> Match:
    """Return the number of features of two images that agree on one similarity transform, and the transform.

    The result is the same in every run: OpenCV starts its RANSAC from a fixed seed.
    """
    if min(len(first.points), len(second.points)) < 4:
        return NO_MATCH
    matches = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(first.descriptors, second.descriptors)
    if len(matches) < 4:
        return NO_MATCH
    source = np.array([first.points[pair.queryIdx] for pair in matches], np.float32)
    target = np.array([second.points[pair.trainIdx] for pair in matches], np.float32)
    transform, agreeing = cv2.estimateAffinePartial2D(
        source, target, ransacReprojThreshold=_TOLERANCE, maxIters=_ITERATIONS
    )
    if transform is None or agreeing is None:
        return NO_MATCH
    return Match(int(np.count_nonzero(agreeing)), np.asarray(transform, np.float64))
