"""A PGM file and a client of AWS without a network."""

from collections.abc import Iterator

import boto3
import pytest
from botocore.stub import Stubber

from mammopipe.inference.client import sender
from mammopipe.inference.client.client import MammographyClient

PGM = b"P5\n2 1\n255\n\x01\x02"


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Stubber, MammographyClient]]:
    """Return a client that sends nothing, and the stubber that gives AWS's answers."""
    runtime = boto3.client(
        "sagemaker-runtime", region_name="eu-west-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    monkeypatch.setattr(sender, "runtime", lambda *_: runtime)
    with Stubber(runtime) as stubber:
        yield stubber, MammographyClient("breast", backoff_seconds=0)
