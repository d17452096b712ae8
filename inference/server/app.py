"""The web application: what is refused before the image is looked at, and one log line for every request."""

import asyncio
import json
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from mammopipe.inference.contract.errors import (
    InternalError,
    NotAcceptableError,
    NotFoundError,
    RequestError,
    TimeLimitError,
    TooLargeError,
    UnavailableError,
    UnsupportedTypeError,
    WrongMethodError,
    fault_trace,
)
from mammopipe.inference.contract.media_types import CUSTOM_ATTRIBUTES_HEADER, AnswerType, ImageType, acceptable, sniff
from mammopipe.inference.contract.schema import RequestOptions, read_options
from mammopipe.inference.contract.task import BodyType, ExamType, Reply, Task, body_type
from mammopipe.inference.server.cloudwatch import embedded
from mammopipe.inference.server.responses import Caller, LingeringResponse, error_response
from mammopipe.inference.settings import ServerSettings
from mammopipe.inference.workers.channel import Body
from mammopipe.inference.workers.pool import Pool

REQUEST_ID_HEADER = "x-amzn-RequestId"
PATHS = "GET /ping, POST /invocations and POST /endpoints/NAME/invocations"
Facts = dict[str, Any]


def log(event: str, **facts: Any) -> None:
    """Write one JSON line to standard output."""
    line = {"event": event, "time": round(time.time(), 3), **facts}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


class Application:
    """The endpoint's paths over a pool of workers."""

    def __init__(self, settings: ServerSettings, pool: Pool, *, more: Sequence[Route] = ()) -> None:
        self._settings = settings
        self._pool = pool
        self._more = more
        self.stopping = False
        """Set when the process has been asked to end: nothing new is taken on, what runs is finished."""

    @property
    def idle(self) -> bool:
        """Whether no request has a place in the server."""
        return self._pool.held == 0

    def asgi(self) -> Starlette:
        """Return the ASGI application."""
        return Starlette(
            routes=[
                Route("/ping", self._ping, methods=["GET"]),
                Route("/invocations", self._endpoint(Caller.CONTAINER), methods=["POST"]),
                Route("/endpoints/{name}/invocations", self._endpoint(Caller.RUNTIME), methods=["POST"]),
                *self._more,
            ],
            exception_handlers={HTTPException: self._no_route},
        )

    async def _ping(self, request: Request) -> Response:
        healthy = self._pool.healthy and not self.stopping
        return Response(status_code=HTTPStatus.OK if healthy else HTTPStatus.SERVICE_UNAVAILABLE)

    async def _no_route(self, request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException) and error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            refusal: RequestError = WrongMethodError("method_not_allowed", f"the paths are {PATHS}")
        else:
            refusal = NotFoundError("not_found", f"the paths are {PATHS}")
        response = error_response(refusal, Caller.CONTAINER)
        response.headers.update(getattr(error, "headers", None) or {})
        self._log({"request_id": str(uuid.uuid4())}, refusal.code, refusal.status, time.perf_counter())
        return LingeringResponse(response)

    def _endpoint(self, caller: Caller) -> Callable[[Request], Awaitable[Response]]:
        async def invocations(request: Request) -> Response:
            return await self._invoke(request, caller)

        return invocations

    async def _invoke(self, request: Request, caller: Caller) -> Response:
        begun, request_id = time.perf_counter(), str(uuid.uuid4())
        facts: Facts = {"request_id": request_id, "caller": str(caller)}
        try:
            response, code, status = await self._answer(request, request_id, facts), "ok", int(HTTPStatus.OK)
        except RequestError as error:
            response, code, status = error_response(error, caller), error.code, error.status
        except ClientDisconnect:
            response, code, status = Response(status_code=400), "client_gone", 400
        except Exception as fault:  # the boundary: whatever it is, the caller gets an answer and the log its place
            facts["fault"] = fault_trace(fault)
            response, code, status = error_response(InternalError(), caller), "internal", 500
        response.headers[REQUEST_ID_HEADER] = request_id
        if self.stopping:
            response.headers["connection"] = "close"
        self._log(facts, code, status, begun)
        return response if "bytes" in facts else LingeringResponse(response)

    def _log(self, facts: Facts, code: str, status: int, begun: float) -> None:
        total_ms = round((time.perf_counter() - begun) * 1000, 2)
        metrics: Facts = {}
        if self._settings.metrics:
            model = self._settings.model_id
            metrics = embedded(facts, status=status, total_ms=total_ms, time_s=time.time(), model=model)
        log("request", **facts, code=code, status=status, total_ms=total_ms, **metrics)

    async def _answer(self, request: Request, request_id: str, facts: Facts) -> Response:
        if self.stopping:
            raise UnavailableError("stopping", "the server is stopping; try again")
        self._pool.reserve()
        try:
            async with asyncio.timeout(self._settings.max_seconds):
                return _response(await self._work(request, request_id, facts))
        except TimeoutError:
            limit = f"no answer within {self._settings.max_seconds:g} seconds, the limit"
            raise TimeLimitError("time_limit", limit) from None
        finally:
            self._pool.release()

    async def _work(self, request: Request, request_id: str, facts: Facts) -> Reply:
        kind, form, options = _headers(request)
        facts |= {"content_type": str(kind), "accept": str(form)}
        with Body() as body:
            await _receive(request, body, self._settings.max_bytes)
            facts |= {"bytes": body.size, "sha256": body.sha256}
            found = sniff(body.head)
            if isinstance(kind, ImageType) and found is not None and found is not kind:
                says = f"Content-Type says {kind}; the body begins as {found}"
                raise UnsupportedTypeError("content_type_mismatch", says)
            task = Task(
                request_id,
                b"",
                options,
                form,
                kind,
                request.headers["content-type"],
                max_views=self._settings.max_views,
                s3_prefix=self._settings.s3_prefix,
                max_bytes=self._settings.max_bytes,
                sha256=body.sha256,
            )
            reply, waited = await self._pool.run(task, body)
        facts |= reply.facts | {"wait_ms": round(waited * 1000, 2), "answer_bytes": len(reply.body)}
        return reply


def _headers(request: Request) -> tuple[BodyType, AnswerType, RequestOptions]:
    """Return what the headers and the query say, or refuse it by name."""
    kind = body_type(request.headers.get("content-type", ""))
    if kind is None:
        kinds = ", ".join((*ImageType, *ExamType))
        raise UnsupportedTypeError("unsupported_type", f"Content-Type must be one of {kinds}")
    form = acceptable(request.headers.get("accept", ""))
    if form is None:
        raise NotAcceptableError("not_acceptable", f"Accept must allow one of {', '.join(AnswerType)}")
    attributes = request.headers.get(CUSTOM_ATTRIBUTES_HEADER, "")
    return kind, form, read_options(attributes, request.query_params.multi_items())


async def _receive(request: Request, body: Body, limit: int) -> None:
    """Fill the body, refused as soon as it announces or shows more bytes than the limit."""
    announced = request.headers.get("content-length", "")
    refusal = TooLargeError("too_large", f"the body is over the limit of {limit} bytes")
    if announced.isdigit() and int(announced) > limit:
        raise refusal
    async for chunk in request.stream():
        if body.size + len(chunk) > limit:
            raise refusal
        body.write(chunk)


def _response(reply: Reply) -> Response:
    return Response(reply.body, HTTPStatus.OK, {CUSTOM_ATTRIBUTES_HEADER: reply.attributes}, media_type=str(reply.form))
