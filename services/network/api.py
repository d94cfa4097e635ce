"""HTTP routes of network. A caller narrowed to some tenants or sites has no business with the whole network."""

import re
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contracts.definition import Definition, Snapshot
from libs.definition.difference import Change, difference
from libs.definition.document import DefinitionError
from libs.definition.document import Problem as Flaw
from libs.snapshot import SnapshotUnavailableError
from libs.storage.database import Database
from libs.web.access import AccessList, AccessUnavailableError
from libs.web.permission import requires
from libs.web.problem import Problem
from services.network import repository
from services.network.register import (
    Applied,
    NoSuchVersionError,
    OvertakenError,
    Register,
    UnexpectedVersionError,
)
from services.network.repository import Entry, Version
from services.network.scope import Caller, whole_network
from services.network.token import TokenRegister
from services.network.token_api import token_routes

_YAML = {"requestBody": {"required": True, "content": {"application/yaml": {"schema": {"type": "string"}}}}}
_ETAG = re.compile(r'^(?:W/)?"(\d{1,9})"$')


class Rollback(BaseModel):
    """Which version to go back to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = Field(ge=1, description="Version whose document is applied again.")
    comment: str | None = Field(None, max_length=500, description="Why.")


class History(BaseModel):
    """Versions, the newest first."""

    versions: list[Entry]


class Differences(BaseModel):
    """What changes from one version to another."""

    from_version: int | None = Field(description="The older one; null for nothing at all.")
    to_version: int
    changes: list[Change]


def make_router(database: Database, register: Register, tokens: TokenRegister) -> APIRouter:
    """Make the routes over the versions and the tokens."""
    router = APIRouter()
    _definition_routes(router, register)
    _service_routes(router, database)
    _reading_routes(router, database)
    token_routes(router, database, tokens)
    return router


def _definition_routes(router: APIRouter, register: Register) -> None:
    @router.post("/definition", dependencies=[requires("network.apply")], openapi_extra=_YAML)
    async def apply(
        request: Request,
        caller: Caller,
        *,
        dry_run: bool = False,
        filename: Annotated[str, Query(max_length=255)] = "definition.yaml",
        comment: Annotated[str | None, Query(max_length=500)] = None,
        if_match: Annotated[str | None, Header()] = None,
    ) -> Applied:
        """Check a definition and put it in force, or say all that is wrong with it and change nothing."""
        body = await request.body()
        try:
            return await register.apply(
                _decoded(body, filename),
                filename=filename,
                actor=caller.name,
                comment=comment,
                expected=_expected(if_match),
                dry_run=dry_run,
            )
        except (DefinitionError, OvertakenError, UnexpectedVersionError) as error:
            raise _refused(error, filename) from error

    @router.post("/rollback", dependencies=[requires("network.rollback")])
    async def rollback(
        order: Rollback, caller: Caller, *, dry_run: bool = False, if_match: Annotated[str | None, Header()] = None
    ) -> Applied:
        """Put the document of an earlier version in force again, as a new version, checked by this release."""
        try:
            return await register.rollback(
                order.version,
                actor=caller.name,
                comment=order.comment,
                expected=_expected(if_match),
                dry_run=dry_run,
            )
        except NoSuchVersionError as error:
            raise _no_version(order.version) from error
        except (DefinitionError, OvertakenError, UnexpectedVersionError) as error:
            raise _refused(error, f"version {order.version}") from error


def _service_routes(router: APIRouter, database: Database) -> None:
    @router.get(
        "/snapshot", dependencies=[requires("network.snapshot"), Depends(whole_network)], response_model=Snapshot
    )
    async def snapshot(if_none_match: Annotated[str | None, Header()] = None) -> Response:
        """Give the definition in force; 304 if the caller has it already."""
        async with database.reading() as tx:
            latest = await repository.latest(tx)
        if latest is None:
            raise _nothing_yet()
        if if_none_match is not None and f'"{latest.version}"' in if_none_match:
            return Response(status_code=304, headers={"etag": f'"{latest.version}"'})
        try:
            found = await repository.current_snapshot(database)
        except SnapshotUnavailableError as error:
            raise _unavailable(error) from error
        if found is None:
            raise _nothing_yet()
        content = found.model_dump_json(by_alias=True)
        return Response(content, media_type="application/json", headers={"etag": f'"{found.version}"'})

    @router.get("/access", dependencies=[requires("network.access")])
    async def access() -> AccessList:
        """Give the other services the hashes of the tokens in use."""
        try:
            return await repository.access_list(database)
        except AccessUnavailableError as error:
            raise _unavailable(error) from error


def _reading_routes(router: APIRouter, database: Database) -> None:
    @router.get("/history", dependencies=[requires("network.read"), Depends(whole_network)])
    async def history(
        limit: Annotated[int, Query(ge=1, le=1000)] = 100, before: Annotated[int | None, Query(ge=1)] = None
    ) -> History:
        """List the versions, the newest first."""
        async with database.reading() as tx:
            return History(versions=await repository.history(tx, limit, before))

    @router.get("/definition/{version}", dependencies=[requires("network.read"), Depends(whole_network)])
    async def definition(version: int | Literal["current"]) -> Version:
        """Give a version with its document, as it was applied."""
        async with database.reading() as tx:
            number = (await _latest(tx)).version if version == "current" else version
            found = await repository.version_text(tx, number)
        if found is None:
            raise _no_version(number)
        return found

    @router.get("/difference", dependencies=[requires("network.read"), Depends(whole_network)])
    async def compare(
        older: Annotated[int | None, Query(alias="from", ge=1)] = None,
        newer: Annotated[int | None, Query(alias="to", ge=1)] = None,
    ) -> Differences:
        """Compare two versions: by default the one in force with the one before it."""
        async with database.reading() as tx:
            last = newer or (await _latest(tx)).version
            first = older or last - 1 or None
            old = None if first is None else await _definition(tx, first)
            new = await _definition(tx, last)
        return Differences(from_version=first, to_version=last, changes=difference(old, new))


async def _latest(tx: Any) -> Entry:
    found = await repository.latest(tx)
    if found is None:
        raise _nothing_yet()
    return found


async def _definition(tx: Any, version: int) -> Definition:
    try:
        found = await repository.definition(tx, version)
    except ValidationError as error:
        raise Problem(
            409,
            "Not readable",
            f"Version {version} was applied by another release, and this one can't read it.",
            advice=f"Its document is at /v1/network/definition/{version}.",
        ) from error
    if found is None:
        raise _no_version(version)
    return found


def _decoded(body: bytes, filename: str) -> str:
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = body[: error.start]
        column = error.start - before.rfind(b"\n")
        flaw = Flaw(filename, before.count(b"\n") + 1, column, "", "this is not UTF-8", "save the file as UTF-8")
        raise DefinitionError([flaw]) from error


def _expected(if_match: str | None) -> int | None:
    """Read the version out of If-Match (RFC 9110 section 13.1.1); `"0"` stands for none in force."""
    if if_match is None or if_match.strip() == "*":
        return None
    found = _ETAG.match(if_match.strip())
    if found is None:
        raise Problem(400, "Not valid", "If-Match is not the ETag of a snapshot.", advice='Send a version such as "3".')
    return int(found[1])


def _refused(error: DefinitionError | OvertakenError | UnexpectedVersionError, filename: str) -> Problem:
    if isinstance(error, DefinitionError):
        count = len(error.problems)
        return Problem(
            422,
            "Definition refused",
            f"{filename} has {count} {'problem' if count == 1 else 'problems'}; nothing was applied.",
            advice="Mend what `problems` lists, then apply again.",
            problems=[
                {
                    "file": flaw.file,
                    "line": flaw.line,
                    "column": flaw.column,
                    "path": flaw.path,
                    "message": flaw.message,
                    "hint": flaw.hint,
                }
                for flaw in error.problems
            ],
        )
    advice = "Look at the difference with a dry run, then apply again."
    if isinstance(error, UnexpectedVersionError):
        return Problem(412, "Version changed", f"Nothing was applied: {error}.", advice=advice)
    return Problem(409, "Overtaken", f"Nothing was applied: {error}.", advice=advice)


def _unavailable(error: Exception) -> Problem:
    return Problem(
        503, "Not available", f"{error}.", advice="Mend that, then try again.", headers={"Retry-After": "10"}
    )


def _nothing_yet() -> Problem:
    return Problem(404, "No definition", "No network definition was applied yet.", advice="Run `kivuko apply FILE`.")


def _no_version(version: int) -> Problem:
    return Problem(
        404,
        "No such version",
        f"There is no version {version} of the network definition.",
        advice="`kivuko network history` lists them.",
    )
