"""Reuses the results of earlier steps, as SageMaker's step cache does: same image, arguments and inputs.

Unlike SageMaker's cache, it identifies inputs by content instead of address, and counts the code as part of the image:
results are reused only if the step would produce the same files again. Source: "Caching pipeline steps" (SageMaker
Developer Guide).
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mammopipe.pipelines.config.compute import seconds_of
from mammopipe.pipelines.data import cache_entries
from mammopipe.pipelines.data.cache_entries import ENTRY
from mammopipe.pipelines.data.s3 import Storage
from mammopipe.processing.files import write_json
from mammopipe.processing.splits import read_register


@dataclass(frozen=True)
class StepCache:
    """The results of earlier runs, in a folder on this machine."""

    root: Path
    storage: Storage
    code: str
    """Digest of the code that the steps run."""
    most_bytes: float = float("inf")
    """Maximum size of the cache; the entries that were unused for longest are removed first."""

    def key(self, kind: str, request: Mapping[str, Any]) -> str:
        """Return the key of a step: a digest of everything that determines its results, but not their location."""
        inputs = [
            [item["InputName"], item["S3Input"]["LocalPath"], item["S3Input"]["S3DataDistributionType"],
             self.storage.digest(item["S3Input"]["S3Uri"])]
            for item in request.get("ProcessingInputs", [])
            # Each evaluation adds an entry to the register. The key must not depend on it, or no evaluation could be
            # reused; a reused evaluation reads no test image, so it adds none.
            if item["InputName"] != read_register.NAME
        ] + [
            [item["ChannelName"], self.storage.digest(item["DataSource"]["S3DataSource"]["S3Uri"])]
            for item in request.get("InputDataConfig", [])
        ]  # fmt: skip
        cluster = request.get("ProcessingResources", {}).get("ClusterConfig", request.get("ResourceConfig", {}))
        identity = {
            "kind": kind,
            "code": self.code,
            "inputs": inputs,
            "instances": cluster.get("InstanceCount"),
            **{
                name: request.get(name)
                for name in ("AppSpecification", "AlgorithmSpecification", "HyperParameters", "Environment")
            },
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()

    def restore(self, key: str, places: Mapping[str, str], expires: str) -> bool:
        """Copy an earlier step's results to the destinations of this step; returns whether there were any.

        Args:
            key: The key of the step.
            places: The S3 folder of each result, by its name.
            expires: ISO 8601 duration after which results are no longer used.
        """
        folder = self.root / key
        with cache_entries.in_use(folder) as exists:
            if not exists:
                return False
            # The lock is held until the results are copied, so that no other run removes them meanwhile.
            expired = time.time() - (folder / ENTRY).stat().st_mtime > seconds_of(expires)
            for name, uri in places.items() if not expired else ():
                self.storage.upload(folder / name, uri)
        if expired:
            cache_entries.remove(folder)
        return not expired

    def keep(self, key: str, places: Mapping[str, str]) -> None:
        """Store a step's results for later runs, and remove old ones; an entry is complete or absent."""
        scratch = self.root / f".{key}-{os.getpid()}"
        try:
            for name, uri in places.items():
                self.storage.download(f"{uri.rstrip('/')}/", scratch / name)
            write_json(scratch / ENTRY, {"results": dict(places)})
            if not (self.root / key).exists():
                scratch.rename(self.root / key)
        except OSError:
            if not (self.root / key).exists():  # otherwise, another run stored the entry meanwhile
                raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        cache_entries.limit(self.root, self.most_bytes)
