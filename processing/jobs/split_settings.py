"""Reads from Prepare's `stage.json` how the images are divided and how raw images were treated, for later jobs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        parts = sorted(folder.glob("stage*.json"))
        if not parts:
            raise ConfigError(f"{folder}: no stage.json and no stage-<host>.json here, which say how images are split")
        found = {part: cls._stated(part) for part in parts}
        if len(set(found.values())) > 1:
            raise ConfigError(
                f"{folder}: {', '.join(part.name for part in parts)} state different splits or treatments of raw images"
            )
        return found[parts[0]]

    @classmethod
    def _stated(cls, part: Path) -> "Division":
        try:
            config: Mapping[str, Any] = json.loads(part.read_text(encoding="utf-8"))["config"]
            raw = ForProcessing(config.get("for_processing", ForProcessing.REFUSE))
            return cls(stated_protocol(config, where=str(part)), SplitConfig(**config["split"]), raw)
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{part}: config.split or config.for_processing cannot be read: {error}; not a stage.json of Prepare"
            ) from None


def image_place(record: ImageRecord) -> Path:
    """Return the path of an image relative to the stage's folder of images."""
    return Path(str(record.split or UNDIVIDED), f"{record.image_id}.png")
