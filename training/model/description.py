"""Reads, checks and writes `model.json`, the description of a model; needs no torch.

`files` holds the SHA-256 of every other file of the model directory. `calibration` holds temperature and class
intercepts, the maps of the scores of breasts and patients (`mammopipe.training.model.calibration`), and the prevalence
for which probabilities hold (`mammopipe.training.model.prevalence`). Where the model compares breasts, it also holds
the calibration and the maps of the comparison.

Optional keys:

    pooling, top_places    how feature maps become logits (default: the mean)
    stride                 stride of the feature maps, in pixels (default: 32)
    test_flips             whether a craniocaudal view is judged together with its mirror image (default: no)
    level, views           what the network judges, images (default) or breasts by all their views; for breasts, whether
                           the other side counts, and the values of the mask (`training.model.views.attention`)
    reference              reference data for the model's answers (`mammopipe.training.model.reference`)
    engines                the network in other formats, by name (`mammopipe.training.networks.openvino_export`)
    fitted                 the images that each fitted value used (`mammopipe.training.evaluation.fit_audit`)
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mammopipe.processing.classes import THREE, TWO
from mammopipe.processing.errors import ConfigError
from mammopipe.processing.files import read_json, sha256, write_json
from mammopipe.training.model.architecture import SMALLEST_SIDE, Pooling, find_architecture
from mammopipe.training.model.calibration import read_score_maps
from mammopipe.training.model.exam_scores import BreastRule, Level
from mammopipe.training.model.operating_points import check_prevalence, read_compared_points, read_operating_points

SCHEMA = 1
WEIGHTS_FILE = "weights.safetensors"
DESCRIPTION_FILE = "model.json"

CLASSES = (THREE, TWO)
"""The sets of classes that a model may have, in the order of its logits."""
OPENVINO = "openvino"
"""The only key of `engines`."""
HEAD = "head"
"""Value of an engine's `activation_map`: feature maps weighted by the classifier's weights, stored in `HEAD_FILE`."""
HEAD_FILE = "head.safetensors"
NETWORK_FILES = ("network.xml", "network.bin")
OUTPUTS = ["logits", "maps"]

_DIGEST = re.compile("[0-9a-f]{64}")
_STEEPEST = 1000.0
"""Greatest temperature, its greatest reciprocal, and greatest intercept: beyond, every probability would be alike."""
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
    "files": dict,
    "versions": dict,
}
_OPTIONAL: dict[str, type] = {
    "pooling": str,
    "top_places": int,
    "stride": int,
    "test_flips": bool,
    "ensemble": int,
    "level": str,
    "views": dict,
    "reference": dict,
    "engines": dict,
    "fitted": list,
}
_CALIBRATION_KEYS = {
    *("temperature", "intercepts", "method", "prevalence", "fitted_on", "breast_rule", "comparison", "scores")
}
_REFERENCE_KEYS = {"fitted_on", "malignancy_deciles", "entropy_limit", "strangeness"}
_DISTRIBUTIONS = "distributions"
"""Optional key of `reference`: the distributions of the features monitored for drift
(`mammopipe.training.model.drift_features`)."""
_ENGINE_KEYS = {"files", "outputs", "activation_map", "precision", "largest_difference", "images"}


def read_description(directory: Path) -> dict[str, Any]:
    """Read and check `model.json`; the weights are not read.

    Raises:
        ConfigError: The file cannot be read or breaks a rule.
    """
    path = directory / DESCRIPTION_FILE
    description = read_json(path)
    check_description(description, path)
    return description


def verified(path: Path, digest: str, named: str) -> bytes:
    """Return a file's bytes after `verify`."""
    verify(path, digest, named)
    return path.read_bytes()


def verify(path: Path, digest: str, named: str) -> None:
    """Raise `ConfigError` where a file is missing or its SHA-256 is not `digest`; `named` describes the digest."""
    if not path.is_file():
        raise ConfigError(f"{path}: is missing; {DESCRIPTION_FILE} names it as a file of this model")
    if sha256(path) != digest:
        raise ConfigError(f"{path}: its SHA-256 is not the {named}")


