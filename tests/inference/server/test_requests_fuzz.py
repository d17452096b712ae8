"""A short run of the fuzzed requests; `python -m benchmarks.fuzz_requests` is the long one."""

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks import fuzz_requests
from benchmarks.fuzz_requests import Answer, fuzz, problem
from benchmarks.serving import request_cases

CASES = 300
JSON = {"content-type": "application/json"}


def test_no_request_breaks_the_server(own_server: Callable[..., Any]) -> None:
    outcome = fuzz(own_server(**fuzz_requests.LIMITS), cases=CASES, seed=4)
    assert outcome.problems == []
    assert outcome.answers.total() == CASES
    # Cases that are all refused at the door would show nothing.
    for kind in ("image", "json", "form", "zip"):
        assert any(name.startswith(f"{kind} 200") for name in outcome.kinds), (kind, outcome.kinds)
    assert outcome.kinds["schema 400"] > 0
    assert sum(name.startswith(("400", "413", "415", "422")) for name in outcome.answers) > 8


def test_a_case_is_its_seed_and_number() -> None:
    assert request_cases.make(1, 7) == request_cases.make(1, 7)
    assert len({request_cases.make(1, number) for number in range(50)}) == 50


@pytest.mark.parametrize(
    "answer",
    [
        Answer(500, JSON, b'{"error": {"code": "internal", "message": ""}}'),
        Answer(503, JSON, b'{"error": {"code": "worker_lost", "message": ""}}'),
        Answer(
            424,
            JSON,
            b'{"OriginalStatusCode": 500, "OriginalMessage": '
            b'"{\\"error\\": {\\"code\\": \\"internal\\", \\"message\\": \\"\\"}}"}',
        ),
        Answer(500, {"content-type": "text/plain"}, b"Internal Server Error"),
        Answer(422, JSON, b"{}"),
        Answer(422, JSON, b'{"error": {"code": "corrupt_image", "message": "DOE_JANE.dcm"}}'),
        Answer(200, {"x": "Doe^Jane"}, b"{}"),
    ],
)
def test_a_broken_rule_is_seen(answer: Answer) -> None:
    assert problem(answer) is not None


@pytest.mark.parametrize(
    "answer",
    [
        Answer(503, JSON, b'{"error": {"code": "busy", "message": ""}}'),
        Answer(422, JSON, b'{"error": {"code": "corrupt_image", "message": ""}}'),
        Answer(200, {"content-type": "application/dicom"}, b"Doe^Jane"),
    ],
)
def test_what_the_rules_allow_is_let_pass(answer: Answer) -> None:
    assert problem(answer) is None
