"""Bounds from a distribution, without resampling: exact bounds of a proportion, and quantiles of Student's t."""

from functools import lru_cache


def exact_bounds(value: float, cases: int, level: float) -> tuple[float, float] | tuple[None, None]:
    """Return the exact bounds of a proportion of 0 or 1 (Clopper and Pearson 1934); `None` for other values."""
    if value not in (0.0, 1.0) or cases < 1:
        return None, None
    reach = float(((1 - level) / 2) ** (1 / cases))
    return (reach, 1.0) if value == 1 else (0.0, 1 - reach)


@lru_cache(maxsize=4096)
def student_quantile(probability: float, freedom: float) -> float:
    """Return a quantile of Student's t distribution."""
    # Imported here, because the import takes 0.3 s and many callers need no interval.
    from scipy.stats import t as student

    return float(student.ppf(probability, freedom))
