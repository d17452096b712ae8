"""CloudWatch metrics inside the log lines of requests, in the embedded metric format: no agent and no call to AWS.

CloudWatch Logs takes the values named under `_aws` out of a JSON line. Each request adds to
Requests, ClientErrors (4xx), ServerErrors (5xx except 503), Busy (503), and, where they exist,
Latency and WaitTime (ms), MalignancyScore (0 to 100) and Referrals (0 or 1). DroppedLogLines and DroppedCaptures count
what could not be written since the last line that was.
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
    """Return what makes a request's log line a document of metrics: `_aws`, the values and the dimension.

    `facts` are those of `mammopipe.inference.contract.task.Reply`; `time_s` is in seconds since 1970. Where `model`,
    at most 1024 characters, is not empty, each metric is kept for the model, too.
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
