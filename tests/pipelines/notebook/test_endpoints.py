"""A notebook asks and deletes a run's own endpoint; on AWS that is the candidate, never the one that a clinic calls."""

from pathlib import Path
from typing import Any

import pytest

from mammopipe.pipelines.backends import sessions
from mammopipe.pipelines.backends.sessions import LocalServices
from mammopipe.pipelines.backends.step_status import Status
from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.runs import aws
from mammopipe.pipelines.runs.run import Run
from mammopipe.processing.errors import ConfigError
from tests.pipelines.account.test_removal import Recorder, endpoint, left

view = pytest.importorskip("mammopipe.pipelines.notebook.views")
CONFIG = PipelineConfig(region="eu-central-1")
ARN = "arn:aws:sagemaker:eu-central-1:123456789012:pipeline/mammopipe/execution/abcd"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    folder = aws.record(tmp_path, CONFIG, ARN, CONFIG.region)
    return Run(folder.id, Status.SUCCEEDED, folder=folder.path, arn=ARN)


def test_on_aws_the_client_asks_the_candidate(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "MammographyClient", lambda name, region: (name, region))
    assert view.client(CONFIG, run) == ("mammopipe-candidate", "eu-central-1")


def test_on_aws_only_the_candidate_is_deleted(
    run: Run, services: LocalServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Session:
        def client(self, name: str) -> Any:
            return services.sagemaker if name == "sagemaker" else Recorder()

    monkeypatch.setattr(sessions, "caller_session", lambda config: Session())
    for name in ("mammopipe", "mammopipe-candidate"):
        endpoint(services.sagemaker, name)
    assert view.delete(CONFIG, run)
    assert left(services.sagemaker) == ["mammopipe", "mammopipe-c", "mammopipe-m"]
    with pytest.raises(ConfigError, match="endpoint mammopipe-candidate: does not exist"):
        view.delete(CONFIG, run)
