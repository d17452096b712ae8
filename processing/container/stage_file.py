"""Reads `stage.json`, in which a stage's job states its configuration and its counts."""

from pathlib import Path
from typing import Any

from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import read_json


def read_stage_files(folder: Path, setting: str, stage: str) -> dict[Path, dict[str, Any]]:
    """Return the contents of `stage.json`, or of `stage-<host>.json` of each host, sorted by path.

    Args:
        folder: Output folder of the stage, or the channel with its files.
        setting: The key under `config` that the caller reads.
        stage: Name of the stage whose files have that key, for the message.

    Raises:
        ConfigError: There is no file, or a file is no JSON object with `config` and this key.
    """
    paths = sorted(folder.glob("stage*.json"))
    if not paths:
        raise ConfigError(f"{folder}: no stage.json and no stage-<host>.json here")
    files = {path: read_json(path) for path in paths}
    for path, content in files.items():
        if not isinstance(content.get("config"), dict) or setting not in content["config"]:
            raise ConfigError(f"{path}: config.{setting} is missing; this must be the output of the {stage} job")
    return files
