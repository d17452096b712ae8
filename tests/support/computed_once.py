"""Keeps what evaluations compute of equal images and equal networks, for tests that evaluate the same data many times.

Features, matches and detail of the leakage audit depend on nothing but pixels; an exported network depends on nothing
but its layers, weights and input size. Everything else is computed anew each time.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mammopipe.processing.splits import leakage_audit
from mammopipe.training.networks import openvino_export
from mammopipe.training.networks.model_directory import LoadedModel

_KNOWN: list[dict[Any, Any]] = []
"""The results so far, by function."""


def forget() -> None:
    """Forget all results, for tests that two evaluations of the same data are equal."""
    for known in _KNOWN:
        known.clear()


def _remembered(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with its results kept by the content of its arguments: arrays, or records of arrays."""
    known: dict[tuple[object, ...], Any] = {}
    _KNOWN.append(known)

    def call(*arguments: Any) -> Any:
        arrays = [array for given in arguments for array in (vars(given).values() if is_dataclass(given) else [given])]
        key = tuple((array.shape, hashlib.sha256(np.ascontiguousarray(array)).digest()) for array in arrays)
        if key not in known:
            known[key] = function(*arguments)
        return known[key]

    return call


def _write_network_once(write: Callable[[LoadedModel, Path], None]) -> Callable[[LoadedModel, Path], None]:
    """Return `write_network`, which converts a network with the same layers, weights and input size only once."""
    known: dict[str, dict[str, bytes]] = {}
    _KNOWN.append(known)

    def call(model: LoadedModel, target: Path) -> None:
        digest = hashlib.sha256(f"{model.input_shape} {model.network}".encode())
        for name, tensor in model.network.state_dict().items():
            digest.update(name.encode() + tensor.numpy().tobytes())
        files = known.get(digest.hexdigest())
        if files is None:
            write(model, target)
            known[digest.hexdigest()] = {
                suffix: target.with_suffix(suffix).read_bytes() for suffix in (target.suffix, ".bin")
            }
        else:
            for suffix, data in files.items():
                target.with_suffix(suffix).write_bytes(data)

    return call


_ONCE = {name: _remembered(getattr(leakage_audit, name)) for name in ("features", "match", "detail")}
_WRITE_NETWORK_ONCE = _write_network_once(openvino_export.write_network)


@contextmanager
def computed_once() -> Iterator[pytest.MonkeyPatch]:
    """Make evaluations in this process reuse results for the same pixels and for the export of the same weights."""
    with pytest.MonkeyPatch.context() as patch:
        for name, function in _ONCE.items():
            patch.setattr(leakage_audit, name, function)
        patch.setattr(openvino_export, "write_network", _WRITE_NETWORK_ONCE)
        yield patch
