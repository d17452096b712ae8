"""The secret that patient ids are hashed with: a file on S3 that Prepare alone reads, in no request and no log."""

from pathlib import Path
from tempfile import TemporaryDirectory

from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.data.s3 import Storage


def stage_salt(config: PipelineConfig, storage: Storage) -> None:
    """Bring the configuration's salt, where it has one, to where the pipeline reads it."""
    if not config.data.patient_salt:
        return
    with TemporaryDirectory() as scratch:
        path = Path(scratch, config.data.salt_name)
        path.write_text(config.data.patient_salt, encoding="utf-8")
        storage.put(path, config.storage.uri("secrets", config.data.salt_name))
