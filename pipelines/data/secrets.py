"""The salt for hashing patient ids: a file on S3 that only Prepare reads; it appears in no request and no log."""

from pathlib import Path
from tempfile import TemporaryDirectory

from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.data.s3 import Storage


def stage_salt(config: PipelineConfig, storage: Storage) -> None:
    """Upload the configuration's salt, if it has one, to the location where the pipeline reads it."""
    if not config.data.patient_salt:
        return
    with TemporaryDirectory() as scratch:
        path = Path(scratch, config.data.salt_name)
        path.write_text(config.data.patient_salt, encoding="utf-8")
        storage.put(path, config.storage.uri("secrets", config.data.salt_name))