def verify_files(directory: Path, description: Mapping[str, Any]) -> None:
    """Raise `ConfigError` where a file that `model.json` names is missing or altered; other files are ignored."""
    for name, digest in description["files"].items():
        verify(directory / name, digest, f"files.{name} of {DESCRIPTION_FILE}")


def write_description(directory: Path, description: Mapping[str, Any]) -> None:
    """Write `model.json` with the digest of every other file of the directory; call it after writing the other files.

    Raises:
        ConfigError: `read_description` would reject the description.
    """
    files = {
        path.relative_to(directory).as_posix(): sha256(path)
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != DESCRIPTION_FILE
    }
    described = {**description, "schema": SCHEMA, "weights_sha256": files.get(WEIGHTS_FILE, ""), "files": files}
    check_description(described, directory / DESCRIPTION_FILE)
    write_json(directory / DESCRIPTION_FILE, described)


def check_description(description: Any, where: Path) -> None:
    """Raise `ConfigError`, naming `where` and the key, unless the description is valid in this schema."""
    if not isinstance(description, dict) or description.get("schema") != SCHEMA:
        found = description.get("schema") if isinstance(description, dict) else None
        raise ConfigError(f"{where}: schema={found!r} is unknown; this version reads schema {SCHEMA}")
    unknown, missing = set(description) - set(_KEYS) - set(_OPTIONAL), set(_KEYS) - set(description)
    if unknown or missing:
        raise ConfigError(f"{where}: unknown keys {sorted(unknown)}, missing keys {sorted(missing)}")
    for key, kind in {**_KEYS, **_OPTIONAL}.items():
        # JSON's true and false are integers to Python.
        wrong_number = kind is int and isinstance(description.get(key), bool)
        if key in description and (wrong_number or not isinstance(description[key], kind)):
            raise ConfigError(f"{where}: {key}={description[key]!r} is of the wrong type")
    _check_values(description, where)
    _check_calibration(description["calibration"], description["classes"], where)
    points = read_operating_points(description, where)
    check_prevalence(description["calibration"].get("prevalence", {}), points, where)
    read_compared_points(description, where)
    if "reference" in description:
        _check_reference(description["reference"], where)
    if "engines" in description:
        _check_engines(description["engines"], where)
    _check_files(description, where)


def _check_values(description: dict[str, Any], where: Path) -> None:
    # Imported here because it needs OpenCV, and those who only pack and unpack models may lack it.
    from mammopipe.processing.breast.preprocess import PreprocessConfig

    preprocess = PreprocessConfig.from_json(description["preprocess"])
    size = description["input"]
    pooling, level = [str(pooling) for pooling in Pooling], description.get("level", Level.IMAGE)
    try:
        strides = list(find_architecture(description["architecture"]).strides)
    except ConfigError as error:
        raise ConfigError(f"{where}: architecture: {error}") from None
    rules = [
        ("pooling", description.get("pooling", "mean") in pooling, f"one of {', '.join(pooling)}"),
        ("top_places", description.get("top_places", 1) >= 1, "at least 1"),
        ("stride", description.get("stride", 32) in strides, f"one of {strides}"),
        ("ensemble", description.get("ensemble", 2) >= 2, "at least 2 networks, or left out"),
        ("level", level in (Level.IMAGE, Level.BREAST), f"{Level.IMAGE} or {Level.BREAST}"),
        ("views", _fits_level(description.get("views"), level), "an object with other_side and mask for level=breast"),
        (
            "classes",
            tuple(description["classes"]) in CLASSES,
            " or ".join(f"{[str(name) for name in names]}" for names in CLASSES) + ", in this order",
        ),
        ("input", size == {"height": preprocess.height, "width": preprocess.width}, "the size that preprocess states"),
        ("input", min(preprocess.height, preprocess.width) >= SMALLEST_SIDE, f"at least {SMALLEST_SIDE} pixels a side"),
        ("initialisation", description["initialisation"] in ("pretrained", "scratch"), "pretrained or scratch"),
    ]
    for key, holds, rule in rules:
        _require(holds, where, key, description.get(key), rule)


