"""What is called malignant or not, and how views become a breast; the process that takes requests loads no numpy."""

from enum import StrEnum


class Level(StrEnum):
    """What is called malignant or not; each level is made of the one before."""

    IMAGE = "image"
    BREAST = "breast"
    PATIENT = "patient"


class BreastRule(StrEnum):
    """How the scores of a breast's views become the score of the breast."""

    MEAN = "mean"
    MAX = "max"
    """The most suspicious view decides."""
    NOISY_OR = "noisy-or"
    """The probability that any view is right, as if views erred independently: 1 - product of (1 - score)."""
