"""Reads from Prepare's `stage.json` how the images are divided and how raw images were treated, for later jobs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mammopipe.processing.container.stage_file import read_stage_files
from mammopipe.processing.datasets.manifest import ImageRecord, SplitProtocol, stated_protocol
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.read_config import ForProcessing
from mammopipe.processing.splits.assignment import SplitConfig

UNDIVIDED = "undivided"
"""Folder of images without a split."""


@dataclass(frozen=True)
class Division:
    """The protocol and the settings of the division into splits."""

    protocol: SplitProtocol
    config: SplitConfig
    for_processing: ForProcessing = ForProcessing.REFUSE
    """What Prepare did with raw images."""

    @classmethod
    def read(cls, folder: Path) -> "Division":
        """Return the division in a folder's `stage.json`; raises `ConfigError` if those of several hosts differ."""
        found = {
            path: cls._stated(path, content["config"])
            for path, content in read_stage_files(folder, "split", "Prepare").items()
        }
        if len(set(found.values())) > 1:
            names = ", ".join(path.name for path in found)
            raise ConfigError(f"{folder}: {names} state different splits or treatments of raw images")
        return next(iter(found.values()))

    @classmethod
    def _stated(cls, path: Path, config: Mapping[str, Any]) -> "Division":
        try:
            raw = ForProcessing(config.get("for_processing", ForProcessing.REFUSE))
            return cls(stated_protocol(config, where=str(path)), SplitConfig(**config["split"]), raw)
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"{path}: config.split or config.for_processing cannot be read: {error}; not a stage.json of Prepare"
            ) from None


def image_place(record: ImageRecord) -> Path:
    """Return the path of an image relative to the stage's folder of images."""
    return Path(str(record.split or UNDIVIDED), f"{record.image_id}.png")
