"""What the routes of an app declare."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from libs.web.permission import Public, Requires


@dataclass(frozen=True)
class Declared:
    """One route as it is mounted.

    Attributes
    ----------
    key
        `id` of the route object, which is what a request's scope refers to.
    path
        Path template, with the prefix.
    methods
        HTTP methods.
    access
        What it declares: a permission, that it is public, or nothing.
    """

    key: int
    path: str
    methods: frozenset[str]
    access: Requires | Public | None


def declared(app: FastAPI) -> Iterator[Declared]:
    """Give all routes of an app, those of the framework itself included."""
    for context in iter_route_contexts(app.routes):
        # What the framework adds by itself has no dependencies, so it declares nothing.
        dependant = getattr(context, "dependant", None)
        found = [] if dependant is None else [part.call for part in dependant.dependencies]
        access = next((call for call in found if isinstance(call, Requires | Public)), None)
        yield Declared(
            key=id(context.original_route),
            path=context.path or "",
            methods=frozenset(context.methods or ()),
            access=access,
        )


def templates(app: FastAPI) -> Mapping[int, str]:
    """Give the path template of each route by its key."""
    return {route.key: route.path for route in declared(app)}


def open_without_token(app: FastAPI) -> frozenset[str]:
    """Give the paths at which a request without a token gets as far as the route."""
    return frozenset(
        route.path
        for route in declared(app)
        if isinstance(route.access, Public) or (isinstance(route.access, Requires) and route.access.from_loopback)
    )
