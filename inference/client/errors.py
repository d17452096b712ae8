"""The client's error classes, and the conversion of botocore's and the server's errors into them.

The class tree:

    InferenceError               code and message; `status` is the HTTP status that the model's server gave
    ├── RequestRefusedError      an image or an option cannot be used; sending it again will not help
    ├── EndpointBusyError        busy, throttled, starting, stopping, or not reached by a proxy, even after
    │                            all attempts
    ├── EndpointFaultError       a fault of the server, or an answer that cannot be understood
    ├── EndpointUnreachableError no endpoint of that name, no permission, no connection
    └── DeadlineError            no answer within the caller's deadline

Every message is one line.
"""

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoRegionError,
    ResponseStreamingError,
)

from mammopipe.processing.errors import MammopipeError

T = TypeVar("T")

_BUSY = {
    "InternalDependencyException",
    "InternalError",
    "InternalFailure",
    "ModelNotReadyException",
    "RequestLimitExceeded",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
}
"""Error codes of AWS services after which the same call may succeed later: throttling and faults that pass."""
_TRY_AGAIN = (408, 429, 503)
"""Statuses of a server that has no room now, or did not receive the whole request; the same call may succeed later."""
_GATEWAY = (*_TRY_AGAIN, 502, 504)
"""Statuses of a proxy; the same call may succeed later."""
_BROKEN = (ConnectionError, HTTPClientError, IncompleteReadError, ResponseStreamingError)
"""Errors that mean no connection, a broken connection, or an incomplete answer."""
_PASSED_ON = re.compile(r'error \((?P<status>\d{3})\) from \S+ with message "(?P<body>.*)"', re.DOTALL)
"""SageMaker's quotation of a container's error in a failure object."""


class InferenceError(MammopipeError):
    """No answer; `code` names the reason, `status` is the server's HTTP status, or `None` without one."""

    def __init__(
        self, code: str, message: str, status: int | None = None, detail: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.status = code, message, status
        self.detail = dict(detail or {})
        """Detail from the server; for an exam, `{"image": index}` names the image that caused the error."""
        self.retry_after = 0.0
        """Seconds that the server asks to wait before the next attempt; 0 if it does not say."""


class RequestRefusedError(InferenceError):
    """An image or an option cannot be used."""


class EndpointBusyError(InferenceError):
    """The endpoint has no room, is starting or is stopping."""


class EndpointFaultError(InferenceError):
    """A fault of the server."""


class EndpointUnreachableError(InferenceError):
    """There is no such endpoint, no permission or no connection."""


class BrokenConnectionError(EndpointUnreachableError):
    """No connection, or a broken one. The call can be retried: the same image gets the same answer."""


class DeadlineError(InferenceError):
    """The caller's deadline has passed."""


def calling(call: Callable[[], T]) -> T:
    """Return the call's result; turn botocore's errors into errors of this module."""
    try:
        return call()
    except ClientError as error:
        failure = from_service(error)
        failure.retry_after = _retry_after(error.response)
        raise failure from None
    except NoRegionError:
        raise EndpointUnreachableError(
            "no_region",
            "the endpoint's AWS region is unknown: set AWS_DEFAULT_REGION, or give the endpoint's URL",
        ) from None
    except _BROKEN as error:
        raise BrokenConnectionError("unreachable", _one_line(error)) from None
    except BotoCoreError as error:
        raise EndpointUnreachableError("unreachable", _one_line(error)) from None


def from_service(error: ClientError) -> InferenceError:
    """Return the error in an AWS service's response: the container's own error if SageMaker passes one on."""
    response: Mapping[str, Any] = error.response
    code, message = str(response["Error"].get("Code", "")), str(response["Error"].get("Message", ""))
    if code == "ModelError":
        return from_container(int(response.get("OriginalStatusCode", 500)), str(response.get("OriginalMessage", "")))
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    kind = EndpointBusyError if code in _BUSY or status in _GATEWAY else EndpointUnreachableError
    return kind(code, " ".join(message.split()), status)


def from_container(status: int, body: str) -> InferenceError:
    """Return the error for a container's HTTP status and body, `{"error": {"code", "message", "detail"?}}`."""
    try:
        error = json.loads(body)["error"]
        code, message, detail = str(error["code"]), str(error["message"]), error.get("detail")
    except (ValueError, KeyError, TypeError, AttributeError):
        code, message, detail = "unknown", "the endpoint's answer is not an error of this server", None
    if status in _TRY_AGAIN or (code == "unknown" and status in _GATEWAY):
        kind: type[InferenceError] = EndpointBusyError
    else:
        kind = RequestRefusedError if 400 <= status < 500 else EndpointFaultError
    return kind(code, message, status, detail if isinstance(detail, Mapping) else None)


def from_failure(text: str) -> InferenceError:
    """Return the error in a failure object of async inference, which may quote the container's own error."""
    found = _PASSED_ON.search(text)
    if found is None:
        return EndpointFaultError("async_failure", " ".join(text.split())[:500] or "the failure object is empty")
    return from_container(int(found["status"]), found["body"])


def _retry_after(response: Mapping[str, Any]) -> float:
    """Return the seconds of a Retry-After header, 0 without one (RFC 9110, 10.2.3)."""
    given = str(response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("retry-after", "")).strip()
    if given.isdecimal() and given.isascii():
        return float(given[:9])
    try:
        moment = parsedate_to_datetime(given)
    except ValueError:
        return 0.0
    # HTTP dates are in GMT (RFC 9110, 5.6.7). The parser returns a naive time for a date without a zone.
    return max(0.0, (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
