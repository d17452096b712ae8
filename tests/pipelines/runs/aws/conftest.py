"""Executions on AWS, for the tests of runs and of their watching."""

from pathlib import Path

import pytest

from mammopipe.pipelines.backends.sessions import LocalServices
from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.runs import aws as aws_runs
from mammopipe.pipelines.runs.folder import RunFolder
from tests.pipelines.aws_account import ARN, REGION, Aws


@pytest.fixture
def aws(services: LocalServices) -> Aws:
    """The AWS that answers by script, with an emulated S3."""
    return Aws(services.storage)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """The folder of an execution on AWS."""
    return aws_runs.record(tmp_path / "runs", PipelineConfig(), ARN, REGION)
