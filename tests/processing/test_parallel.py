import os
import signal

import pytest

from processing.errors import ImageError
from processing.parallel import Refused, map_images


def square(number: int) -> int:
    return number * number


def work(number: int) -> int:
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 11:
        raise ImageError("eleven is no image")
    return square(number)


def fault(number: int) -> int:
    raise KeyError(number)


def test_every_item_has_its_result() -> None:
    found = dict(map_images(square, range(50), total=50, title="Square", workers=2))
    assert found == {number: number * number for number in range(50)}


def test_a_killed_worker_costs_its_image_and_no_other() -> None:
    found = dict(map_images(work, range(30), total=30, title="Work", workers=2))
    refused = {number: result.reason for number, result in found.items() if isinstance(result, Refused)}
    assert set(refused) == {7, 11}
    assert "worker process died" in refused[7]
    assert refused[11] == "eleven is no image"
    assert all(found[number] == number * number for number in set(range(30)) - {7, 11})


def test_a_fault_of_ours_is_not_taken_for_a_bad_image() -> None:
    with pytest.raises(KeyError):
        list(map_images(fault, range(3), total=3, title="Fault", workers=2))


def test_items_are_taken_as_they_are_needed() -> None:
    taken = 0

    def source() -> object:
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield number

    results = map_images(square, source(), total=1000, title="Square", workers=2)  # type: ignore[arg-type, var-annotated]
    next(results)
    assert taken < 20
    results.close()  # type: ignore[attr-defined]
