"""The HTTP interface of a process: one app, one OpenAPI document, whatever services it runs."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import asyncpg
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from sqlalchemy.exc import InterfaceError, OperationalError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from libs.clock import Clock
from libs.service import Service
from libs.telemetry import log
from libs.web.access import AccessView
from libs.web.document import complete
from libs.web.edge import Edge
from libs.web.gate import Gate
from libs.web.health import Readiness, health_router
from libs.web.permission import public
from libs.web.problem import Problem, from_http, from_validation
from libs.web.recording import Record, Recording
from libs.web.routes import declared, open_without_token, templates
from libs.web.throttle import Throttle

#: What a route raises while the database can't be reached, or can't take anything.
_AWAY = (OperationalError, InterfaceError, asyncpg.PostgresError, asyncpg.InterfaceError, ConnectionError)

_log = log.get("kivuko.web")


class UndeclaredRouteError(Exception):
    """A route declares neither a permission nor that it is public."""


def make_app(
    services: Sequence[Service],
    access: AccessView,
    record: Record,
    clock: Clock,
    *,
    version: str,
    dead_letters: Mapping[str, APIRouter] | None = None,
    new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
) -> FastAPI:
    """Make the app of a process.

    Parameters
    ----------
    services
        Each router is mounted at `/v1/NAME`; the checks make `/readyz`.
    access
        The tokens in force.
    record
        Writes the use of a permission down for the audit log.
    clock
        The time in UTC.
    version
        Version of this release.
    dead_letters
        Routers of the services that keep dead letters, by service name.
    new_id
        Makes the identifier of a request.

    Raises
    ------
    UndeclaredRouteError
        A route does not say who may call it.
    """
    app = FastAPI(
        title="Kivuko",
        version=version,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        generate_unique_id_function=_operation_id,
    )
    checks = {f"{service.name}.{name}": check for service in services for name, check in service.checks.items()}
    app.include_router(health_router(Readiness(checks, clock)))
    for service in services:
        if service.router is not None:
            app.include_router(service.router, prefix=f"/v1/{service.name}", tags=[service.name])
    for name, router in (dead_letters or {}).items():
        app.include_router(router, prefix=f"/v1/{name}", tags=[name])
    _describe(app)
    _install_problems(app)
    undeclared = [route.path for route in declared(app) if route.access is None]
    if undeclared:
        raise UndeclaredRouteError(f"declare a permission for {', '.join(undeclared)}: see libs/web/permission.py")
    by_key, without_token = templates(app), open_without_token(app)
    # The last one added is the outermost.
    app.add_middleware(Recording, record=record, templates=lambda: by_key)
    app.add_middleware(Gate, access=access, throttle=Throttle(clock), public=lambda: without_token)
    app.add_middleware(Edge, clock=clock, new_id=new_id)
    return app


def _operation_id(route: APIRoute) -> str:
    return "_".join([*(str(tag) for tag in route.tags), route.name])


def _describe(app: FastAPI) -> None:
    @cache
    def document() -> dict[str, Any]:
        plain = get_openapi(title=app.title, version=app.version, routes=app.routes, description=app.description)
        return complete(plain, {(route.path, method): route for route in declared(app) for method in route.methods})

    @app.get("/openapi.json", include_in_schema=False, dependencies=[public("The interface is not a secret.")])
    async def openapi() -> JSONResponse:
        return JSONResponse(document())

    # What FastAPI itself and tests ask for is the same document.
    app.openapi = document  # type: ignore[method-assign]  # the documented way to extend the document


def _install_problems(app: FastAPI) -> None:
    @app.exception_handler(Problem)
    async def problem(request: Request, error: Problem) -> Response:
        return error.response(request.state.instance)

    async def away(request: Request, error: Exception) -> Response:
        _log.warning("request not served: the database is away", exc_info=error)
        problem = Problem(
            503,
            "Not available",
            "The database does not answer. What the request asked for may not have happened.",
            advice="Try again later; /readyz says what is wrong, and `kivuko doctor` looks closer.",
            headers={"Retry-After": "10"},
        )
        return problem.response(request.state.instance)

    for kind in _AWAY:
        app.add_exception_handler(kind, away)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        return from_http(error).response(request.state.instance)

    @app.exception_handler(RequestValidationError)
    async def validation(request: Request, error: RequestValidationError) -> Response:
        return from_validation(error).response(request.state.instance)