def _fits_level(views: Any, level: str) -> bool:
    """Return whether `views` is there for a model that judges breasts, complete, and absent for another."""
    if level != Level.BREAST:
        return views is None
    return isinstance(views, dict) and set(views) == {"other_side", "mask"} and isinstance(views["other_side"], bool)


def _check_calibration(calibration: Mapping[str, Any], classes: list[str], where: Path) -> None:
    key = "calibration"
    unknown = set(calibration) - _CALIBRATION_KEYS
    known = "an object of known keys: " + ", ".join(sorted(_CALIBRATION_KEYS))
    _require(not unknown, where, key, sorted(unknown), known)
    _check_scaling(calibration, key, classes, where)
    for name in ("method", "fitted_on"):
        _require(isinstance(calibration.get(name), str | None), where, f"{key}.{name}", calibration.get(name), "a text")
    rule, rules = calibration.get("breast_rule"), [str(rule) for rule in BreastRule]
    _require(rule is None or rule in rules, where, f"{key}.breast_rule", rule, f"one of {', '.join(rules)}")
    shares = calibration.get("prevalence", {})
    _require(isinstance(shares, dict), where, f"{key}.prevalence", shares, "an object")
    stated = all(level in set(Level) and _is_share(share) for level, share in shares.items())
    _require(stated, where, f"{key}.prevalence", shares, "a share, 0 to 1, of malignant images, breasts and patients")
    read_score_maps(calibration.get("scores"), shares, "calibration.scores", where, of_all=True)
    if "comparison" in calibration:
        comparison, key = calibration["comparison"], "calibration.comparison"
        _require(isinstance(comparison, dict), where, key, comparison, "an object")
        _require_keys(comparison, {"weight", "temperature", *({"intercepts", "scores"} & set(comparison))}, where, key)
        read_score_maps(comparison.get("scores"), shares, f"{key}.scores", where, of_all=False)
        weight = comparison["weight"]
        _require(_is_share(weight) and weight > 0, where, f"{key}.weight", weight, "above 0 and at most 1")
        _check_scaling(comparison, key, classes, where)


def _check_scaling(stated: Mapping[str, Any], key: str, classes: list[str], where: Path) -> None:
    temperature: Any = stated.get("temperature")
    intercepts = stated.get("intercepts")
    _require(
        _is_number(temperature) and 1 / _STEEPEST <= temperature <= _STEEPEST,
        where,
        f"{key}.temperature",
        temperature,
        f"a finite number above 0, from {1 / _STEEPEST:g} to {_STEEPEST:g}",
    )
    if intercepts is not None:
        whole = isinstance(intercepts, dict) and set(intercepts) == set(classes)
        finite = whole and all(_is_finite(value) and abs(value) <= _STEEPEST for value in intercepts.values())
        rule = f"a finite number for each class, from -{_STEEPEST:g} to {_STEEPEST:g}"
        _require(finite, where, f"{key}.intercepts", intercepts, rule)


def _check_files(description: Mapping[str, Any], where: Path) -> None:
    """Check that `files` contains the weights and every other file of the description, with the same digests."""
    files, weights = description["files"], description["weights_sha256"]
    _require(_DIGEST.fullmatch(weights) is not None, where, "weights_sha256", weights, "a SHA-256 in hexadecimal")
    _require_files(files, where, "files")
    relied = {WEIGHTS_FILE: weights}
    if "engines" in description:
        relied |= description["engines"][OPENVINO]["files"]
    if "reference" in description:
        strangeness = description["reference"]["strangeness"]
        relied[strangeness["file"]] = strangeness["sha256"]
    for name, digest in relied.items():
        _require(files.get(name) == digest, where, f"files.{name}", files.get(name), f"{digest!r}, as stated elsewhere")


