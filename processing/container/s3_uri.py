"""A location on S3."""

from dataclasses import dataclass
from pathlib import PurePosixPath

from mammopipe.processing.errors import StorageError


@dataclass(frozen=True)
class S3Uri:
    """A bucket and a key, or a key prefix."""

    bucket: str
    key: str

    @classmethod
    def parse(cls, uri: str) -> "S3Uri":
        """Return the parts of `s3://BUCKET/KEY`; raises `StorageError` for anything else."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        if not uri.startswith("s3://") or not bucket:
            raise StorageError(f"{uri}: an S3 location is written s3://BUCKET/KEY")
        return cls(bucket, key)

    def __str__(self) -> str:
        """Return the URI, `s3://BUCKET/KEY`."""
        return f"s3://{self.bucket}/{self.key}"

    def name_below(self, key: str) -> str:
        """Return the path, relative to an input folder, of the object `key` under this prefix.

        The rule is SageMaker's: if the prefix is a folder, the path is relative to it, otherwise to its parent.
        """
        folder = self.key.rstrip("/")
        if key.startswith(folder + "/"):
            return key[len(folder) + 1 :]
        return str(PurePosixPath(key).relative_to(PurePosixPath(folder).parent)) if folder else key
