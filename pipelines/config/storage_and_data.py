"""Where a run keeps its files, and what it does with the images before training."""

import hashlib
import re
from dataclasses import dataclass

from mammopipe.pipelines.config.toml import require
from mammopipe.processing.datasets.manifest import SplitProtocol

SHORTEST_SALT = 16
"""Characters of a salt: a shorter one can be found by trying."""


@dataclass(frozen=True)
class StorageConfig:
    """Where the pipeline's files lie on S3."""

    bucket: str = "mammopipe"
    """The bucket of everything the pipeline reads and writes."""
    prefix: str = "mammopipe"
    """The key prefix below which `raw/`, `weights/`, `executions/` and `checkpoints/` lie."""

    def __post_init__(self) -> None:
        """Refuse what S3 would refuse, or what would make an empty path component."""
        require(
            re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", self.bucket) is not None,
            f"storage.bucket={self.bucket!r}: 3-63 lower-case letters, digits, dots and hyphens",
        )
        require(
            re.fullmatch(r"[\w.=-]+(/[\w.=-]+)*", self.prefix) is not None,
            f"storage.prefix={self.prefix!r}: words joined by single slashes, none at either end",
        )

    def uri(self, *parts: str) -> str:
        """Return the S3 URI of `parts` below the prefix."""
        return "/".join(("s3:/", self.bucket, self.prefix, *parts))


@dataclass(frozen=True)
class DataConfig:
    """How the label table is split and which images are refused."""

    protocol: SplitProtocol = SplitProtocol.PATIENT
    """What is divided: `patient`, or, to be measured beside it and never registered, `film` or `published`."""
    seed: int = 0
    """Seed of the split, of augmentation, training and bootstrap (pipeline parameter Seed)."""
    test_fraction: float = 0.2
    """Share of the patients that is frozen as the test split."""
    folds: int = 5
    """Number of folds of the other patients."""
    validation_fold: int = 0
    """The fold that is the validation split."""
    max_height: int = 2048
    """Rows that a prepared image has at most."""
    reduced_decode: bool = False
    """Whether Prepare decodes JPEG 2000 at half the resolution where that is enough; it measures the difference."""
    max_quarantine: float = 0.05
    """Share of the images that may be refused before a job fails."""
    phi: str = "refuse"
    """What Prepare does with an image that carries a patient's identity: `refuse` or `drop` the attributes."""
    patient_salt: str = ""
    """When set, patient ids are hashed with this secret in everything that Prepare writes: at least 16 characters. It
    travels as a file below `secrets/`, which Prepare's role alone reads, and stands in no request."""

    def __post_init__(self) -> None:
        """Refuse shares outside their range and a validation fold that does not exist."""
        require(0 < self.test_fraction < 1, f"data.test_fraction={self.test_fraction}: between 0 and 1")
        require(0 <= self.max_quarantine <= 1, f"data.max_quarantine={self.max_quarantine}: between 0 and 1")
        require(
            0 <= self.validation_fold < self.folds,
            f"data.validation_fold={self.validation_fold}: one of the {self.folds} folds, counted from 0",
        )
        require(self.phi in ("refuse", "drop"), f"data.phi={self.phi!r}: refuse or drop")
        require(
            not self.patient_salt or len(self.patient_salt) >= SHORTEST_SALT,
            f"data.patient_salt: {len(self.patient_salt)} characters; at least {SHORTEST_SALT}",
        )

    @property
    def salt_name(self) -> str:
        """The name of the salt's file: another one for another salt, and slow to guess the salt from."""
        slow = hashlib.scrypt(self.patient_salt.encode(), salt=b"mammopipe", n=2**14, r=8, p=1, dklen=8)
        return slow.hex()


@dataclass(frozen=True)
class AugmentationConfig:
    """How many stored copies the training images get."""

    copies: int = 1
    """Copies per image of the most frequent class; rarer classes get more (pipeline parameter AugmentationCopies)."""

    def __post_init__(self) -> None:
        """Refuse a number of copies below none; with none the rarer classes are brought up to the most frequent."""
        require(self.copies >= 0, f"augmentation.copies={self.copies}: at least 0")


@dataclass(frozen=True)
class SegmentationConfig:
    """What the network's input looks like."""

    height: int = 160
    """Rows of the network's input (pipeline parameter ImageHeight)."""
    width: int = 112
    """Columns of the network's input (pipeline parameter ImageWidth)."""
    remove_pectoral: bool = True
    """Whether the pectoral muscle is set to air."""

    def __post_init__(self) -> None:
        """Refuse sizes below what the networks' pooling needs."""
        require(
            min(self.height, self.width) >= 64, f"segmentation: {self.height} x {self.width} is below 64 x 64 pixels"
        )
