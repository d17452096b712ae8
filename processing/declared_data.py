"""The images on which pretrained weights were trained, as far as those who stage the weights declare them.

Weights that were trained on the test images make every figure too good, and the file itself does not show its data. So
`<file>.json` beside staged weights may declare them: `{"datasets": ["ImageNet-1k"], "source": "...", "note": "..."}`.
The names of the collections that this project reads (`mias`, `cbis-ddsm`, ...) are compared with the data of the run.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mammopipe.processing.errors import ConfigError

SUFFIX = ".json"
KEYS = ("datasets", "source", "note")
UNDECLARED = (
    "Nobody declared which images these weights were trained on, so whether they include images of the test cannot be "
    "known."
)


def declaration_of(weights: Path) -> dict[str, Any] | None:
    """Return the declaration beside a file of weights, `None` if there is none; raises `ConfigError` if it is wrong."""
    path = weights.with_name(weights.name + SUFFIX)
    if not path.is_file():
        return None
    try:
        declared = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: must be JSON that declares the weights' data: {error}") from None
    if not isinstance(declared, dict) or not set(declared) <= set(KEYS) or "datasets" not in declared:
        raise ConfigError(f"{path}: must be an object with datasets, and with {', '.join(KEYS[1:])} where known")
    names = declared["datasets"]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(f"{path}: datasets must be a list of names, with at least one")
    if not all(isinstance(declared.get(key, ""), str) for key in KEYS[1:]):
        raise ConfigError(f"{path}: {' and '.join(KEYS[1:])} must be text")
    return declared


def trained_on(weights: Mapping[str, Any] | None, datasets: Iterable[str]) -> list[str]:
    """Return which of the datasets the declaration of pretrained weights names; case does not matter.

    Args:
        weights: `pretrained_weights` of `model.json`.
        datasets: Names of datasets.
    """
    declared = (weights or {}).get("declared") or {}
    names = {_plain(name) for name in declared.get("datasets", ())}
    return [name for name in datasets if _plain(name) in names]


def sentence(weights: Mapping[str, Any] | None, datasets: Iterable[str]) -> str:
    """Return what is known of the data of pretrained weights, as a sentence; empty for a network from scratch.

    Args:
        weights: `pretrained_weights` of `model.json`.
        datasets: Names of the datasets whose images are evaluated.
    """
    if weights is None:
        return ""
    declared = weights.get("declared")
    if not declared:
        return f"Pretrained weights {weights['file']}: {UNDECLARED}"
    text = f"Pretrained weights {weights['file']}: declared data {', '.join(declared['datasets'])}"
    text += f" (source: {declared['source']})" if declared.get("source") else ""
    overlap = trained_on(weights, datasets)
    if overlap:
        return (
            f"{text}. They were trained on {', '.join(overlap)}: they may have seen the test, and figures are too good."
        )
    return f"{text}. The declaration cannot be checked here."


def _plain(name: str) -> str:
    """Return a name in lower case without spaces and punctuation: CBIS-DDSM and cbis_ddsm are one name."""
    text = "".join(letter for letter in name.casefold() if letter.isalnum())
    return {"minimias": "mias", "vindr": "vindrmammo"}.get(text, text)
