"""The scales on which intervals of metrics are symmetric."""

from enum import StrEnum

import numpy as np

from mammopipe.training.model.predictions import Floats


class Scale(StrEnum):
    """The range of a metric. It determines the scale on which the interval is symmetric."""

    SHARE = "share"
    """From 0 to 1; the interval uses the logit scale."""
    UP_TO_TWO = "up to two"
    """From 0 to 2, as the Brier score of several classes; the interval uses the logit scale of half the metric."""
    POSITIVE = "positive"
    """Above 0; the interval uses the logarithmic scale."""
    REAL = "real"
    """Any real number; the interval uses the metric's own scale."""

    def to(self, values: Floats) -> Floats:
        """Transform values to the symmetric scale; the result is infinite at a bound of the range."""
        with np.errstate(divide="ignore", invalid="ignore"):
            if self in (Scale.SHARE, Scale.UP_TO_TWO):
                shares = values / self._top
                return np.log(shares) - np.log1p(-shares)
            return np.log(values) if self is Scale.POSITIVE else values

    def back(self, values: Floats) -> Floats:
        """Transform values back from the symmetric scale; the inverse of `to`, with the range's bounds at infinity."""
        with np.errstate(over="ignore"):
            if self in (Scale.SHARE, Scale.UP_TO_TWO):
                figures: Floats = self._top / (1 + np.exp(-values))
                return figures
            return np.exp(values) if self is Scale.POSITIVE else values

    def slope(self, value: float) -> float:
        """Return the derivative of `to` at a value."""
        if self in (Scale.SHARE, Scale.UP_TO_TWO):
            return self._top / (value * (self._top - value))
        return 1 / value if self is Scale.POSITIVE else 1.0

    @property
    def _top(self) -> float:
        return 2.0 if self is Scale.UP_TO_TWO else 1.0
