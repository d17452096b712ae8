"""Judges an image together with its mirror image, for models with `test_flips`."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mammopipe.inference.engines.base import Engine, Forward
from mammopipe.training.model.near_threshold import NearThreshold


def run_with_mirror_image(
    engine: Engine, image: NDArray[np.float32], near_threshold: NearThreshold, *, exact: bool
) -> Forward:
    """Return the output for an image whose logits are the mean of the image's and of its mirror image's, top to bottom.

    The feature maps, from which heatmap and strangeness are computed, are those of the image alone.

    Args:
        engine: The engine.
        image: float32 (H, W) in [0, 1].
        near_threshold: Decides whether the mean is too close to a threshold; both images are then judged in float32.
        exact: Whether to compute in float32 from the start.
    """
    plain = engine.run(image, exact=exact)
    logits = (plain.logits + engine.run(np.ascontiguousarray(image[::-1]), exact=exact).logits) / 2
    if not exact and near_threshold.near(logits):
        return run_with_mirror_image(engine, image, near_threshold, exact=True)
    return replace(plain, logits=logits)
