"""The services that a run uses: AWS with the caller's credentials, or their replacements in a local run.

Also turns the exceptions of AWS into errors of this project.
"""

import logging
import os
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as NoConnectionError

from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.data.folder_storage import FolderStorage
from mammopipe.pipelines.data.s3 import EXPIRED, LOGGED_OUT, QUICK, Storage, s3_client
from mammopipe.pipelines.graph.sdk import OFFLINE, region_of
from mammopipe.processing.errors import ConfigError

PLACEHOLDER_ACCOUNT = ":000000000000:"
"""The account in the default role; a placeholder, not a real account."""


class TransientError(ConfigError):
    """AWS throttled, failed internally or was unreachable: the same call may succeed later."""


class ExpiredCredentialsError(ConfigError):
    """The caller's credentials have expired; runs on AWS continue without them."""

    exit_code = 4


BUSY = {
    "RequestLimitExceeded",
    "RequestTimeout",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
}
"""Error codes of temporary failures; responses with status 5xx also count as temporary."""


@contextmanager
def aws_errors() -> Iterator[None]:
    """Turn exceptions of AWS or botocore into a one-line `ConfigError`, or a `TransientError` if a retry may help."""
    try:
        yield
    except ClientError as error:
        failure, status = error.response["Error"], error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        kind = TransientError if failure["Code"] in BUSY or status >= 500 else ConfigError
        kind = ExpiredCredentialsError if failure["Code"] in EXPIRED else kind
        raise kind(f"AWS refused {error.operation_name}: {failure.get('Message', '')}") from None
    except LOGGED_OUT as error:
        raise ExpiredCredentialsError(f"AWS credentials: {' '.join(str(error).split())}") from None
    except BotoCoreError as error:
        kind = TransientError if isinstance(error, NoConnectionError | HTTPClientError) else ConfigError
        raise kind(f"AWS cannot be reached: {' '.join(str(error).split())}") from None


def caller_session(config: PipelineConfig) -> boto3.Session:
    """Return a boto3 session with the caller's credentials, in the region that a run would use."""
    return boto3.Session(region_name=region_of(config))


@dataclass(frozen=True)
class LocalServices:
    """The services that replace AWS in a local run."""

    storage: Storage
    """S3: the run's own emulator, or the service at `$AWS_ENDPOINT_URL_S3`."""
    sagemaker: Any
    """A boto3 client of the emulator, which checks each request against the service's model and holds the registry."""
    environment: Mapping[str, str]
    """The variables that a local container needs to reach the same S3."""
    durable: bool
    """Whether S3 is a separate service, which outlives the run."""


@contextmanager
def local_services(
    config: PipelineConfig, cache: Path | None = None, folder: Path | None = None
) -> Iterator[LocalServices]:
    """Start an in-process moto server for the services that the environment does not name.

    `$AWS_ENDPOINT_URL_SAGEMAKER` and `$AWS_ENDPOINT_URL_S3` name services that outlive the run. The moto server stops
    at the end and loses its state; a process can run only one at a time.

    Args:
        config: The configuration.
        cache: Folder where uploads keep a copy (`mammopipe.pipelines.data.s3`).
        folder: Folder that replaces S3, unless the environment names an S3 service.
    """
    from moto.server import ThreadedMotoServer

    # moto's web server would log every request.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    region = region_of(config)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    try:
        offline = boto3.Session(region_name=region, **OFFLINE)
        external = os.environ.get("AWS_ENDPOINT_URL_S3")
        caller = _credentials(region) if external else offline
        client = s3_client(caller, external or url)
        storage = FolderStorage(client, root=folder) if folder and not external else Storage(client, cache)
        keys = caller.get_credentials().get_frozen_credentials()
        yield LocalServices(
            storage,
            offline.client("sagemaker", endpoint_url=os.environ.get("AWS_ENDPOINT_URL_SAGEMAKER") or url, config=QUICK),
            {
                "AWS_ENDPOINT_URL_S3": external or url,
                "AWS_DEFAULT_REGION": region,
                "AWS_EC2_METADATA_DISABLED": "true",
                "AWS_ACCESS_KEY_ID": keys.access_key,
                "AWS_SECRET_ACCESS_KEY": keys.secret_key,
                **({"AWS_SESSION_TOKEN": keys.token} if keys.token else {}),
            },
            durable=external is not None,
        )
    finally:
        reset_emulator(url)
        server.stop()


def reset_emulator(url: str) -> None:
    """Empty a moto server; its state belongs to this process, so stopping the server would not remove it."""
    request = urllib.request.Request(f"{url}/moto-api/reset", method="POST")
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request).close()


def caller_storage(config: PipelineConfig) -> Storage:
    """Return the S3 that the caller's environment names: the service at `$AWS_ENDPOINT_URL_S3`, or AWS."""
    region = region_of(config)
    return Storage(
        s3_client(_credentials(region) if os.environ.get("AWS_ENDPOINT_URL_S3") else boto3.Session(region_name=region))
    )


def _credentials(region: str) -> boto3.Session:
    """Return a session with the caller's credentials or, without any, with placeholders, which an emulator accepts."""
    # Otherwise, on a machine without credentials, boto3 asks the instance metadata service and waits for a timeout.
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    session = boto3.Session(region_name=region)
    return session if session.get_credentials() else boto3.Session(region_name=region, **OFFLINE)
