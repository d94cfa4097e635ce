"""HTTP routes of replays: the recorded history against a proposed definition. Nothing is sent, nothing is changed."""

import asyncio
import gzip
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, Depends
from fastapi.responses import HTMLResponse, StreamingResponse
from pydantic import AwareDatetime, BaseModel, Field
from sqlalchemy import Row

from contracts.definition import Definition
from libs.clock import Clock
from libs.definition.ruleset import RuleSet, RuleSetError
from libs.storage.database import Database
from libs.storage.objects import ObjectMissingError, ObjectStore, StoreUnavailableError
from libs.web.permission import requires
from libs.web.principal import Principal, principal
from libs.web.problem import Problem
from services.rules import picture, replay_rows
from services.rules.in_force import InForce
from services.rules.replaying import CHANGES, REPORT, Against
from services.rules.replays import BusyError, Replays

Caller = Annotated[Principal, Depends(principal)]
_CHUNK = 1 << 16
_LISTED = 20


class Wanted(BaseModel):
    """What is to be replayed."""

    definition: Definition = Field(description="The proposed definition, as JSON.")
    since: AwareDatetime = Field(description="Studies that were decided from then on.")
    until: AwareDatetime | None = Field(None, description="Up to then; now, if left out.")
    against: Against = Field(
        "recorded", description="recorded: where the studies went; in-force: where the rules in force would send them."
    )


class ReplayView(BaseModel):
    """A replay."""

    id: str
    state: str = Field(description="running, done, failed or cancelled.")
    problem: str | None = Field(description="Why it failed.")
    asked_at: datetime
    asked_by: str
    since: datetime
    until: datetime
    against: str
    network_version: int = Field(description="Version of the definition that was in force when it began.")
    studies_done: int
    studies_total: int


class ReplayList(BaseModel):
    """The latest replays, the newest first."""

    replays: list[ReplayView]


def whole_network(caller: Caller) -> None:
    """Refuse callers whose scope is a part of the network: rules and destinations concern everyone."""
    if caller.tenants is not None or caller.sites is not None:
        raise Problem(
            403,
            "Not in scope",
            "The rules concern the whole network, and this token's scope is a part of it.",
            advice="Ask an administrator for a token without tenants and sites.",
        )


class Results:
    """What is known of replays, and what they found."""

    def __init__(self, database: Database, objects: ObjectStore, replays: Replays) -> None:
        self._database = database
        self._objects = objects
        self._replays = replays

    async def row(self, replay: str) -> Row[Any]:
        """Give one. Raises Problem 404."""
        async with self._database.reading() as tx:
            row = await replay_rows.find(tx, replay)
        if row is None:
            raise Problem(
                404,
                "No such replay",
                "There is no replay of this id, or it was removed.",
                advice="`GET /v1/rules/replays` lists the latest.",
            )
        return row

    async def view(self, replay: str) -> ReplayView:
        """Show one. Raises Problem 404."""
        return self.shown(await self.row(replay))

    def shown(self, row: Row[Any]) -> ReplayView:
        """Show one."""
        state, problem = self._replays.state(row)
        names = ("id", "asked_at", "asked_by", "since", "until", "against", "network_version", "studies_done")
        given = {name: getattr(row, name) for name in names}
        return ReplayView(**given, state=state, problem=problem, studies_total=row.studies_total)

    async def open(self, replay: str, name: str) -> BinaryIO:
        """Open a file of its results. Raises Problem."""
        row = await self.row(replay)
        if row.results is None:
            state, problem = self._replays.state(row)
            raise Problem(
                409,
                "No result",
                f"This replay is {state}{f': {problem}' if problem else ''}.",
                advice="Wait until it is done, or begin another one.",
            )
        try:
            return await asyncio.to_thread(self._objects.open, f"{row.results}/{name}")
        except (ObjectMissingError, StoreUnavailableError) as error:
            raise Problem(
                503,
                "Not available",
                f"The result can't be read ({type(error).__name__}).",
                advice="Try again later, or begin another replay.",
                headers={"Retry-After": "10"},
            ) from error


