"""Two dated, replaceable files behind every estimate: what an instance-hour costs, and what the work takes."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import Field

from mammopipe.pipelines.config.toml import read_toml
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.settings import Settings

FOLDER = Path(__file__).parent
File = TypeVar("File", bound=Settings)
PRICES, THROUGHPUT = FOLDER / "prices.toml", FOLDER / "throughput.toml"


class StoragePrices(Settings):
    """What files cost."""

    s3_gb_month: float = 0.023


class Prices(Settings):
    """US dollars an instance-hour."""

    dated: str
    region: str
    source: str
    processing: Mapping[str, float]
    training: Mapping[str, float]
    hosting: Mapping[str, float]
    storage: StoragePrices = Field(default_factory=StoragePrices)

    @classmethod
    def load(cls, path: Path | None = None) -> "Prices":
        """Return the prices of a file, or those that come with this version; `ConfigError` where a key is wrong."""
        return _load(cls, path or PRICES)

    def hour(self, kind: str, instance_type: str) -> float:
        """Return the price of an hour of `processing`, `training` or `hosting`; `ConfigError` for an unknown type."""
        table: Mapping[str, float] = getattr(self, kind)
        if instance_type not in table:
            raise ConfigError(f"{instance_type}: prices of {self.dated} have none for {kind}; give --prices FILE")
        return table[instance_type]


class Work(Settings):
    """What one unit of work takes."""

    name: str
    unit: str
    core_seconds: float
    measured: bool
    row: str
    """The measurement that it is from."""


class TrainingSize(Settings):
    """The input at which training was measured."""

    pixels: int


class JobOverhead(Settings):
    """What every job takes beside its work."""

    overhead_seconds: float


class DatasetSize(Settings):
    """What a dataset is like."""

    images: int
    largest_class: float
    """Share of the images; the other classes are brought to the same number by copies."""
    gigabytes: float


class Throughput(Settings):
    """What the work takes, and on which instances."""

    dated: str
    work: tuple[Work, ...]
    training: TrainingSize
    gpu: Mapping[str, float]
    """Cores of the measuring machine that an instance trains like; assumed."""
    vcpus: Mapping[str, int]
    job: JobOverhead
    dataset: Mapping[str, DatasetSize]

    @classmethod
    def load(cls, path: Path | None = None) -> "Throughput":
        """Return the measurements of a file, or those that come with this version; `ConfigError` for a wrong key."""
        return _load(cls, path or THROUGHPUT)

    def of(self, name: str) -> Work:
        """Return the work of a name; `ConfigError` where it was not measured."""
        for work in self.work:
            if work.name == name:
                return work
        raise ConfigError(f"{name}: the throughputs of {self.dated} have none; give --throughput FILE")

    def cores(self, instance_type: str, *, trains: bool) -> tuple[float, bool]:
        """Return how many measuring cores an instance is worth, and whether that is more than an assumption."""
        if trains and instance_type in self.gpu:
            return self.gpu[instance_type], False
        if instance_type not in self.vcpus:
            raise ConfigError(
                f"{instance_type}: its cores are not in the throughputs of {self.dated}; give --throughput FILE"
            )
        return float(self.vcpus[instance_type]), True


def _load(cls: type[File], path: Path) -> File:
    try:
        return cls.from_values(read_toml(path))
    except ConfigError as error:
        raise ConfigError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
