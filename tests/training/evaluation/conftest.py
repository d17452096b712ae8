"""Evaluations of the same images with the same weights share their computations."""

from collections.abc import Iterator

import pytest

from tests.support.computed_once import computed_once


@pytest.fixture(scope="module", autouse=True)
def shared_computations() -> Iterator[None]:
    with computed_once():
        yield
