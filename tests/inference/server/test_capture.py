"""The server's own captures are lines that the monitor reads; refusals and requests to other paths are not captured."""

import asyncio
import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mammopipe.inference.server.capture import UNFINISHED, CaptureFolder, captured, capturing
from mammopipe.inference.settings import ServerSettings


async def answer(request: Request) -> Response:
    body = await request.body()
    if body == b"refuse":
        return Response("{}", 422, media_type="application/json")
    return Response('{"said": 1}', media_type="application/json")


def ask(folder: Path, path: str, body: bytes) -> int:
    application = capturing(Starlette(routes=[Route(path, answer, methods=["POST"])]), CaptureFolder(folder, 10**9, 90))
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(dict(message))

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "http_version": "1.1",
        "headers": [
            (b"content-type", b"image/x-portable-graymap"),
            (b"x-amzn-sagemaker-custom-attributes", b"view=MLO"),
        ],
    }
    asyncio.run(application(scope, receive, send))
    return int(sent[0]["status"])


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in folder.rglob("*.jsonl") for line in path.read_text().splitlines()]


def test_requests_and_answers_are_kept_as_data_capture_keeps_them(tmp_path: Path) -> None:
    for path in ("/invocations", "/endpoints/mammopipe/invocations"):
        assert ask(tmp_path, path, b"P5 film") == 200
    first, second = lines(tmp_path)
    data = first["captureData"]
    assert data["endpointInput"] == {
        "observedContentType": "image/x-portable-graymap",
        "mode": "INPUT",
        "encoding": "BASE64",
        "data": "UDUgZmlsbQ==",
    }
    assert data["endpointOutput"]["encoding"] == "JSON" and json.loads(data["endpointOutput"]["data"]) == {"said": 1}
    assert first["eventMetadata"]["customAttributes"] == ["view=MLO"] and first["eventVersion"] == "0"
    assert first["eventMetadata"]["eventId"] != second["eventMetadata"]["eventId"]


def test_only_their_owner_reads_captures(tmp_path: Path) -> None:
    ask(tmp_path / "captures", "/invocations", b"P5 film")
    (file,) = (tmp_path / "captures").rglob("*.jsonl")
    assert (tmp_path / "captures").stat().st_mode & 0o077 == 0 and file.stat().st_mode & 0o077 == 0


def test_refusals_and_other_paths_are_not_kept(tmp_path: Path) -> None:
    assert ask(tmp_path, "/invocations", b"refuse") == 422
    assert ask(tmp_path, "/other", b"P5 film") == 200
    assert lines(tmp_path) == []


def test_captures_are_for_one_machine_only(tmp_path: Path) -> None:
    ServerSettings(model=tmp_path, host="127.0.0.1", capture=str(tmp_path))
    with pytest.raises(ValidationError, match="MAMMOPIPE_CAPTURE"):
        ServerSettings(model=tmp_path, host="0.0.0.0", capture=str(tmp_path))


def kept(folder: Path) -> list[str]:
    return sorted(line["captureData"]["endpointInput"]["data"] for line in lines(folder))


def keep(folder: CaptureFolder, hours: range) -> None:
    start = datetime(2026, 1, 5, tzinfo=UTC)
    for number in hours:
        moment = start + timedelta(hours=number)
        line = captured(f'"{number:04}"'.encode(), {"content-type": "application/json"}, b"{}", {}, moment)
        folder.add(line, moment.date())


def test_the_oldest_captures_go_where_they_are_too_large_together(tmp_path: Path) -> None:
    keep(CaptureFolder(tmp_path / "one", 10**9, 90), range(1))
    size = sum(path.stat().st_size for path in (tmp_path / "one").rglob("*.jsonl"))
    folder = CaptureFolder(tmp_path / "many", 10 * size, 90)
    keep(folder, range(10))
    assert len(kept(folder.folder)) == 10
    keep(folder, range(10, 11))
    assert kept(folder.folder) == [f'"{number:04}"' for number in range(2, 11)], "to nine tenths"
    keep(CaptureFolder(folder.folder, 5 * size, 90), range(11, 12))
    assert kept(folder.folder) == [f'"{number:04}"' for number in range(8, 12)], "what an earlier process kept counts"
    assert all(any(hour.iterdir()) for hour in folder.folder.glob("*/*/*/*")), "no empty folder of an hour"


def test_captures_go_when_they_are_too_old(tmp_path: Path) -> None:
    folder = CaptureFolder(tmp_path, 10**9, 2)
    keep(folder, range(0, 24 * 4, 12))
    assert kept(tmp_path) == [f'"{number:04}"' for number in range(24, 24 * 4, 12)], "today and two days"


def test_a_folder_that_cannot_be_written_costs_the_capture_and_is_used_again_later(tmp_path: Path) -> None:
    place = tmp_path / "kept"
    folder = CaptureFolder(place, 10**9, 90)
    keep(folder, range(1))
    shutil.rmtree(place)
    keep(folder, range(1, 2))
    assert kept(place) == ['"0001"'] and not folder.degraded, "a deleted folder is made again"
    shutil.rmtree(place)
    for blocked in ("a file", "a link to nowhere"):
        if blocked == "a file":
            place.write_bytes(b"x")
        else:
            place.symlink_to(tmp_path / "nowhere" / "else")
        keep(folder, range(2, 4))
        assert folder.degraded and folder.take_dropped() == 2 and folder.take_dropped() == 0
        assert list(tmp_path.iterdir()) == [place], "nothing was written elsewhere"
        place.unlink()
    keep(folder, range(4, 5))
    assert kept(place) == ['"0004"'] and not folder.degraded


def test_what_is_no_capture_stops_no_clean_up(tmp_path: Path) -> None:
    keep(CaptureFolder(tmp_path / "one", 10**9, 90), range(1))
    size = sum(path.stat().st_size for path in (tmp_path / "one").rglob("*.jsonl"))
    place = tmp_path / "many"
    hour = place / "2026" / "01" / "05" / "00"
    (hour / "0000-folder.jsonl").mkdir(parents=True)
    (hour / "0000-link.jsonl").symlink_to(tmp_path / "nowhere")
    (hour / f"0000-folder{UNFINISHED}").mkdir()
    left = hour / f"0000-interrupted{UNFINISHED}"
    left.write_bytes(b"half a request")
    folder = CaptureFolder(place, 3 * size, 90)
    keep(folder, range(6))
    assert not folder.degraded and folder.take_dropped() == 0
    found = [path for path in place.rglob("*.jsonl") if path.is_file()]
    assert 1 <= len(found) <= 3 and not left.exists()
