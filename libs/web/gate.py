"""Who is asking: nothing but public addresses is reached without a caller that is known."""

from collections.abc import Callable, Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from libs.telemetry import log, metric
from libs.web.access import AccessUnavailableError, AccessView, TokenRefusedError
from libs.web.permission import CHALLENGE
from libs.web.principal import LOCAL, Principal
from libs.web.problem import Problem
from libs.web.throttle import Throttle

#: Key of the ASGI scope under which the listener of a request stands. Servers write scopes, callers cannot.
LISTENER = "kivuko.listener"
SOCKET = "socket"

_log = log.get("kivuko.web")
_refused = metric.counter("kivuko_http_unauthenticated_total", "Requests without a valid token.", ["reason"])


class Gate:
    """ASGI middleware that finds the caller of a request, or answers 401.

    The local socket is admin without a token: its file mode lets nobody else in. No header says who is asking but
    `Authorization` (RFC 6750 section 2.1); a token is never taken from the address.
    """

    def __init__(
        self, app: ASGIApp, access: AccessView, throttle: Throttle, public: Callable[[], Collection[str]]
    ) -> None:
        self._app = app
        self._access = access
        self._throttle = throttle
        self._public = public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its caller in the state, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            scope["state"]["principal"] = await self._caller(scope)
        except Problem as problem:
            await problem.response(scope["state"]["instance"])(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _caller(self, scope: Scope) -> Principal | None:
        if scope.get(LISTENER) == SOCKET:
            return LOCAL
        address = scope["client"][0] if scope.get("client") else "unknown"
        given = Headers(scope=scope).get("authorization")
        if given is None:
            if scope["path"] in self._public():
                return None
            raise self._refusal(address, "missing", "This address needs a token, and none was sent.")
        scheme, _, token = given.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise self._refusal(address, "malformed", "The header `Authorization` is not `Bearer TOKEN`.")
        try:
            return await self._access.find(token.strip(), address)
        except TokenRefusedError as error:
            raise self._refusal(address, "refused", str(error)) from error
        except AccessUnavailableError as error:
            raise Problem(
                503,
                "Tokens cannot be checked",
                f"The token could not be checked: {error}.",
                advice="Check that the service `network` runs and that KIVUKO_NETWORK_URL leads to it.",
                headers={"Retry-After": "15"},
            ) from error

    def _refusal(self, address: str, reason: str, detail: str) -> Problem:
        _refused.labels(reason).inc()
        wait = self._throttle.failed(address)
        if wait is not None:
            return Problem(
                429,
                "Too many failures",
                "Too many requests from this address came without a valid token.",
                advice=f"Wait {wait} s. Requests with a valid token are answered all the time.",
                headers={"Retry-After": str(wait)},
            )
        _log.warning("request refused", reason=reason, address=address)
        challenge = CHALLENGE + (', error="invalid_token"' if reason == "refused" else "")
        return Problem(
            401,
            "Not signed in",
            detail,
            advice="Send `Authorization: Bearer TOKEN`. `kivuko token create` on the machine itself makes a token.",
            headers={"WWW-Authenticate": challenge},
        )
