"""`model.json`, which says of a model all that its files do not: read and checked, without torch.

Optional are `pooling` (`mammopipe.training.config.Pooling`; the mean where it is missing) with `top_places`, `stride`
(pixels from place to place; 32 where it is missing), `reference` (what the model's answers are compared with,
`mammopipe.training.model.reference`), `calibration.comparison` (how breasts are compared,
`mammopipe.training.comparison`), `engines` (the
network in other formats than the weights, by name, `mammopipe.training.networks.openvino_export`) and `fitted` (of
which films what was made by the evaluation, `mammopipe.training.evaluation.fit_audit`).
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mammopipe.processing.breast.preprocess import PreprocessConfig
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import sha256
from mammopipe.training.model.architecture import SMALLEST_SIDE, Pooling, find_architecture

SCHEMA = 1
WEIGHTS_FILE = "weights.safetensors"
DESCRIPTION_FILE = "model.json"

OPENVINO = "openvino"
"""The one key of `engines`."""
HEAD = "head"
"""An engine's `activation_map`: maps weighted by the classifier's own weights, which lie in `HEAD_FILE`."""
HEAD_FILE = "head.safetensors"
NETWORK_FILES = ("network.xml", "network.bin")
OUTPUTS = ["logits", "maps"]

_KEYS: dict[str, type | tuple[type, ...]] = {
    "schema": int,
    "architecture": str,
    "classes": list,
    "input": dict,
    "preprocess": dict,
    "initialisation": str,
    "pretrained_weights": (dict, type(None)),
    "calibration": dict,
    "operating_points": dict,
    "training": dict,
    "metrics": dict,
    "weights_sha256": str,
    "versions": dict,
}
_OPTIONAL: dict[str, type] = {
    "pooling": str,
    "top_places": int,
    "stride": int,
    "reference": dict,
    "engines": dict,
    "fitted": list,
}
_REFERENCE_KEYS = {"fitted_on", "malignancy_deciles", "entropy_limit", "strangeness"}
_DISTRIBUTIONS = "distributions"
"""An optional key of `reference`: how the figures that are watched are distributed
(`mammopipe.training.model.drift_features`)."""
_ENGINE_KEYS = {"files", "outputs", "activation_map", "precision", "largest_difference", "images"}


def read_description(directory: Path) -> dict[str, Any]:
    """Return `model.json`, checked; raises `ConfigError`. Needs no weights."""
    path = directory / DESCRIPTION_FILE
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON: {error}") from None
    check_description(description, path)
    return dict(description)


def verified(path: Path, digest: str, named: str) -> bytes:
    """Return a file's bytes; `ConfigError` where it is missing or its SHA-256 is not `digest`, which `named` names."""
    verify(path, digest, named)
    return path.read_bytes()


def verify(path: Path, digest: str, named: str) -> None:
    """Raise `ConfigError` where a file is missing or its SHA-256 is not `digest`, which `named` names."""
    if not path.is_file():
        raise ConfigError(f"{path}: is missing; {DESCRIPTION_FILE} names it as a file of this model")
    if sha256(path) != digest:
        raise ConfigError(f"{path}: its SHA-256 is not the {named}")


def check_description(description: Any, where: Path) -> None:
    """Raise `ConfigError`, naming `where` and the key, unless this describes a model of this schema."""
    if not isinstance(description, dict) or description.get("schema") != SCHEMA:
        found = description.get("schema") if isinstance(description, dict) else None
        raise ConfigError(f"{where}: schema={found!r} is unknown; this version reads schema {SCHEMA}")
    unknown, missing = set(description) - set(_KEYS) - set(_OPTIONAL), set(_KEYS) - set(description)
    if unknown or missing:
        raise ConfigError(f"{where}: unknown keys {sorted(unknown)}, missing keys {sorted(missing)}")
    for key, kind in {**_KEYS, **_OPTIONAL}.items():
        if key in description and not isinstance(description[key], kind):
            raise ConfigError(f"{where}: {key}={description[key]!r} is of the wrong type")
    _check_values(description, where)
    if "reference" in description:
        _check_reference(description["reference"], where)
    if "engines" in description:
        _check_engines(description["engines"], where)


def _check_values(description: dict[str, Any], where: Path) -> None:
    preprocess = PreprocessConfig.from_json(description["preprocess"])
    size = description["input"]
    temperature = description["calibration"].get("temperature")
    pooling = [str(pooling) for pooling in Pooling]
    try:
        strides = list(find_architecture(description["architecture"]).strides)
    except ConfigError as error:
        raise ConfigError(f"{where}: architecture: {error}") from None
    rules = [
        ("pooling", description.get("pooling", "mean") in pooling, f"one of {', '.join(pooling)}"),
        ("top_places", description.get("top_places", 1) >= 1, "at least 1"),
        ("stride", description.get("stride", 32) in strides, f"one of {strides}"),
        ("classes", _distinct_names(description["classes"]), "two or more different names"),
        ("input", size == {"height": preprocess.height, "width": preprocess.width}, "the size that preprocess states"),
        ("input", min(preprocess.height, preprocess.width) >= SMALLEST_SIDE, f"at least {SMALLEST_SIDE} pixels a side"),
        ("initialisation", description["initialisation"] in ("pretrained", "scratch"), "pretrained or scratch"),
        ("calibration", isinstance(temperature, float | int) and temperature > 0, "a temperature above 0"),
    ]
    for key, holds, rule in rules:
        _require(holds, where, key, description.get(key), rule)
    if "comparison" in description["calibration"]:
        _check_comparison(description["calibration"]["comparison"], where)


