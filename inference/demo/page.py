"""The demo page at `GET /` of a server on the loopback interface: drop an image, see overlay, scores and warnings.

The response is one document (`demo.html` with its style and scripts inserted). The page sends requests only to this
server, which its Content-Security-Policy enforces, and stores nothing.
"""

import base64
import hashlib
import json
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from mammopipe.inference.contract import heat_colours

FOLDER = Path(__file__).parent
SCRIPTS = ("demo.js", "demo_viewer.js", "demo_report.js")


def route() -> Route:
    """Return the page as a route at `/`."""
    return Route("/", _answer, methods=["GET"])


def page() -> str:
    """Return the page as one HTML document without references to anything outside it."""
    return _text("demo.html").replace("/* demo.css */", _style()).replace("/* demo.js */", _script())


def policy() -> str:
    """Return the page's Content-Security-Policy: its own style and script by digest, requests to its own server only.

    Images are allowed only if the page creates them itself.
    Source: Content Security Policy Level 3 (W3C), 2.3.1 and 6.1.
    """
    return "; ".join(
        [
            "default-src 'none'",
            f"style-src {_digest(_style())}",
            f"script-src {_digest(_script())}",
            "connect-src 'self'",
            "img-src blob: data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )


async def _answer(request: Request) -> HTMLResponse:
    return HTMLResponse(
        page(),
        headers={
            "Content-Security-Policy": policy(),
            "Cache-Control": "no-store",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        },
    )


def _style() -> str:
    steps = ", ".join(f"rgb({red} {green} {blue})" for red, green, blue in heat_colours.STEPS)
    return _text("demo.css").replace("/* legend */", steps)


def _script() -> str:
    colours = json.dumps(heat_colours.table(), separators=(",", ":"))
    return "".join(map(_text, SCRIPTS)).replace("/* colours */[]", colours)


@cache  # so that page and policy stay consistent even if the files change
def _text(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