def _check_reference(reference: Mapping[str, Any], where: Path) -> None:
    required = {key: reference[key] for key in reference if key != _DISTRIBUTIONS}
    _require_keys(required, _REFERENCE_KEYS, where, "reference")
    _check_distributions(reference.get(_DISTRIBUTIONS, {}), where)
    deciles, limit, strangeness = (reference[key] for key in ("malignancy_deciles", "entropy_limit", "strangeness"))
    rising = (
        isinstance(deciles, list) and len(deciles) == 9 and all(map(_is_share, deciles)) and deciles == sorted(deciles)
    )
    rule = "9 numbers within 0..1, none below the one before"
    _require(rising, where, "reference.malignancy_deciles", deciles, rule)
    _require(_is_number(limit), where, "reference.entropy_limit", limit, "a number of nats, at least 0")
    key = "reference.strangeness"
    _require(isinstance(strangeness, dict), where, key, strangeness, "an object")
    _require_keys(strangeness, {"file", "sha256", "limit"}, where, key)
    name, limit = strangeness["file"], strangeness["limit"]
    _require(isinstance(name, str), where, f"{key}.file", name, "the name of a file")
    _require_files({name: strangeness["sha256"]}, where, key)
    _require(_is_number(limit), where, f"{key}.limit", limit, "a number, at least 0")


def _check_distributions(groups: Any, where: Path) -> None:
    """Check the distributions of each group and feature as `distributions.Distribution` does, which needs SciPy."""
    key = f"reference.{_DISTRIBUTIONS}"
    whole = isinstance(groups, dict) and all(isinstance(features, dict) for features in groups.values())
    _require(whole, where, key, groups, "an object of objects")
    for group, features in groups.items():
        for name, stated in features.items():
            place = f"{key}.{group}.{name}"
            _require(isinstance(stated, dict), where, place, stated, "an object")
            _require_keys(stated, {"edges", "counts", "exams"}, where, place)
            edges, counts, exams = stated["edges"], stated["counts"], stated["exams"]
            rising = isinstance(edges, list) and all(map(_is_finite, edges)) and edges == sorted(set(edges))
            _require(rising, where, f"{place}.edges", edges, "rising finite numbers")
            counted = isinstance(counts, list) and len(counts) == len(edges) + 1 and all(map(_is_count, counts))
            _require(counted, where, f"{place}.counts", counts, "whole numbers, one more than edges")
            few = _is_count(exams) and 0 < exams <= sum(counts)
            _require(few, where, f"{place}.exams", exams, "a whole number, from 1 to the number of images")


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
    """Reject names that could lie outside of the model directory and values that cannot be a digest."""
    plain = isinstance(files, dict) and all(
        isinstance(name, str) and name == Path(name).name and isinstance(digest, str) and _DIGEST.fullmatch(digest)
        for name, digest in files.items()
    )
    _require(plain, where, key, files, "plain file names with their SHA-256")


def _require_keys(value: Mapping[str, Any], keys: set[str], where: Path, key: str) -> None:
    if set(value) != keys:
        raise ConfigError(
            f"{where}: {key}: unknown keys {sorted(set(value) - keys)}, missing keys {sorted(keys - set(value))}"
        )


def _is_finite(value: Any) -> bool:
    # The comparison is false for NaN, and for whole numbers that no float can hold.
    return isinstance(value, float | int) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    return _is_finite(value) and bool(value >= 0)


def _is_share(value: Any) -> bool:
    return _is_number(value) and value <= 1


def _require(holds: bool, where: Path, key: str, value: Any, rule: str) -> None:
    if not holds:
        raise ConfigError(f"{where}: {key}={value!r} must be {rule}")
