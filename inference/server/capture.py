"""Data capture outside SageMaker: the server writes requests and answers to a folder.

The lines have the format of `mammopipe.inference.monitoring.captures`. Each is in its own file, so that the oldest can
be removed when there are too many. On SageMaker the endpoint's configuration captures, never the container.
"""

import asyncio
import base64
import json
import os
import threading
import uuid
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mammopipe.inference.contract.media_types import CUSTOM_ATTRIBUTES_HEADER
from mammopipe.inference.monitoring.windows import SUFFIX, day_of
from mammopipe.inference.server.direct_body import PASS_BODY

TEXT = "application/json"
UNFINISHED = ".part"
"""Suffix of a file that is still being written; files with the final suffix are complete."""
_LEFT = 0.9
"""Share of the allowed bytes that a clean-up leaves, so that not every request has to clean up."""


@dataclass
class CaptureFolder:
    """A folder of captures with limited size and age. Only one process may write to it."""

    folder: Path
    most_bytes: int
    most_days: int
    degraded: bool = False
    """Whether the last line could not be written."""
    _dropped: int = 0
    _bytes: int | None = None
    _day: date = date.min
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, line: dict[str, Any], today: date) -> None:
        """Write a line, and remove captures that are too old, or the oldest if all together are too large.

        A line that cannot be written, for example on a full disk, is dropped and counted. The request itself has been
        answered by then.
        """
        with self._lock:
            try:
                size = append(self.folder, line)
                self._bytes = None if self._bytes is None else self._bytes + size
                if self._bytes is None or self._bytes > self.most_bytes or self._day != today:
                    self._bytes, self._day = self._clear(today), today
            except OSError:
                self._dropped += 1
                self.degraded = True
            else:
                self.degraded = False

    def take_dropped(self) -> int:
        """Return the number of lines dropped since the last call."""
        with self._lock:
            dropped, self._dropped = self._dropped, 0
            return dropped

    def _clear(self, today: date) -> int:
        """Remove captures that are too old or too many, and what an interrupted process left; return the bytes kept."""
        for path in _files(self.folder, UNFINISHED):
            path.unlink()
        # Sorted by name, which is by time, because names begin with the time.
        files = sorted(_files(self.folder, SUFFIX))
        sizes = {path: path.stat().st_size for path in files}
        total, wanted = sum(sizes.values()), self.most_bytes
        if total > self.most_bytes:
            wanted = int(_LEFT * self.most_bytes)
        for path in files:
            if total > wanted or (day_of(path.as_posix()) or today) < today - timedelta(days=self.most_days):
                path.unlink()
                total -= sizes[path]
                if not any(path.parent.iterdir()):
                    path.parent.rmdir()
        return total


def _files(folder: Path, suffix: str) -> list[Path]:
    """Return the files below a folder with a suffix. Links and folders are no captures."""
    return [path for path in folder.rglob(f"*{suffix}") if path.is_file() and not path.is_symlink()]


def capturing(application: ASGIApp, captures: CaptureFolder) -> ASGIApp:
    """Return the application, wrapped so that requests to `/invocations` answered with 200 are captured."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application, and capture request and answer once it has answered."""
        if scope["type"] != "http" or not scope["path"].endswith("/invocations"):
            await application(scope, receive, send)
            return
        # Without `pass_body` every part of the request passes `receive_recorded`.
        scope.get("state", {}).pop(PASS_BODY, None)
        request_body, answer_body = bytearray(), bytearray()
        start: dict[str, Any] = {}

        async def receive_recorded() -> Message:
            """Pass a part of the request on and record it."""
            message = await receive()
            request_body.extend(message.get("body", b""))
            return message

        async def send_recorded(message: Message) -> None:
            """Pass a part of the answer on and record it."""
            if message["type"] == "http.response.start":
                start.update(message)
            answer_body.extend(message.get("body", b""))
            await send(message)

        await application(scope, receive_recorded, send_recorded)
        if start.get("status") == 200:
            now = datetime.now(UTC)
            line = captured(bytes(request_body), _headers(scope), bytes(answer_body), _headers(start), now)
            await asyncio.to_thread(captures.add, line, now.date())

    return answer


def captured(
    request: bytes, request_headers: dict[str, str], answer: bytes, answer_headers: dict[str, str], moment: datetime
) -> dict[str, Any]:
    """Return one captured request in SageMaker's format; data that is not JSON is base64."""
    attributes = request_headers.get(CUSTOM_ATTRIBUTES_HEADER.lower(), "")
    return {
        "captureData": {
            "endpointInput": _content(request, request_headers.get("content-type", ""), "INPUT"),
            "endpointOutput": _content(answer, answer_headers.get("content-type", ""), "OUTPUT"),
        },
        "eventMetadata": {
            "eventId": str(uuid.uuid4()),
            "customAttributes": attributes.split(",") if attributes else [],
            "inferenceTime": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
        },
        "eventVersion": "0",
    }


def _content(data: bytes, kind: str, mode: str) -> dict[str, str]:
    plain = kind.startswith(TEXT)
    return {
        "observedContentType": kind,
        "mode": mode,
        "encoding": "JSON" if plain else "BASE64",
        "data": data.decode() if plain else base64.b64encode(data).decode(),
    }


def append(folder: Path, line: dict[str, Any]) -> int:
    """Write a line to `yyyy/mm/dd/hh/mmss-<id>.jsonl` below the folder, and return its bytes."""
    moment = datetime.fromisoformat(line["eventMetadata"]["inferenceTime"].replace("Z", "+00:00"))
    path = folder / f"{moment:%Y/%m/%d/%H}" / f"{moment:%M%S}-{line['eventMetadata']['eventId']}{SUFFIX}"
    # Captures hold patients' images, so other users of the machine may not read them.
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = (json.dumps(line) + "\n").encode()
    # Written under another suffix and renamed, so that a reader of the folder never sees part of a line.
    unfinished = path.with_suffix(UNFINISHED)
    try:
        with open(unfinished, "wb", opener=_private) as stream:
            stream.write(content)
        unfinished.replace(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
    return len(content)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _headers(message: Any) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in message["headers"]}
