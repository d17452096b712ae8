"""The rows that benchmarks print: name, value, unit, bar, better, peers and command."""

from typing import Any, Literal

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
