"""Where a local training job keeps its checkpoints: under the digest of what they belong to, one job at a time.

A job that was killed finds its checkpoint again when the same network is trained with the same settings, data and code.
Jobs side by side never share a folder: of two that are equal, the second starts afresh in one of its own.
"""

import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TextIO

from mammopipe.processing.container.paths import ContainerPaths

DESCRIBED = ("manifest", "stage", "weights")
"""The channels whose files are read for the digest: a manifest holds the digest of every image."""


@cache
def code_digest() -> str:
    """Return the SHA-256 of the source of this package: other code may make other files of the same input."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for folder in ("processing", "training", "inference", "pipelines"):
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def job_digest(request: Mapping[str, Any], paths: ContainerPaths) -> str:
    """Return the digest of a training job: of its settings, the data in its channels, and the code."""
    digest = hashlib.sha256(code_digest().encode())
    algorithm = {**request["AlgorithmSpecification"], "MetricDefinitions": None}
    said = [request.get("HyperParameters", {}), algorithm, request.get("Environment", {})]
    digest.update(json.dumps(said, sort_keys=True, default=str).encode())
    for item in request.get("InputDataConfig", []):
        folder = paths.channel(item["ChannelName"])
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = f"{item['ChannelName']}/{path.relative_to(folder).as_posix()}"
            digest.update(f"{name} {path.stat().st_size}\0".encode())
            if item["ChannelName"] in DESCRIBED:
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def held(root: Path, digest: str) -> Iterator[Path]:
    """Yield the folder of a digest, held for this process; it is removed where the work inside ends well.

    A process that is killed lets go of it, and what it wrote stays.
    """
    root.mkdir(parents=True, exist_ok=True)
    lock = _lock(root / f"{digest}.lock")
    folder = root / (digest if lock else f"{digest}-{secrets.token_hex(4)}")
    folder.mkdir(exist_ok=True)
    try:
        yield folder
    except BaseException:
        if folder.name != digest:  # nobody would ever look for it again
            shutil.rmtree(folder, ignore_errors=True)
        raise
    else:
        shutil.rmtree(folder)
        if lock:
            Path(lock.name).unlink()
    finally:
        if lock:
            lock.close()


def _lock(path: Path) -> TextIO | None:
    """Return the locked file at `path`, which is made if it is missing; `None` where another process holds it."""
    while True:
        lock = path.open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return None
        # Whoever held it may have removed it between our opening and our locking.
        if path.exists() and os.path.samestat(os.fstat(lock.fileno()), path.stat()):
            return lock
        lock.close()