def _check_comparison(comparison: Any, where: Path) -> None:
    key = "calibration.comparison"
    _require(isinstance(comparison, dict), where, key, comparison, "an object")
    _require_keys(comparison, {"weight", "temperature"}, where, key)
    _require(
        _is_share(comparison["weight"]) and comparison["weight"] > 0,
        where,
        f"{key}.weight",
        comparison["weight"],
        "above 0 and at most 1",
    )
    _require(
        _is_number(comparison["temperature"]) and comparison["temperature"] > 0,
        where,
        f"{key}.temperature",
        comparison["temperature"],
        "a number above 0",
    )


def _distinct_names(classes: list[Any]) -> bool:
    return len(classes) >= 2 and all(isinstance(name, str) for name in classes) and len(set(classes)) == len(classes)


def _check_reference(reference: Mapping[str, Any], where: Path) -> None:
    _require_keys(
        {key: reference[key] for key in reference if key != _DISTRIBUTIONS}, _REFERENCE_KEYS, where, "reference"
    )
    _require(
        isinstance(reference.get(_DISTRIBUTIONS, {}), dict),
        where,
        f"reference.{_DISTRIBUTIONS}",
        reference.get(_DISTRIBUTIONS),
        "an object",
    )
    deciles, strangeness = reference["malignancy_deciles"], reference["strangeness"]
    rising = (
        isinstance(deciles, list) and len(deciles) == 9 and all(map(_is_share, deciles)) and deciles == sorted(deciles)
    )
    _require(rising, where, "reference.malignancy_deciles", deciles, "9 numbers within 0..1, none below the one before")
    _require(
        _is_number(reference["entropy_limit"]),
        where,
        "reference.entropy_limit",
        reference["entropy_limit"],
        "a number of nats, at least 0",
    )
    _require(isinstance(strangeness, dict), where, "reference.strangeness", strangeness, "an object")
    _require_keys(strangeness, {"file", "sha256", "limit"}, where, "reference.strangeness")
    _require_files({strangeness["file"]: strangeness["sha256"]}, where, "reference.strangeness")
    _require(
        _is_number(strangeness["limit"]),
        where,
        "reference.strangeness.limit",
        strangeness["limit"],
        "a number, at least 0",
    )


def _check_engines(engines: Mapping[str, Any], where: Path) -> None:
    _require_keys(engines, {OPENVINO}, where, "engines")
    engine, key = engines[OPENVINO], f"engines.{OPENVINO}"
    _require(isinstance(engine, dict), where, key, engine, "an object")
    _require_keys(engine, _ENGINE_KEYS, where, key)
    _require_files(engine["files"], where, f"{key}.files")
    needed = {*NETWORK_FILES, *([HEAD_FILE] if engine["activation_map"] == HEAD else [])}
    rules = [
        ("files", set(engine["files"]) == needed, f"{', '.join(sorted(needed))}"),
        ("outputs", engine["outputs"] == OUTPUTS, f"{OUTPUTS}"),
        ("activation_map", engine["activation_map"] in (HEAD, None), f"{HEAD!r} or null"),
        ("precision", engine["precision"] in ("float32", "bfloat16"), "float32 or bfloat16"),
        ("largest_difference", _is_share(engine["largest_difference"]), "a number within 0..1"),
        ("images", isinstance(engine["images"], int) and engine["images"] > 0, "a number of images above 0"),
    ]
    for name, holds, rule in rules:
        _require(holds, where, f"{key}.{name}", engine[name], rule)


def _require_files(files: Any, where: Path, key: str) -> None:
    """Refuse names that could lie outside of the model's directory, and what cannot be a digest."""
    plain = isinstance(files, dict) and all(
        isinstance(name, str) and isinstance(digest, str) and name == Path(name).name and len(digest) == 64
        for name, digest in files.items()
    )
    _require(plain, where, key, files, "plain file names with their SHA-256")


def _require_keys(value: Mapping[str, Any], keys: set[str], where: Path, key: str) -> None:
    if set(value) != keys:
        raise ConfigError(
            f"{where}: {key}: unknown keys {sorted(set(value) - keys)}, missing keys {sorted(keys - set(value))}"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _is_share(value: Any) -> bool:
    return _is_number(value) and value <= 1


def _require(holds: bool, where: Path, key: str, value: Any, rule: str) -> None:
    if not holds:
        raise ConfigError(f"{where}: {key}={value!r} must be {rule}")
