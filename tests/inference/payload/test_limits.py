"""The limits of a body are those of the task, and limits that allow nothing are refused."""

from typing import Any

import pytest

from mammopipe.inference.contract.request import RequestOptions
from mammopipe.inference.contract.task import Task
from mammopipe.inference.payload.limits import HandlerLimits
from mammopipe.processing.errors import ConfigError


def test_limits_are_those_of_the_task() -> None:
    task = Task("r", b"", RequestOptions(), "application/json", max_views=4, max_bytes=10, s3_prefix="s3://a/b")
    assert HandlerLimits.of(task) == HandlerLimits(max_views=4, max_bytes=10, s3_prefix="s3://a/b")


@pytest.mark.parametrize(
    "values",
    [
        {"max_views": 0},
        {"max_bytes": 0},
        {"expansion": 0},
        {"s3_prefix": "a/b"},
        {"s3_prefix": "s3://"},
        {"s3_prefix": "s3:///b"},
    ],
)
def test_limits_without_sense_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        HandlerLimits(**values)
