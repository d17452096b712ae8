"""The digests of the data and the weights that a run reads, which the step cache compares."""

from collections.abc import Mapping
from typing import Any

from mammopipe.pipelines.data.s3 import NO_OBJECTS, Storage
from mammopipe.processing.errors import ConfigError

DIGESTS: Mapping[str, str] = {"DataDigest": "InputDataUri", "WeightsDigest": "WeightsUri"}
"""The parameters that a run sets to the digest of a folder, and the parameter that names the folder."""


def with_digests(values: Mapping[str, Any], given: Mapping[str, Any], storage: Storage) -> dict[str, Any]:
    """Return the parameters with the digests of the staged data and weights.

    The step cache identifies files by their address. Without the digests, changed files at the same address would
    get the results of an earlier run.

    Args:
        values: All parameters of a run.
        given: The parameters that the caller set; a digest among them is kept.
        storage: The S3 service of the run.

    Returns:
        The parameters.

    Raises:
        ConfigError: A folder is empty. Otherwise a job would fail later, after earlier steps were paid.
    """
    found = dict(values)
    for digest, place in DIGESTS.items():
        if digest in found and digest not in given:
            found[digest] = storage.digest(found[place])
            if found[digest] == NO_OBJECTS:
                raise ConfigError(
                    f"{place}={found[place]}: there is no object below this folder; mammopipe stage uploads the data"
                )
    return found
