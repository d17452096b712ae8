"""What a benchmark prints: rows of name, value, unit, bar, better, peers and command."""

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
    """Return one figure: its bar is what it must reach (`None`: it is reported only), `peers` what it is compared with.

    `command` repeats the measurement.
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
    """Return whether a figure reaches its bar; one without a bar always does."""
    if figure["bar"] is None:
        return True
    return bool(figure["value"] >= figure["bar"] if figure["better"] == "higher" else figure["value"] <= figure["bar"])
