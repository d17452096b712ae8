"""CloudWatch metrics in the log lines of requests, in the embedded metric format: no agent and no call to AWS.

CloudWatch Logs extracts the values named under `_aws` from a JSON line. Each request adds to Requests, ClientErrors
(4xx), ServerErrors (5xx except 503), Busy (503), and, if they exist, Latency and WaitTime (ms), MalignancyScore (0 to
100) and Referrals (0 or 1). DroppedLogLines and DroppedCaptures count the lines that could not be written since the
last successful one.
Source: "Specification: Embedded metric format" (Amazon CloudWatch User Guide).
"""

from collections.abc import Mapping
from enum import StrEnum
from http import HTTPStatus
from typing import Any

NAMESPACE = "Mammopipe/Endpoint"
DIMENSION = "Model"


class Unit(StrEnum):
    """The units of MetricDatum that are used here (CloudWatch API)."""

    COUNT = "Count"
    MILLISECONDS = "Milliseconds"
    NONE = "None"


UNITS: Mapping[str, Unit] = {
    "Requests": Unit.COUNT,
    "ClientErrors": Unit.COUNT,
    "ServerErrors": Unit.COUNT,
    "Busy": Unit.COUNT,
    "Latency": Unit.MILLISECONDS,
    "WaitTime": Unit.MILLISECONDS,
    "MalignancyScore": Unit.NONE,
    "Referrals": Unit.COUNT,
    "DroppedLogLines": Unit.COUNT,
    "DroppedCaptures": Unit.COUNT,
}
"""Every metric's unit."""


def embedded(facts: Mapping[str, Any], *, status: int, total_ms: float, time_s: float, model: str) -> dict[str, Any]:
    """Return the fields that turn a request's log line into metrics: `_aws`, the values and the dimension.

    Args:
        facts: The facts of `mammopipe.inference.contract.task.Reply`.
        status: HTTP status of the answer.
        total_ms: Duration of the request in milliseconds.
        time_s: Time of the request in seconds since 1970.
        model: Id of the model, at most 1024 characters. If it is not empty, each metric is also recorded per model.
    """
    busy = status == HTTPStatus.SERVICE_UNAVAILABLE
    values: dict[str, float] = {
        "Requests": 1,
        "ClientErrors": int(400 <= status < 500),
        "ServerErrors": int(status >= 500 and not busy),
        "Busy": int(busy),
        "Latency": total_ms,
    }
    if "wait_ms" in facts:
        values["WaitTime"] = facts["wait_ms"]
    if "score" in facts:
        values["MalignancyScore"] = facts["score"]
    if "refer" in facts:
        values["Referrals"] = int(facts["refer"])
    for name, fact in (("DroppedLogLines", "dropped_log_lines"), ("DroppedCaptures", "dropped_captures")):
        if fact in facts:
            values[name] = facts[fact]
    directive = {
        "Namespace": NAMESPACE,
        "Dimensions": [[], [DIMENSION]] if model else [[]],
        "Metrics": [{"Name": name, "Unit": str(UNITS[name])} for name in values],
    }
    dimensions = {DIMENSION: model} if model else {}
    return {"_aws": {"Timestamp": int(time_s * 1000), "CloudWatchMetrics": [directive]}, **dimensions, **values}
