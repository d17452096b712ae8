"""What a clinical application imports: one image in, one typed answer out. Needs boto3 and nothing else.

    InferenceError               code and message; `status` is the HTTP status that the model's server gave
    ├── RequestRefusedError      the image or an option cannot be used; sending it again will not help
    ├── EndpointBusyError        busy, throttled, starting or stopping, still so after all attempts
    ├── EndpointFaultError       a fault of the server, or an answer that cannot be understood
    └── EndpointUnreachableError no endpoint of that name, no permission, no connection

Importing it loads neither torch nor the server.
"""

import base64
import ipaddress
import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from inference.media import AnswerType, ImageType, pack_attributes, sniff
from processing.errors import MammopipeError

T = TypeVar("T")

REALTIME_BYTES = 6_291_456
"""Body of a real-time InvokeEndpoint call on AWS (SageMaker endpoints and quotas)."""
READ_SECONDS = 70
"""InvokeEndpoint itself answers, or fails, within 60 seconds."""
_BUSY = {"Throttling", "ThrottlingException", "TooManyRequestsException", "ModelNotReadyException",
         "ServiceUnavailable"}


class InferenceError(MammopipeError):
    """No answer; `code` names the reason, `status` is the server's HTTP status where there is one."""

    def __init__(self, code: str, message: str, status: int | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.status = code, message, status


class RequestRefusedError(InferenceError):
    """The image or an option cannot be used."""


class EndpointBusyError(InferenceError):
    """The endpoint has no room, is starting or is stopping."""


class EndpointFaultError(InferenceError):
    """A fault of the server."""


class EndpointUnreachableError(InferenceError):
    """There is no such endpoint, no permission or no connection."""


class Finding(StrEnum):
    """What an operating point says."""

    SUSPICIOUS = "suspicious"
    NOT_SUSPICIOUS = "not_suspicious"


@dataclass(frozen=True)
class Decision:
    """What the operating point says, and what it is worth."""

    operating_point: str
    threshold: float
    """On the calibrated probability of malignant, 0 to 1."""
    finding: Finding
    sensitivity: float | None
    """Of the threshold on the validation images."""
    specificity: float | None


@dataclass(frozen=True)
class QualityWarning:
    """A reason to trust the scores less."""

    code: str
    message: str


@dataclass(frozen=True)
class Region:
    """A warm area of the heatmap, in pixels of the image that was sent; right and bottom are exclusive."""

    left: int
    top: int
    right: int
    bottom: int
    peak_x: int
    peak_y: int
    strength: float


@dataclass(frozen=True)
class Answer:
    """What the endpoint says of one image. Research use only: not for diagnosis."""

    probabilities: Mapping[str, float]
    """Calibrated, by class: normal, benign, malignant."""
    malignancy_score: float
    """0 to 100."""
    decision: Decision | None
    """`None` where the model has no operating points."""
    warnings: tuple[QualityWarning, ...]
    model: str
    """Id of the model that answered."""
    regions: tuple[Region, ...] = ()
    """Where the evidence lies, strongest first; empty unless a heatmap was asked for."""
    heatmap_png: bytes | None = field(default=None, repr=False)
    """8-bit greyscale PNG of the image's size, where a heatmap was asked for."""
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The whole JSON answer."""

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Answer":
        """Return the typed form of a JSON answer; `EndpointFaultError` where it is of an unknown schema."""
        version = values.get("schema_version")
        if version != 1:
            raise EndpointFaultError("unknown_schema", f"schema_version={version!r}; this client reads 1")
        decision, heatmap = values["decision"], values["heatmap"]
        return cls(
            probabilities=values["probabilities"],
            malignancy_score=values["malignancy_score"],
            decision=Decision(**{**decision, "finding": Finding(decision["finding"])}) if decision else None,
            warnings=tuple(QualityWarning(**warning) for warning in values["warnings"]),
            model=values["model"]["id"],
            regions=tuple(Region(**region) for region in heatmap["regions"]) if heatmap else (),
            heatmap_png=base64.b64decode(heatmap["png"]) if heatmap else None,
            raw=values,
        )


class MammographyClient:
    """One endpoint: on AWS by its name, or any server that speaks InvokeEndpoint, at `endpoint_url`.

    A loopback `endpoint_url` needs neither credentials nor a region. `attempts` bounds how often a call is tried where
    the endpoint is busy, throttles or breaks the connection; `backoff_seconds` is the upper bound of the first wait,
    doubled each time, of which a random part is waited ("full jitter").
    """

    def __init__(self, endpoint_name: str, *, endpoint_url: str | None = None, region: str | None = None,
                 attempts: int = 5, backoff_seconds: float = 0.5) -> None:
        self._endpoint_name = endpoint_name
        self._endpoint_url = endpoint_url
        self._region = region
        self._attempts = attempts
        self._backoff_seconds = backoff_seconds
        self._runtime = self._make_runtime()

    def predict(self, source: Path | str | bytes, *, laterality: str | None = None, view: str | None = None,
                operating_point: str | None = None, heatmap: bool = False) -> Answer:
        """Return the endpoint's answer to one image: a path, an `s3://` URI, or the bytes of a PGM, PNG or DICOM file.

        `laterality` (L, R) and `view` (CC, MLO, ...) say what the file does not; PGM and PNG say neither.
        Raises the subclasses of `InferenceError`.
        """
        options = {"laterality": laterality, "view": view, "operating_point": operating_point,
                   "heatmap": "true" if heatmap else None}
        return Answer.from_json(json.loads(self._invoke(self._load(source), AnswerType.JSON, options)))

    def overlay(self, source: Path | str | bytes, *, laterality: str | None = None, view: str | None = None,
                target: str | None = None) -> bytes:
        """Return the image with its heatmap as a PNG of the same size; `target` is the class whose evidence it shows.

        Arguments and errors are those of `predict`.
        """
        options = {"laterality": laterality, "view": view, "target": target}
        return self._invoke(self._load(source), AnswerType.OVERLAY, options)

    def _load(self, source: Path | str | bytes) -> bytes:
        if isinstance(source, bytes):
            return source
        if isinstance(source, str) and source.startswith("s3://"):
            bucket, _, key = source.removeprefix("s3://").partition("/")
            storage = boto3.client("s3", region_name=self._region)
            return bytes(_calling(lambda: storage.get_object(Bucket=bucket, Key=key)["Body"].read()))
        try:
            return Path(source).read_bytes()
        except OSError as error:
            raise RequestRefusedError("unreadable_file", f"{source}: {error.strerror}") from None

    def _invoke(self, body: bytes, form: AnswerType, options: Mapping[str, str | None]) -> bytes:
        kind = sniff(body)
        if kind is None:
            raise RequestRefusedError("unsupported_type", f"the image is none of {', '.join(ImageType)}")
        if self._endpoint_url is None and len(body) > REALTIME_BYTES:
            raise RequestRefusedError("too_large", f"{len(body)} bytes; a real-time call takes {REALTIME_BYTES}", 413)
        given = {name: value for name, value in options.items() if value is not None}
        request = {"EndpointName": self._endpoint_name, "Body": body, "ContentType": str(kind), "Accept": str(form)}
        if given:
            request["CustomAttributes"] = pack_attributes(given)
        return bytes(self._patiently(lambda: self._runtime.invoke_endpoint(**request)["Body"].read()))

    def _patiently(self, call: Callable[[], T]) -> T:
        """Return the call's result; where the endpoint is busy, wait and try again."""
        for attempt in range(1, self._attempts + 1):
            try:
                return _calling(call)
            except EndpointBusyError:
                if attempt == self._attempts:
                    raise
                time.sleep(random.uniform(0, self._backoff_seconds * 2 ** (attempt - 1)))
        raise ValueError(f"attempts={self._attempts} must be at least 1")

    def _make_runtime(self) -> Any:
        # botocore retries broken connections and AWS's own 5xx; what the container says is tried again above.
        settings: dict[str, Any] = {"retries": {"mode": "standard", "total_max_attempts": self._attempts},
                                    "connect_timeout": 5, "read_timeout": READ_SECONDS}
        if self._endpoint_url is None or not _is_loopback(self._endpoint_url):
            return boto3.client("sagemaker-runtime", region_name=self._region, endpoint_url=self._endpoint_url,
                                config=Config(**settings))
        # Placeholder keys keep botocore from searching the machine and its network for real ones.
        return boto3.client("sagemaker-runtime", region_name=self._region or "us-east-1",
                            endpoint_url=self._endpoint_url, aws_access_key_id="local", aws_secret_access_key="local",
                            config=Config(signature_version=UNSIGNED, proxies={}, **settings))


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _calling(call: Callable[[], T]) -> T:
    """Return the call's result, botocore's errors turned into this module's."""
    try:
        return call()
    except ClientError as error:
        raise _explain(error) from None
    except BotoCoreError as error:
        raise EndpointUnreachableError("unreachable", str(error)) from None


def _explain(error: ClientError) -> InferenceError:
    response: Mapping[str, Any] = error.response
    code, message = response["Error"].get("Code", ""), response["Error"].get("Message", "")
    if code == "ModelError":
        return _from_container(int(response.get("OriginalStatusCode", 500)), str(response.get("OriginalMessage", "")))
    if code in _BUSY:
        return EndpointBusyError(code, message, response.get("ResponseMetadata", {}).get("HTTPStatusCode"))
    return EndpointUnreachableError(code, message, response.get("ResponseMetadata", {}).get("HTTPStatusCode"))


def _from_container(status: int, body: str) -> InferenceError:
    """Return the error in what the container said, which AWS passes on within its own."""
    try:
        error = json.loads(body)["error"]
        code, message = str(error["code"]), str(error["message"])
    except (ValueError, KeyError, TypeError):
        code, message = "unknown", "the endpoint's answer is no error of this server"
    if status == 503:
        return EndpointBusyError(code, message, status)
    return (RequestRefusedError if 400 <= status < 500 else EndpointFaultError)(code, message, status)
