"""The scales of intervals: each value by hand, there and back."""

import numpy as np
import pytest

from mammopipe.training.metrics.scale import Scale

VALUE = np.array([0.25])
ON_THE_SCALE = {
    Scale.SHARE: np.log(1 / 3),
    Scale.UP_TO_TWO: np.log(1 / 7),
    Scale.POSITIVE: np.log(0.25),
    Scale.REAL: 0.25,
}
SLOPES = {Scale.SHARE: 16 / 3, Scale.UP_TO_TWO: 32 / 7, Scale.POSITIVE: 4.0, Scale.REAL: 1.0}


@pytest.mark.parametrize("scale", Scale)
def test_a_value_is_moved_to_the_scale_and_back(scale: Scale) -> None:
    moved = scale.to(VALUE)
    assert moved == pytest.approx(ON_THE_SCALE[scale])
    assert scale.back(moved) == pytest.approx(VALUE)


@pytest.mark.parametrize("scale", Scale)
def test_the_slope_is_the_derivative(scale: Scale) -> None:
    assert scale.slope(0.25) == pytest.approx(SLOPES[scale])


@pytest.mark.parametrize(("scale", "top"), [(Scale.SHARE, 1.0), (Scale.UP_TO_TWO, 2.0), (Scale.POSITIVE, np.inf)])
def test_the_bounds_of_the_range_are_at_infinity(scale: Scale, top: float) -> None:
    bounds = np.array([0.0, top])
    assert scale.to(bounds).tolist() == [-np.inf, np.inf]
    assert scale.back(np.array([-np.inf, -1e4, 1e4, np.inf])).tolist() == [0.0, 0.0, top, top]


@pytest.mark.parametrize("scale", [Scale.SHARE, Scale.UP_TO_TWO, Scale.POSITIVE])
def test_a_value_outside_of_the_range_has_no_place_on_the_scale(scale: Scale) -> None:
    assert np.isnan(scale.to(np.array([-0.5]))).all()
