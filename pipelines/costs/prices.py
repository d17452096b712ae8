"""The two dated, replaceable files behind every estimate: prices per instance hour, and the time that work takes."""

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
    """Prices of storage."""

    s3_gb_month: float = 0.023


class NetworkPrices(Settings):
    """Prices of a VPC's interface endpoints (AWS PrivateLink)."""

    interface_zone_hour: float = 0.01
    """For each endpoint and zone, used or not."""
    interface_gb: float = 0.01


class Prices(Settings):
    """US dollars per instance hour."""

    dated: str
    region: str
    source: str
    processing: Mapping[str, float]
    training: Mapping[str, float]
    hosting: Mapping[str, float]
    transform: Mapping[str, float] = Field(default_factory=dict)
    storage: StoragePrices = Field(default_factory=StoragePrices)
    network: NetworkPrices = Field(default_factory=NetworkPrices)

    @classmethod
    def load(cls, path: Path | None = None) -> "Prices":
        """Return the prices of a file, or those shipped with this version; `ConfigError` if a key is wrong."""
        return _load(cls, path or PRICES)

    def hour(self, kind: str, instance_type: str) -> float:
        """Return the price of an hour of `processing`, `training`, `hosting` or `transform`.

        Raises `ConfigError` for a type without a price.
        """
        table: Mapping[str, float] = getattr(self, kind)
        if instance_type not in table:
            raise ConfigError(f"{instance_type}: prices of {self.dated} have none for {kind}; give --prices FILE")
        return table[instance_type]


class Work(Settings):
    """The time that one unit of work takes."""

    name: str
    unit: str
    core_seconds: float
    measured: bool
    row: str
    """The measurement behind the figure."""


class TrainingSize(Settings):
    """The input size at which training was measured."""

    pixels: int


class JobOverhead(Settings):
    """The time that every job takes in addition to its work."""

    overhead_seconds: float
    download_gigabytes_a_second: float = Field(gt=0)
    """Speed of the download of a job's input from S3 (input mode `File`)."""


class DatasetSize(Settings):
    """The properties of a dataset."""

    images: int
    classes: int = Field(ge=2, le=3)
    """Number of classes of the labels: normal, benign and malignant, or negative and malignant."""
    largest_class: float = Field(gt=0, le=1)
    """Fraction of the images; copies bring the other classes to the same number."""
    malignant: float = Field(gt=0, lt=1)
    """Fraction of the images."""
    gigabytes: float
    rows: int = Field(gt=0)
    """Rows of a usual image."""


class Throughput(Settings):
    """The time that work takes, and on which instances."""

    dated: str
    work: tuple[Work, ...]
    training: TrainingSize
    gpu: Mapping[str, float]
    """Number of the measuring machine's cores that train as fast as the instance; assumed."""
    vcpus: Mapping[str, int]
    job: JobOverhead
    dataset: Mapping[str, DatasetSize]

    @classmethod
    def load(cls, path: Path | None = None) -> "Throughput":
        """Return the measurements of a file, or those shipped with this version; `ConfigError` if a key is wrong."""
        return _load(cls, path or THROUGHPUT)

    def of(self, name: str) -> Work:
        """Return the work with this name; `ConfigError` if there is none."""
        for work in self.work:
            if work.name == name:
                return work
        raise ConfigError(f"{name}: the throughputs of {self.dated} have none; give --throughput FILE")

    def size(self, dataset: str) -> DatasetSize:
        """Return the properties of a dataset; `ConfigError` if there are none."""
        if dataset not in self.dataset:
            raise ConfigError(
                f"dataset = {dataset!r}: the throughputs of {self.dated} have {', '.join(self.dataset)}; "
                f"give --throughput FILE"
            )
        return self.dataset[dataset]

    def cores(self, instance_type: str, *, trains: bool) -> tuple[float, bool]:
        """Return the number of measuring cores that an instance equals, and whether that was measured."""
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
