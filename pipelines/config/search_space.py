"""Parses the ranges that a search draws values from: `log(1e-5,1e-2)`, `uniform(0,0.5)`, `int(2,8)`, `choice(a,b)`."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from mammopipe.processing.errors import ConfigError

if TYPE_CHECKING:
    import optuna

_RANGE = re.compile(r"(log|uniform|int|choice)\((.*)\)")


class Kind(StrEnum):
    """How values are drawn."""

    LOG = "log"
    """Numbers, evenly on a logarithmic scale."""
    UNIFORM = "uniform"
    """Numbers, evenly."""
    INT = "int"
    """Whole numbers, evenly, both bounds included."""
    CHOICE = "choice"
    """One of several words."""


@dataclass(frozen=True)
class Space:
    """The values that a key may take."""

    key: str
    kind: Kind
    bounds: tuple[str, ...]
    """Lowest and highest value; for `choice`, all values."""

    @classmethod
    def parse(cls, key: str, text: str, where: str = "") -> "Space | None":
        """Return the range that a text describes; None if the text is a single value.

        Args:
            key: The key whose values are searched.
            text: The text, such as `log(1e-5,1e-2)`.
            where: Name of the text in an error; by default the key.

        Raises:
            ConfigError: The bounds are not numbers or not in order, or a choice has fewer than two words.
        """
        found = _RANGE.fullmatch(text.strip())
        if found is None:
            return None
        space = cls(key, Kind(found[1]), tuple(word.strip() for word in found[2].split(",")))
        space._check(where or key)
        return space

    def _check(self, where: str) -> None:
        if self.kind is Kind.CHOICE:
            if len(self.bounds) < 2 or not all(self.bounds) or len(set(self.bounds)) < len(self.bounds):
                raise ConfigError(f"{where}: choice takes at least two words, each once")
            return
        try:
            low, high = map(int if self.kind is Kind.INT else float, self.bounds)
        except ValueError:
            raise ConfigError(f"{where}: {self.kind} takes two numbers, LOW and HIGH") from None
        if not low < high < float("inf") or (self.kind is Kind.LOG and low <= 0):
            above = " and above 0" if self.kind is Kind.LOG else ""
            raise ConfigError(f"{where}: LOW must be below HIGH{above}")

    def suggest(self, trial: "optuna.Trial") -> str:
        """Return the value that Optuna chooses for a trial, as text."""
        if self.kind is Kind.CHOICE:
            return str(trial.suggest_categorical(self.key, self.bounds))
        if self.kind is Kind.INT:
            return str(trial.suggest_int(self.key, *map(int, self.bounds)))
        low, high = map(float, self.bounds)
        return repr(trial.suggest_float(self.key, low, high, log=self.kind is Kind.LOG))

    def examples(self, most: int = 256) -> Iterator[str]:
        """Yield values to validate before a search starts: all of them, or both bounds and values between.

        Args:
            most: Number of whole numbers up to which all are returned.
        """
        if self.kind is Kind.CHOICE:
            yield from self.bounds
        elif self.kind is Kind.INT:
            first, last = map(int, self.bounds)
            yield from map(str, range(first, last + 1, 1 + (last - first) // most))
            yield str(last)
        else:
            low, high = map(float, self.bounds)
            # The value between the bounds is not a round number: a key that takes only whole numbers refuses it.
            yield from (self.bounds[0], repr(low + (high - low) * 0.381966), self.bounds[1])
