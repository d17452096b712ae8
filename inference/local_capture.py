"""What data capture does on SageMaker, done by the server on one's own machine: requests and answers in a folder.

The lines are those of `inference.captures`. On SageMaker the endpoint's configuration captures, never the container.
"""

import asyncio
import base64
import json
import os
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inference.media import CUSTOM_ATTRIBUTES_HEADER

TEXT = "application/json"


def capturing(application: ASGIApp, folder: Path) -> ASGIApp:
    """Return the application, which keeps what `/invocations` is asked and answers, where it answers 200."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].endswith("/invocations"):
            await application(scope, receive, send)
            return
        asked, said = bytearray(), bytearray()
        opening: dict[str, Any] = {}

        async def hear() -> Message:
            message = await receive()
            asked.extend(message.get("body", b""))
            return message

        async def deliver(message: Message) -> None:
            if message["type"] == "http.response.start":
                opening.update(message)
            said.extend(message.get("body", b""))
            await send(message)

        await application(scope, hear, deliver)
        if opening.get("status") == 200:
            line = captured(bytes(asked), _headers(scope), bytes(said), _headers(opening), datetime.now(UTC))
            await asyncio.to_thread(append, folder, line)

    return answer


def captured(asked: bytes, asked_headers: dict[str, str], said: bytes, said_headers: dict[str, str],
             moment: datetime) -> dict[str, Any]:
    """Return one captured request as SageMaker writes it; what is no JSON is base64."""
    attributes = asked_headers.get(CUSTOM_ATTRIBUTES_HEADER.lower(), "")
    return {
        "captureData": {"endpointInput": _content(asked, asked_headers.get("content-type", ""), "INPUT"),
                        "endpointOutput": _content(said, said_headers.get("content-type", ""), "OUTPUT")},
        "eventMetadata": {"eventId": str(uuid.uuid4()), "customAttributes": attributes.split(",") if attributes else [],
                          "inferenceTime": moment.strftime("%Y-%m-%dT%H:%M:%SZ")},
        "eventVersion": "0",
    }


def _content(data: bytes, kind: str, mode: str) -> dict[str, str]:
    plain = kind.startswith(TEXT)
    return {"observedContentType": kind, "mode": mode, "encoding": "JSON" if plain else "BASE64",
            "data": data.decode() if plain else base64.b64encode(data).decode()}


def append(folder: Path, line: dict[str, Any]) -> None:
    """Add a line to the file of its hour, `yyyy/mm/dd/hh/<process>.jsonl` below the folder."""
    hour = datetime.fromisoformat(line["eventMetadata"]["inferenceTime"].replace("Z", "+00:00"))
    path = folder / f"{hour:%Y/%m/%d/%H}" / f"{os.getpid()}.jsonl"
    # They hold patients' images: nobody else on the machine may read them.
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    # One write of a file opened for appending: two requests at once cannot mix their lines.
    with open(path, "ab", buffering=0, opener=_private) as stream:
        stream.write((json.dumps(line) + "\n").encode())


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _headers(message: Any) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in message["headers"]}
