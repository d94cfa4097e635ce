"""What holds for every request and every answer: its name, its size, its headers, and no error without a problem."""

from collections.abc import Callable
from email.utils import format_datetime

from opentelemetry import trace
from opentelemetry.context import Context
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from libs.clock import Clock
from libs.telemetry import log
from libs.web.problem import Problem, from_http

LONGEST_BODY = 16 * 1024 * 1024

#: Answers are data for programs: not to be guessed at, framed, kept or run.
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}

_log = log.get("kivuko.web")
_tracer = trace.get_tracer("kivuko.web")


class Edge:
    """Outermost ASGI middleware."""

    def __init__(self, app: ASGIApp, clock: Clock, new_id: Callable[[], str], longest_body: int = LONGEST_BODY) -> None:
        self._app = app
        self._clock = clock
        self._new_id = new_id
        self._longest_body = longest_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Name the request, pass it on, and answer for an error that nobody foresaw."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = self._new_id()
        scope["state"] = {**scope.get("state", {}), "instance": f"urn:uuid:{request_id}"}
        started = False

        async def outwards(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers["date"] = format_datetime(self._clock(), usegmt=True)
                headers["x-request-id"] = request_id
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        # A trace of our own: a caller does not decide which trace its request belongs to.
        with _tracer.start_as_current_span("HTTP request", context=Context(), record_exception=False) as span:
            span.set_attribute("http.request.method", scope["method"])
            try:
                _check_length(scope, self._longest_body)
                await self._app(scope, self._limited(receive), outwards)
            except HTTPException as error:
                if started:
                    raise
                await from_http(error).response(scope["state"]["instance"])(scope, receive, outwards)
            except Exception as error:  # noqa: BLE001 -- the last resort: whatever it is, the caller gets a problem
                # The log leaves the message out, which may hold what was sent; the server would print it.
                _log.error("request failed", request_id=request_id, exc_info=error)
                if started:
                    raise ConnectionAbortedError("the answer broke off") from None
                problem = Problem(
                    500,
                    "Unexpected error",
                    "Something went wrong that nobody foresaw. What the request asked for may not have happened.",
                    advice=f"Look for request_id {request_id} in the log, and report it.",
                )
                await problem.response(scope["state"]["instance"])(scope, receive, outwards)

    def _limited(self, receive: Receive) -> Receive:
        total = 0

        async def limited() -> Message:
            nonlocal total
            message = await receive()
            total += len(message.get("body", b""))
            if total > self._longest_body:
                raise HTTPException(413)
            return message

        return limited


def _check_length(scope: Scope, longest: int) -> None:
    length = Headers(scope=scope).get("content-length", "0")
    if length.isdecimal() and int(length) > longest:
        raise HTTPException(413)
