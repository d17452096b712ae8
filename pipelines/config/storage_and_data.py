"""Settings of the storage, the data split, and the steps Prepare, Augment and Segment."""

import hashlib
import re

from pydantic import Field, model_validator

from mammopipe.processing.breast.harmonisation import Harmonisation
from mammopipe.processing.datasets.manifest import SplitProtocol
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.read_config import ForProcessing, Phi
from mammopipe.processing.settings import Settings
from mammopipe.processing.splits.assignment import SplitConfig

SHORTEST_SALT = 16
"""Minimum number of characters of a salt; a shorter one can be found by brute force."""

MOST_PIXELS = 16_384
"""Maximum number of rows and columns of the network's input; no mammogram has more."""


class StorageConfig(Settings):
    """The location of the pipeline's files on S3."""

    bucket: str = Field(default="mammopipe", description="bucket of everything that the pipeline reads and writes")
    prefix: str = Field(
        default="mammopipe",
        description="key prefix of the folders `raw/`, `weights/`, `executions/` and `checkpoints/`",
    )

    @model_validator(mode="after")
    def _check(self) -> "StorageConfig":
        """Refuse values that S3 would refuse or that would give an empty path component."""
        if re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", self.bucket) is None:
            raise ConfigError(
                f"storage.bucket={self.bucket!r}: must be 3-63 lower-case letters, digits, dots or hyphens"
            )
        if re.fullmatch(r"[\w.=-]+(/[\w.=-]+)*", self.prefix) is None:
            raise ConfigError(f"storage.prefix={self.prefix!r}: must be words joined by single slashes")
        return self

    def uri(self, *parts: str) -> str:
        """Return the S3 URI of `parts` below the prefix."""
        return "/".join(("s3:/", self.bucket, self.prefix, *parts))


class DataConfig(Settings):
    """How the label table is split and which images are refused."""

    protocol: SplitProtocol = Field(
        default=SplitProtocol.PATIENT,
        description="what the split divides: `patient`; or, only for comparison and never registered, `film` or "
        "`published`",
    )
    seed: int = Field(
        default=0,
        ge=0,
        le=2**32 - 1,
        description="seed of the split, of augmentation, training and bootstrap (parameter Seed)",
    )
    test_fraction: float = Field(
        default=0.2, gt=0, lt=1, description="share of the patients that is frozen as the test split"
    )
    folds: int = Field(default=5, ge=2, description="number of folds of the other patients")
    validation_fold: int = Field(default=0, ge=0, description="the fold that is the validation split, counted from 0")
    max_height: int = Field(default=2048, ge=64, description="maximum number of rows of a prepared image")
    reduced_decode: bool = Field(
        default=False,
        description="whether Prepare decodes JPEG 2000 at half the resolution if that is enough for max_height; it "
        "measures the difference and decodes an image in full if the difference is large",
    )
    for_processing: ForProcessing = Field(
        default=ForProcessing.REFUSE,
        description="what Prepare does with raw images (for processing): `refuse` them, or `convert` them with a "
        "logarithm and a window from the histogram, and flag them `for-processing-converted`; the model stores the "
        "choice for serving",
    )
    max_quarantine: float = Field(
        default=0.05, ge=0, le=1, description="share of the images above which refused images make a job fail"
    )
    phi: Phi = Field(
        default=Phi.REFUSE,
        description="what Prepare does with an image whose header names its patient: `refuse` it, or `drop` the header",
    )
    patient_salt: str = Field(
        default="",
        repr=False,
        description="when set, Prepare hashes patient ids with this secret in everything that it writes; at least 16 "
        "characters. The secret is stored as a file below `secrets/` on S3, which only Prepare's role can read, and "
        "appears in no request",
    )

    @model_validator(mode="after")
    def _check(self) -> "DataConfig":
        """Refuse a validation fold that does not exist."""
        if self.validation_fold >= self.folds:
            raise ConfigError(
                f"data.validation_fold={self.validation_fold}: must be one of the {self.folds} folds, counted from 0"
            )
        if self.patient_salt and len(self.patient_salt) < SHORTEST_SALT:
            raise ConfigError(
                f"data.patient_salt: {len(self.patient_salt)} characters; must have at least {SHORTEST_SALT}"
            )
        return self

    @property
    def split(self) -> SplitConfig:
        """The settings of the split by patient."""
        return SplitConfig(self.test_fraction, self.folds, self.validation_fold, self.seed)

    @property
    def salt_name(self) -> str:
        """The name of the salt's file: unique to the salt, and slow to compute, which prevents guessing the salt."""
        # Two runs with the same salt must find the same file, so the salt of scrypt itself is fixed.
        return hashlib.scrypt(self.patient_salt.encode(), salt=b"mammopipe", n=2**14, r=8, p=1, dklen=8).hex()


class SegmentationConfig(Settings):
    """Size and preprocessing of the network's input."""

    height: int = Field(
        default=160, ge=64, le=MOST_PIXELS, description="rows of the network's input (parameter ImageHeight)"
    )
    width: int = Field(
        default=112, ge=64, le=MOST_PIXELS, description="columns of the network's input (parameter ImageWidth)"
    )
    remove_pectoral: bool = Field(default=True, description="whether the pectoral muscle is set to air")
    shard_megabytes: float = Field(
        default=0.0,
        ge=0,
        le=10_000,
        description="size in MB (10^6 bytes) of the shards: tar archives with an index into which Segment packs the "
        "images of each split. 100 suits compute.input_mode = FastFile; 0 writes one file for each image",
    )
    harmonisation: Harmonisation = Field(
        default=Harmonisation.NONE,
        description="how grey levels of the tissue are mapped to those of a reference, so that digitised films and "
        "digital images look alike: `none`, `exponent` or `quantiles`; the model stores the choice for serving",
    )
