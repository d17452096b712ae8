"""The checkpoint folders of local training jobs, named by a digest of the job and used by one job at a time.

After a killed job, the next job with the same network, settings, data and code continues from its checkpoint.
Concurrent jobs never share a folder: if two are equal, the second starts from scratch in its own folder.
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
"""The channels whose files enter the digest: a manifest contains the digest of every image."""


@cache
def package_digest() -> str:
    """Return the SHA-256 of this package's source files; a change in any of them may change what a job writes."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for folder in ("processing", "training", "inference", "pipelines"):
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def job_digest(request: Mapping[str, Any], paths: ContainerPaths) -> str:
    """Return the digest of a training job: its settings, the data in its channels, and the code."""
    digest = hashlib.sha256(package_digest().encode())
    # The metric definitions only say how SageMaker reads the log.
    algorithm = {**request["AlgorithmSpecification"], "MetricDefinitions": None}
    settings = [request.get("HyperParameters", {}), algorithm, request.get("Environment", {})]
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
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
    """Yield the folder of a digest, locked for this process; removes it if the work inside succeeds.

    If the process is killed, the lock is released and the files stay.
    """
    root.mkdir(parents=True, exist_ok=True)
    lock = _lock(root / f"{digest}.lock")
    folder = root / (digest if lock else f"{digest}-{secrets.token_hex(4)}")
    folder.mkdir(exist_ok=True)
    try:
        yield folder
    except BaseException:
        if folder.name != digest:  # no later job looks for a folder with a random suffix
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
    """Return the lock file at `path`, created if necessary and locked; None if another process holds the lock."""
    while True:
        lock = path.open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return None
        # Its last holder may have removed the file after this process opened it; such a lock protects nothing.
        if path.exists() and os.path.samestat(os.fstat(lock.fileno()), path.stat()):
            return lock
        lock.close()
