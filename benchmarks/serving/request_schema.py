"""Generates requests from the server's OpenAPI document with schemathesis: conforming and violating ones."""

from collections.abc import Callable
from functools import partial
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode

from mammopipe.inference.contract.openapi import document

SETTINGS = settings(
    database=None,
    deadline=None,
    phases=[Phase.generate],
    verbosity=Verbosity.quiet,
    suppress_health_check=list(HealthCheck),
)


def send_generated(address: str, first: int, count: int, send: Callable[[str, Any], None]) -> None:
    """Generate `count` requests to `address`, the same for each `first` seed, and pass each with its name to `send`."""
    results = schemathesis.openapi.from_dict(document()).get_all_operations()
    operations = [result.ok() for result in results if isinstance(result, Ok)]
    modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    turns = [(operation, mode) for operation in operations if operation.method == "post" for mode in modes]
    for turn, (operation, mode) in enumerate(turns):
        share = count * (turn + 1) // len(turns) - count * turn // len(turns)
        _generate(
            operation.as_strategy(generation_mode=mode),
            first,
            share,
            partial(_send, send, address, turn),
        )


def _send(send: Callable[[str, Any], None], address: str, turn: int, number: int, case: Any) -> None:
    send(f"schema {turn}.{number}", _arguments(case, address, number))


def _arguments(case: Any, address: str, number: int) -> dict[str, Any]:
    """Return a case as arguments for `requests.request`; most accept JSON, since few generated Accept values do."""
    arguments: dict[str, Any] = case.as_transport_kwargs(base_url=address)
    if number % 4:
        arguments["headers"]["Accept"] = "application/json"
    return arguments


def _generate(strategy: Any, first: int, count: int, use: Callable[[int, Any], None]) -> None:
    if not count:
        return
    numbers = iter(range(count))

    @seed(first)
    @settings(SETTINGS, max_examples=count)
    @given(case=strategy)
    def each(case: Any) -> None:
        use(next(numbers), case)

    each()
