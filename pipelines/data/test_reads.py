"""Opens the register of test reads on S3, and keeps a local copy of it where S3 ends with the run.

`mammopipe.processing.splits.read_register` describes the register.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.data.s3 import Storage
from mammopipe.processing.splits import read_register


def open_register(config: PipelineConfig, storage: Storage, kept: Path | None = None) -> None:
    """Write the first file of the dataset's register, upload the entries kept on this machine, and check all entries.

    Called before a run starts, so that a damaged register stops the run there and not at its evaluation.

    Args:
        config: The configuration.
        storage: The S3 service of the run.
        kept: The folder of the entries on this machine; None if S3 outlives the run.

    Raises:
        ConfigError: The folder cannot be read, or a file of the register is not an entry.
    """
    uri = config.storage.uri(read_register.NAME, config.dataset)
    with TemporaryDirectory() as scratch:
        storage.put(read_register.write_head(Path(scratch)), f"{uri}/{read_register.HEAD}")
        if kept is not None and kept.is_dir():
            read_register.entries(kept)
            storage.upload(kept, uri)
        storage.download(f"{uri}/", Path(scratch))
        read_register.entries(Path(scratch))


def keep_reads(config: PipelineConfig, storage: Storage, kept: Path) -> int:
    """Copy the entries that this machine lacks from S3 to `kept`, and return their number."""
    with TemporaryDirectory() as scratch:
        storage.download(f"{config.storage.uri(read_register.NAME, config.dataset)}/", Path(scratch))
        return read_register.merge(Path(scratch), kept)
