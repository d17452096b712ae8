"""The S3 folder of a packed model, which is what a training channel reads."""

from mammopipe.processing.errors import ConfigError
from mammopipe.training.model.archive import PACKED


def folder_of(uri: str) -> str:
    """Return the `s3://` folder of a packed model, without a trailing slash; a folder is returned as it is.

    Raises:
        ConfigError: The model is at the top of its bucket, not in a folder: a channel would read the whole bucket.
    """
    if not uri.endswith(PACKED):
        return uri.rstrip("/")
    folder = uri.rpartition("/")[0]
    if folder.count("/") < 3:
        raise ConfigError(f"{uri}: a model to start from must lie in a folder of its bucket")
    return folder
