"""What the audit log gets of the use of HTTP.

A change is recorded twice: before it is tried (status 100) and with its outcome. If it cannot be recorded beforehand,
it is refused, so no change is without a trace. An answer with data of patients waits until its record is durable.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from opentelemetry import trace
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contracts.access import AccessUsed
from libs.telemetry import log, metric
from libs.web.permission import PERMISSIONS
from libs.web.principal import Principal
from libs.web.problem import Problem

#: Writes down durably, on behalf of a service (first argument) and for a tenant (last argument), or raises.
Record = Callable[[str, AccessUsed, str], Awaitable[None]]

#: Tenant of what concerns the network as a whole.
NETWORK_TENANT = "kivuko"
#: Status of the record that is made before a change is tried.
TRIED = 100
_LONGEST_TARGET = 128

_log = log.get("kivuko.web")
_lost = metric.counter(
    "kivuko_access_outcomes_lost_total", "Outcomes of changes that could not be recorded; the try was."
)


class Use:
    """The use that one request makes of a permission."""

    def __init__(self, record: Record, scope: Scope, templates: Mapping[int, str]) -> None:
        self._record = record
        self._scope = scope
        self._templates = templates
        self._caller: Principal | None = None
        self._permission: str | None = None
        self._target: str | None = None
        self._tenant: str | None = None

    def concerns(self, target: str | None, tenant: str) -> None:
        """Say what the request is about, where the route's first parameter does not say it."""
        self._target, self._tenant = target, tenant

    def declared(self, permission: str, caller: Principal) -> None:
        """Take down who uses which permission, allowed or not."""
        self._permission, self._caller = permission, caller

    async def begin(self) -> None:
        """Record that a change will be tried. Raises Problem 503 when that fails: then nothing is changed."""
        if self._kept == "change":
            await self._write(TRIED)

    async def end(self, status: int) -> None:
        """Record the outcome. Raises Problem 503 when that fails for data of patients: then none leave."""
        if self._kept == "patient-data":
            await self._write(status)
        elif self._kept == "change":
            try:
                await self._write(status)
            except Problem:
                # The change is done or refused already, and its try is on record: another answer would be a lie.
                _lost.inc()
                _log.error("outcome of a change not recorded", permission=self._permission, status=status)

    @property
    def _kept(self) -> str:
        # Another service has no role: what it may is not recorded, and the rest it is refused.
        if self._permission is None or self._caller is None or self._caller.role is None:
            return "no"
        return PERMISSIONS[self._permission].recorded

    async def _write(self, status: int) -> None:
        caller, permission = self._caller, self._permission
        if caller is None or permission is None or caller.role is None:
            raise TypeError("only the declared use of a role's permission is recorded")
        route = self._templates.get(id(self._scope["route"]), "unknown")
        data = AccessUsed(
            actor=caller.name,
            role=caller.role,
            permission=permission,
            method=self._scope["method"],
            route=route,
            target=self._target or _first_parameter(self._scope),
            status=status,
            address=caller.address,
        )
        try:
            await self._record(_service(route), data, self._tenant or _only_tenant(caller))
        except Exception as error:
            # Whatever kept it from being written down, the answer is the same: no.
            _log.error("access not recorded", permission=permission, status=status, error=type(error).__name__)
            raise Problem(
                503,
                "Not recorded",
                "This use must be recorded in the audit log, and that failed, so it was refused.",
                advice="Try again later; /readyz says what is wrong.",
                headers={"Retry-After": "10"},
            ) from error


def use_of(request: Request) -> Use:
    """Give the use that a request makes; for routes that say what they are about with `concerns`."""
    use: Use = request.state.use
    return use


class Recording:
    """ASGI middleware that sees to it that every use is recorded."""

    def __init__(self, app: ASGIApp, record: Record, templates: Callable[[], Mapping[int, str]]) -> None:
        self._app = app
        self._record = record
        self._templates = templates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; hold its answer back until it is recorded."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        use = Use(self._record, scope, self._templates())
        scope["state"]["use"] = use
        started = replaced = False

        async def recorded(message: Message) -> None:
            nonlocal started, replaced
            if message["type"] == "http.response.start":
                started = True
                try:
                    await use.end(message["status"])
                except Problem as problem:
                    replaced = True
                    await problem.response(scope["state"]["instance"])(scope, receive, send)
                    return
                _describe(trace.get_current_span(), scope, message["status"], self._templates())
            if not replaced:
                await send(message)

        try:
            await self._app(scope, receive, recorded)
        except Exception:
            if not started:
                await use.end(500)
            raise


def _describe(span: trace.Span, scope: Scope, status: int, templates: Mapping[int, str]) -> None:
    route = templates.get(id(scope.get("route")))
    if route is not None:
        span.update_name(f"{scope['method']} {route}")
        span.set_attribute("http.route", route)
    span.set_attribute("http.response.status_code", status)


def _first_parameter(scope: Scope) -> str | None:
    parameters: Mapping[str, Any] = scope.get("path_params") or {}
    return str(next(iter(parameters.values())))[:_LONGEST_TARGET] if parameters else None


def _only_tenant(caller: Principal) -> str:
    return next(iter(caller.tenants)) if caller.tenants is not None and len(caller.tenants) == 1 else NETWORK_TENANT


def _service(route: str) -> str:
    return route.split("/")[2]