async def _begin(wanted: Wanted, caller: Principal, rules: InForce | None, replays: Replays, now: datetime) -> str:
    """Begin a replay. Raises Problem."""
    until = min(wanted.until or now, now)
    if wanted.since >= until:
        raise Problem(
            422, "Not valid", "The time to replay ends before it begins.", advice="Choose an earlier `since`."
        )
    if rules is None:
        raise Problem(
            409, "No definition", "No network definition is in force.", advice="Apply one with `kivuko apply FILE`."
        )
    try:
        await asyncio.to_thread(RuleSet, wanted.definition)
    except RuleSetError as error:
        raise Problem(
            422, "Definition refused", f"{error}.", advice="Check it with `kivuko apply FILE --dry-run`."
        ) from error
    before = None if wanted.against == "recorded" else rules.rules.definition
    try:
        return await replays.begin(wanted.definition, before, wanted.since, until, rules.version, caller.name)
    except BusyError as error:
        raise Problem(
            409,
            "Busy",
            f"Replay {error.replay} is running, and one runs at a time.",
            advice="Wait until it is done, or cancel it with DELETE /v1/rules/replays/ID.",
        ) from error


def make_replay_router(
    database: Database,
    objects: ObjectStore,
    replays: Replays,
    in_force: Callable[[], InForce | None],
    clock: Clock,
) -> APIRouter:
    """Build the routes."""
    router = APIRouter(tags=["rules"], dependencies=[Depends(whole_network)])

    results = Results(database, objects, replays)

    @router.post("/replays", dependencies=[requires("rules.simulate")], status_code=202)
    async def begin_replay(wanted: Wanted, caller: Caller) -> ReplayView:
        """Begin to replay; one at a time."""
        return await results.view(await _begin(wanted, caller, in_force(), replays, clock()))

    @router.get("/replays", dependencies=[requires("rules.read")])
    async def list_replays() -> ReplayList:
        async with database.reading() as tx:
            rows = await replay_rows.latest(tx, _LISTED)
        return ReplayList(replays=[results.shown(row) for row in rows])

    @router.get("/replays/{replay}", dependencies=[requires("rules.read")])
    async def show_replay(replay: str) -> ReplayView:
        return await results.view(replay)

    @router.delete("/replays/{replay}", dependencies=[requires("rules.simulate")])
    async def cancel_replay(replay: str) -> ReplayView:
        """Give a replay up; one that is over stays as it is."""
        await results.row(replay)
        await replays.cancel(replay)
        return await results.view(replay)

    @router.get("/replays/{replay}/report", dependencies=[requires("rules.simulate")])
    async def report(replay: str) -> StreamingResponse:
        """Give what was found, as JSON."""
        return StreamingResponse(_plain(await results.open(replay, REPORT)), media_type="application/json")

    @router.get("/replays/{replay}/changes", dependencies=[requires("rules.simulate")])
    async def changes(replay: str) -> StreamingResponse:
        """Give the studies that would go another way, as CSV."""
        return StreamingResponse(_plain(await results.open(replay, CHANGES)), media_type="text/csv; charset=utf-8")

    @router.get("/replays/{replay}/picture", dependencies=[requires("rules.simulate")])
    async def show_picture(replay: str) -> HTMLResponse:
        """Give what was found as a page to look at."""
        file = await results.open(replay, REPORT)
        row = await results.row(replay)

        def draw() -> str:
            with file, gzip.open(file) as plain:
                return picture.page(json.load(plain), row.since, row.until, row.against)

        return HTMLResponse(await asyncio.to_thread(draw))

    return router


def _plain(file: BinaryIO) -> Iterator[bytes]:
    with file, gzip.open(file) as plain:
        while chunk := plain.read(_CHUNK):
            yield chunk
