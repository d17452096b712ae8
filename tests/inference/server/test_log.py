"""A log that never fails, blocks or ends a request."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mammopipe.inference.server.log import Log


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    for descriptor in (reading, writing):
        try:
            os.close(descriptor)
        except OSError:
            pass


def lines(reading: int) -> list[dict[str, object]]:
    os.set_blocking(reading, False)
    text = b""
    while True:
        try:
            text += os.read(reading, 2**20)
        except BlockingIOError:
            return [json.loads(line) for line in text.splitlines()]


def test_a_full_pipe_drops_lines_and_says_how_many(pipe: tuple[int, int]) -> None:
    log = Log(pipe[1])
    for number in range(40):
        log("request", number=number, text="x" * 3000)
    dropped = log.dropped
    assert log.degraded and dropped > 10
    first = lines(pipe[0])
    log("request", number=99)
    assert not log.degraded
    (last,) = [line for line in lines(pipe[0]) if line["number"] == 99]
    assert last["dropped_lines"] == dropped
    assert len(first) + dropped in (40, 39), "one line may have been cut off and is finished later"


def test_a_line_that_was_cut_off_is_finished_before_the_next(pipe: tuple[int, int]) -> None:
    log = Log(pipe[1])
    log("long", text="x" * 300_000)
    text = b""
    os.set_blocking(pipe[0], False)
    for number in range(20):
        try:
            text += os.read(pipe[0], 2**20)
        except BlockingIOError:
            pass
        log("short", number=number)
    text += os.read(pipe[0], 2**20)
    events = [json.loads(line)["event"] for line in text.splitlines()]
    assert events[0] == "long" and set(events[1:]) == {"short"}


def test_neither_a_full_disk_nor_a_closed_reader_nor_a_missing_output_raises(pipe: tuple[int, int]) -> None:
    with open("/dev/full", "wb", buffering=0) as full:
        log = Log(full.fileno())
        log("request")
        assert log.degraded
    os.close(pipe[0])
    closed = Log(pipe[1])
    closed("request")
    assert closed.degraded
    nowhere = Log(None)
    nowhere("request")
    assert nowhere.dropped == 1


def test_what_is_no_json_costs_its_line_only(tmp_path: Path) -> None:
    with open(tmp_path / "log", "wb", buffering=0) as target:
        log = Log(target.fileno())
        log("request", facts=object())
        log("request", number=1)
    (line,) = map(json.loads, (tmp_path / "log").read_text().splitlines())
    assert (line["number"], line["dropped_lines"]) == (1, 1)
