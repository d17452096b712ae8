"""The web application: checks requests before the image is read, and writes one log line per request."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

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
from mammopipe.inference.contract.media_types import (
    ANY_TYPE,
    CUSTOM_ATTRIBUTES_HEADER,
    AnswerType,
    ImageType,
    acceptable,
    sniff,
)
from mammopipe.inference.contract.request import RequestOptions, read_options, split_attributes
from mammopipe.inference.contract.task import BodyType, ExamType, Reply, Task, body_type, sniffed_type
from mammopipe.inference.server.capture import CaptureFolder
from mammopipe.inference.server.cloudwatch import embedded
from mammopipe.inference.server.connections import IN_QUEUE
from mammopipe.inference.server.direct_body import GONE, PASS_BODY
from mammopipe.inference.server.log import Log
from mammopipe.inference.server.places import Place, Places
from mammopipe.inference.server.responses import Caller, LingeringResponse, error_response
from mammopipe.inference.settings import ServerSettings
from mammopipe.inference.workers.channel import BodyFiles, SharedBody
from mammopipe.inference.workers.pool import ClientGoneError, Pool

REQUEST_ID_HEADER = "x-amzn-RequestId"
PATHS = "GET /ping, POST /invocations and POST /endpoints/NAME/invocations"
BATCH_ANSWERS = frozenset(
    {HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNSUPPORTED_MEDIA_TYPE, HTTPStatus.UNPROCESSABLE_ENTITY, 400}
)
"""Statuses of errors that lie in the body alone: repeating the request would not help, and one of them would fail a
whole batch transform job ("Use batch transform", error handling)."""
Facts = dict[str, Any]


class Application:
    """The endpoint's routes, answered by a pool of workers."""

    def __init__(
        self,
        settings: ServerSettings,
        pool: Pool,
        log: Log,
        *,
        captures: CaptureFolder | None = None,
        more: Sequence[Route] = (),
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._places = Places(settings.places, settings.body_seconds)
        self._write = log
        self._captures = captures
        self._more = more
        self._files = BodyFiles()
        self.requests = 0
        """Number of requests for an answer so far."""
        self.stopping = False
        """Set when the process has been asked to end: it refuses new requests and finishes running ones."""

    def release_memory(self) -> None:
        """Close the files that are kept for later requests; meant for an idle server."""
        self._files.clear()

    @property
    def idle(self) -> bool:
        """Whether the server has no request."""
        return self._places.idle

    def asgi(self) -> ASGIApp:
        """Return the ASGI application. Requests to `/invocations` pass none of Starlette's layers."""
        application = Starlette(
            routes=[
                Route("/ping", self._ping, methods=["GET"]),
                Route("/invocations", self._endpoint(Caller.CONTAINER), methods=["POST"]),
                Route("/endpoints/{name}/invocations", self._endpoint(Caller.RUNTIME), methods=["POST"]),
                *self._more,
            ],
            exception_handlers={HTTPException: self._no_route},
        )
        # A redirect to the path without its trailing slash would repeat the host name of the request.
        application.router.redirect_slashes = False

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            """Answer a request."""
            if scope["type"] == "http" and scope["path"] == "/invocations" and scope["method"] == "POST":
                response = await self._invoke(Request(scope, receive, send), Caller.CONTAINER)
                await response(scope, receive, send)
            else:
                await application(scope, receive, send)

        return answer

    async def _ping(self, request: Request) -> Response:
        """Answer 200 if requests are answered, and report degraded logging and capture."""
        healthy = self._pool.healthy and not self.stopping
        parts = {"log": self._write.degraded, "capture": self._captures is not None and self._captures.degraded}
        degraded = [name for name, fails in parts.items() if fails]
        status = "unavailable" if not healthy else "degraded" if degraded else "ok"
        return JSONResponse(
            {"status": status, "degraded": degraded},
            status_code=HTTPStatus.OK if healthy else HTTPStatus.SERVICE_UNAVAILABLE,
        )

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
        self.requests += 1
        begun, request_id = time.perf_counter(), str(uuid.uuid4())
        facts: Facts = {"request_id": request_id, "caller": str(caller)}
        try:
            response, code, status = await self._answer(request, request_id, facts), "ok", int(HTTPStatus.OK)
        except RequestError as error:
            response, code, status = error_response(error, caller), error.code, error.status
            if self._settings.batch and status in BATCH_ANSWERS:
                response.status_code = int(HTTPStatus.OK)
        except ClientDisconnect:
            response, code, status = Response(status_code=400), "client_gone", 400
        except Exception as fault:  # the boundary: the caller gets an answer, the log the location
            facts["fault"] = fault_trace(fault)
            response, code, status = error_response(InternalError(), caller), "internal", 500
        response.headers[REQUEST_ID_HEADER] = request_id
        _echo(request, response)
        if self.stopping:
            response.headers["connection"] = "close"
        self._log(facts, code, status, begun)
        # Without `bytes` the body was not received to its end, and the client may still be sending it.
        return response if "bytes" in facts else LingeringResponse(response)

    def _log(self, facts: Facts, code: str, status: int, begun: float) -> None:
        total_ms = round((time.perf_counter() - begun) * 1000, 2)
        if self._write.dropped:
            facts["dropped_log_lines"] = self._write.dropped
        if self._captures is not None and (dropped := self._captures.take_dropped()):
            facts["dropped_captures"] = dropped
        metrics: Facts = {}
        if self._settings.metrics:
            model = self._settings.model_id
            metrics = embedded(facts, status=status, total_ms=total_ms, time_s=time.time(), model=model)
        self._write("request", **facts, code=code, status=status, total_ms=total_ms, **metrics)

    async def _answer(self, request: Request, request_id: str, facts: Facts) -> Response:
        if self.stopping:
            raise UnavailableError("stopping", "the server is stopping; try again")
        if not self._pool.started:
            raise UnavailableError("starting", "the model is still being loaded; try again")
        place = self._places.take()
        try:
            async with asyncio.timeout(self._settings.max_seconds):
                reply = await self._work(request, place, request_id, facts)
            headers = {CUSTOM_ATTRIBUTES_HEADER: reply.attributes}
            return Response(reply.body, HTTPStatus.OK, headers, media_type=str(reply.form))
        except TimeoutError:
            limit = f"no answer within {self._settings.max_seconds:g} seconds, the limit"
            raise TimeLimitError("time_limit", limit) from None
        finally:
            self._places.free(place)

    async def _work(self, request: Request, place: Place, request_id: str, facts: Facts) -> Reply:
        kind, form, options = _headers(request, batch=self._settings.batch)
        facts |= {"content_type": str(kind), "accept": str(form)}
        with SharedBody(self._files) as body:
            await _receive(request, body, self._settings.max_bytes, place)
            facts["bytes"] = body.size
            header = request.headers["content-type"]
            if kind is None:
                kind = sniffed_type(body.head)
                if kind is None:
                    raise UnsupportedTypeError("unsupported_type", f"the body is none of {_kinds()}")
                header = str(kind)
                facts["content_type"] = header
            found = sniff(body.head)
            if isinstance(kind, ImageType) and found is not None and found is not kind:
                rule = f"Content-Type says {kind}; the body begins as {found}"
                raise UnsupportedTypeError("content_type_mismatch", rule)
            task = Task(
                request_id,
                b"",
                options,
                form,
                kind,
                header,
                max_views=self._settings.max_views,
                s3_prefix=self._settings.s3_prefix,
                max_bytes=self._settings.max_bytes,
            )
            try:
                reply, waited = await self._run(request, task, body)
            except RequestError:
                # Workers hash the bodies that they accept. A refused body is hashed here, outside the event loop.
                facts["sha256"] = await asyncio.to_thread(body.sha256)
                raise
        size, limit = len(reply.body), self._settings.max_answer_bytes
        if 0 < limit < size:
            raise TooLargeError(
                "answer_too_large",
                f"the answer has {size} bytes, the limit is {limit}; ask for no heatmaps, or use async inference",
            )
        facts |= reply.facts | {"wait_ms": round(waited * 1000, 2), "answer_bytes": len(reply.body)}
        return reply

    async def _run(self, request: Request, task: Task, body: SharedBody) -> tuple[Reply, float]:
        """Return the answer and the seconds of waiting for a worker; raises `ClientDisconnect` if the client has gone.

        The place of a client that has gone is free at once.
        """
        state = request.scope.setdefault("state", {})
        state[IN_QUEUE] = True
        gone = state.get(GONE) or asyncio.ensure_future(_until_gone(request))
        try:
            return await self._pool.run(task, body, gone, lambda: state.update({IN_QUEUE: False}))
        except ClientGoneError:
            raise ClientDisconnect from None
        finally:
            if GONE not in state:
                gone.cancel()


async def _until_gone(request: Request) -> None:
    """Return when the connection to the client is closed."""
    while (await request.receive())["type"] != "http.disconnect":
        await asyncio.sleep(0.05)


def _kinds() -> str:
    return ", ".join((*ImageType, *ExamType))


def _headers(request: Request, *, batch: bool) -> tuple[BodyType | None, AnswerType, RequestOptions]:
    """Return body type, answer type and options from the headers and the query, or raise the matching error.

    In a batch transform, the body type may be `None`: the body's first bytes indicate it.
    """
    headers = [
        request.headers.get(name, "")
        for name in ("content-encoding", "content-type", "accept", CUSTOM_ATTRIBUTES_HEADER)
    ]
    return _parsed_headers(*headers, query=request.scope["query_string"], batch=batch)


@lru_cache(maxsize=16)
def _parsed_headers(
    encoding: str, header: str, accept: str, attributes: str, *, query: bytes, batch: bool
) -> tuple[BodyType | None, AnswerType, RequestOptions]:
    """Return the result of `_headers`; cached, because a client repeats its headers and reading them takes 0.1 ms."""
    if encoding.strip().lower() not in ("", "identity"):
        raise UnsupportedTypeError("unsupported_encoding", "Content-Encoding must be identity: send the body as it is")
    kind = body_type(header)
    if kind is None and not (batch and header == ANY_TYPE):
        raise UnsupportedTypeError("unsupported_type", f"Content-Type must be one of {_kinds()}")
    form = acceptable(accept)
    if form is None:
        raise NotAcceptableError("not_acceptable", f"Accept must allow one of {', '.join(AnswerType)}")
    options, _ = split_attributes(attributes)
    return kind, form, read_options(options, QueryParams(query).multi_items())


def _echo(request: Request, response: Response) -> None:
    """Append the caller's own custom attribute to the server's, because AWS forwards it as an opaque value."""
    _, opaque = split_attributes(request.headers.get(CUSTOM_ATTRIBUTES_HEADER, ""))
    if opaque:
        own = response.headers.get(CUSTOM_ATTRIBUTES_HEADER, "")
        response.headers[CUSTOM_ATTRIBUTES_HEADER] = f"{own},{opaque}" if own else opaque


async def _receive(request: Request, body: SharedBody, limit: int, place: Place) -> None:
    """Receive the body; refuse it as soon as it announces or contains more bytes than the limit, or stops arriving."""
    announced = request.headers.get("content-length", "")
    refusal = TooLargeError("too_large", f"the body is over the limit of {limit} bytes")
    if announced.isdigit() and int(announced) > limit:
        raise refusal

    def take(chunk: bytes | memoryview) -> None:
        if body.size + len(chunk) > limit:
            raise refusal
        body.write(chunk)
        place.received(len(chunk))

    async with place:
        # Past the HTTP parser, unless data capture needs every part. The stream then has only what was not passed.
        if (pass_body := request.scope.get("state", {}).get(PASS_BODY)) is not None:
            await pass_body(take)
        async for chunk in request.stream():
            take(chunk)
