"""Watching a run on AWS while AWS, the network or the credentials fail."""

from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from mammopipe.pipelines.backends.sessions import ExpiredCredentialsError
from mammopipe.pipelines.backends.step_status import Status
from mammopipe.pipelines.data.s3 import ExpiredAccessError
from mammopipe.pipelines.runs import aws_watch
from mammopipe.pipelines.runs.folder import RunFolder
from mammopipe.processing.errors import ConfigError
from tests.pipelines.aws_account import ID, PREPARED, Aws, Screen


def refusal(code: str, status: int) -> ClientError:
    answer = {"Error": {"Code": code, "Message": "slowly"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "DescribePipelineExecution")  # type: ignore[arg-type]


DROPPED = EndpointConnectionError(endpoint_url="https://api")
FAULTS = [refusal("ThrottlingException", 400), refusal("InternalFailure", 500), DROPPED]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_poll_that_fails_for_a_while_does_not_end_the_watching(
    aws: Aws, folder: RunFolder, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    faults, describe = iter([fault] * 6), aws.clients.sagemaker.describe_pipeline_execution

    def answer(**request: Any) -> Any:
        for error in faults:
            raise error
        return describe(**request)

    monkeypatch.setattr(aws.clients.sagemaker, "describe_pipeline_execution", answer)
    aws.shows("Failed", PREPARED)
    said, waited = [], []
    ended = aws_watch.watch(folder, aws.clients, Screen().show, said.append, wait=waited.append)
    assert ended["status"] == Status.FAILED and waited == [10, 20, 40, 80, 160, 300]
    assert len([line for line in said if "trying again for up to 60 minutes" in line]) == 1


def test_the_watching_ends_where_nobody_answers_and_says_how_to_look_again(
    aws: Aws, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(**request: Any) -> Any:
        raise DROPPED

    monkeypatch.setattr(aws.clients.sagemaker, "describe_pipeline_execution", answer)
    waited: list[float] = []
    with pytest.raises(ConfigError, match=f"for 60 minutes; {ID} continues .* mammopipe status {ID} --watch"):
        aws_watch.watch(folder, aws.clients, Screen().show, lambda line: None, wait=waited.append)
    assert aws_watch.LONGEST_SILENCE <= sum(waited) < aws_watch.LONGEST_SILENCE + aws_watch.LONGEST_PAUSE


def test_a_poll_that_is_refused_for_good_ends_the_watching(aws: Aws, folder: RunFolder) -> None:
    aws.stub.add_client_error("describe_pipeline_execution", "ExpiredTokenException", "expired", http_status_code=403)
    with pytest.raises(ConfigError, match="AWS refused DescribePipelineExecution: expired"):
        aws_watch.watch(folder, aws.clients, Screen().show, lambda line: None, wait=lambda seconds: None)


@pytest.mark.parametrize(
    "error",
    [ExpiredAccessError("s3://b/k: the credentials have expired"), ExpiredCredentialsError("AWS refused: expired")],
)
def test_credentials_that_expire_at_the_end_say_that_the_run_has_ended(
    aws: Aws, folder: RunFolder, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def expired(*given: Any, **named: Any) -> Any:
        raise error

    monkeypatch.setattr(aws_watch, "finish", expired)
    aws.shows("Succeeded", PREPARED)
    with pytest.raises(
        ExpiredCredentialsError, match=f"{ID} has ended on AWS: Succeeded.*status {ID} --watch"
    ) as shown:
        aws_watch.watch(folder, aws.clients, Screen().show, lambda line: None, wait=lambda seconds: None)
    assert shown.value.exit_code == 4
