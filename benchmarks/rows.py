"""The rows that benchmarks print: name, value, unit, bar, better, peers and command."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import write_bytes

Row = dict[str, Any]


def row(
    name: str,
    value: float,
    unit: str,
    bar: float | None,
    better: Literal["lower", "higher"],
    command: str,
    **peers: float,
) -> Row:
    """Return one row.

    Args:
        name: Name of the figure.
        value: The measured value.
        unit: Unit of the value.
        bar: The value to reach; `None` only reports the figure.
        better: Whether lower or higher values are better.
        command: The command that repeats the measurement.
        peers: Other measurements to compare with.
    """
    return {
        "name": name,
        "value": round(value, 4),
        "unit": unit,
        "bar": bar,
        "better": better,
        "peers": {peer: round(each, 4) for peer, each in peers.items()},
        "command": command,
    }


def holds(figure: Row) -> bool:
    """Return whether a figure reaches its bar; a figure without a bar always does."""
    if figure["bar"] is None:
        return True
    return bool(figure["value"] >= figure["bar"] if figure["better"] == "higher" else figure["value"] <= figure["bar"])


def write(path: Path, rows: Sequence[Row]) -> None:
    """Put rows into a file of rows; rows of other names stay in it.

    Args:
        path: A JSON list of rows; created if it does not exist.
        rows: The measured rows. A row of the same name is replaced in its place; a new name is added at the end.

    Raises:
        ConfigError: The file exists but is not a list of rows.
    """
    try:
        named = {each["name"]: each for each in json.loads(path.read_text(encoding="utf-8"))}
    except FileNotFoundError:
        named = {}
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path}: is not a list of benchmark rows: {error!r}; remove it") from None
    named |= {each["name"]: each for each in rows}
    write_bytes(path, (json.dumps(list(named.values()), indent=2) + "\n").encode())
