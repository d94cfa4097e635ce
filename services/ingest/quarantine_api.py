"""HTTP routes of the quarantine: what is in it, and what people decide on it."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from sqlalchemy import Row

from contracts.fact import Source
from libs.storage.database import Database
from libs.storage.objects import StoreUnavailableError
from libs.web.permission import requires
from libs.web.principal import Principal, principal
from libs.web.problem import Problem
from libs.web.recording import use_of
from services.ingest import catalog
from services.ingest.candidate import RefusedError, Wish
from services.ingest.catalog import Which
from services.ingest.correction import Modification, Trust
from services.ingest.holding import State
from services.ingest.quarantine import Prospect, Quarantine
from services.ingest.repository import utc
from services.ingest.ruled import RULE, AnyReason, check

Caller = Annotated[Principal, Depends(principal)]
Limit = Annotated[int, Query(ge=1, le=500, description="Entries at most.")]
#: How long an answer waits for the index.
_PATIENCE = 10.0


class Quarantined(BaseModel):
    """One object that was put aside."""

    id: str
    tenant: str
    site: str
    reason: AnyReason
    detail: str
    study_instance_uid: str | None
    sop_instance_uid: str | None
    transfer_syntax_uid: str
    source: Source
    object_key: str = Field(description="Empty if its bytes are not kept any more.")
    content_hash: str
    size: int
    times: int = Field(description="How often the same bytes arrived; of what a rule put aside, how many instances.")
    received_at: datetime
    last_received_at: datetime
    state: State = Field(
        description="open; kept-first: by the policy of that name; releasing: on its way; released; discarded."
    )
    resolved_at: datetime | None
    resolved_by: str | None
    resolution: dict[str, Any] | None = Field(description="What was decided, and why; or why a release failed.")


class QuarantinePage(BaseModel):
    """The quarantine, the latest first."""

    entries: tuple[Quarantined, ...]
    before: str | None = Field(description="Ask with this for the next page; null: there is none.")


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Filter(_Body):
    """Which entries a decision is about: those that nobody has decided on, with all that is given here."""

    ids: tuple[str, ...] = Field((), max_length=500)
    reason: AnyReason | None = None
    tenant: str | None = None
    site: str | None = None
    node: str | None = None
    since: AwareDatetime | None = Field(None, description="Arrived then or later.")
    limit: int = Field(500, ge=1, le=500, description="Entries at most, the latest first.")


class Release(_Body):
    """How to release."""

    reason: str = Field(
        min_length=1, max_length=500, description="Why, without personal data: it goes into the audit log."
    )
    corrections: dict[str, str] = Field(default_factory=dict, description="New values by DICOM keyword.")
    trust: Trust | None = Field(None, description="Which is right, where command and dataset name another instance.")
    replace: bool = Field(False, description="Whether to take the place of what is kept under the SOP Instance UID.")
    modification: Modification = Field("CORRECT", description="Reason for the Attribute Modification (0400,0565).")
    dry_run: bool = Field(False, description="Say what would happen, and change nothing.")

    def wish(self) -> Wish:
        """Give the same without HTTP."""
        return Wish(self.corrections, self.trust, self.replace, self.modification, self.reason)


class BulkRelease(Release):
    """How to release many."""

    filter: Filter


class Discard(_Body):
    """How to discard."""

    reason: str = Field(
        min_length=1, max_length=500, description="Why, without personal data: it goes into the audit log."
    )
    delete_bytes: bool = Field(False, description="Whether to delete the bytes for good; else they are kept.")
    dry_run: bool = Field(False, description="Say what would happen, and change nothing.")


class BulkDiscard(Discard):
    """How to discard many."""

    filter: Filter


class Outcome(BaseModel):
    """What became, or would become, of one entry."""

    id: str
    outcome: Literal["released", "releasing", "discarded", "refused", "would-release", "would-discard"]
    study_instance_uid: str | None = None
    series_instance_uid: str | None = None
    sop_instance_uid: str | None = None
    corrected: tuple[str, ...] = Field((), description="Attributes that change, by DICOM keyword.")
    new_study: bool | None = Field(None, description="Whether there is no such study yet.")
    replaces: bool | None = Field(None, description="Whether it takes the place of another content.")
    problem: str | None = Field(None, description="Why not.")
    advice: str | None = Field(None, description="What to do next.")


class Outcomes(BaseModel):
    """What became, or would become, of several entries."""

    outcomes: tuple[Outcome, ...]


class Document(BaseModel):
    """A dataset's header, the values of the patient included."""

    id: str
    elements: dict[str, Any] = Field(description="After the DICOM JSON Model, PS3.18 annex F: by tag.")


def add_routes(router: APIRouter, database: Database, quarantine: Callable[[], Quarantine]) -> None:
    """Add the routes under `/quarantine`.

    Parameters
    ----------
    quarantine
        Gives the quarantine while ingest runs; raises Problem 503 while it does not.
    """
    _reading(router, database, quarantine)
    _deciding(router, database, quarantine)


def _reading(router: APIRouter, database: Database, quarantine: Callable[[], Quarantine]) -> None:
    @router.get("/quarantine", dependencies=[requires("quarantine.read")])
    async def list_quarantine(
        caller: Caller,
        limit: Limit = 50,
        before: Annotated[str | None, Query(description="Entries below this id.")] = None,
        state: Annotated[list[State] | None, Query(description="In one of these states only.")] = None,
        reason: Annotated[AnyReason | None, Query(description="With this reason only.")] = None,
        tenant: Annotated[str | None, Query(description="Of this tenant only.")] = None,
        site: Annotated[str | None, Query(description="Of this site only.")] = None,
        node: Annotated[str | None, Query(description="From this node only.")] = None,
        since: Annotated[AwareDatetime | None, Query(description="Arrived then or later.")] = None,
    ) -> QuarantinePage:
        """List what was kept but not taken into any study, the latest first."""
        which = Which((), tuple(state or ()), reason, tenant, site, node, since)
        async with database.reading() as tx:
            found = await catalog.list_quarantine(tx, caller, which, before=before, limit=limit + 1)
        shown = found[:limit]
        return QuarantinePage(
            entries=tuple(_quarantined(row) for row in shown), before=shown[-1].id if len(found) > limit else None
        )

    @router.get("/quarantine/{entry}", dependencies=[requires("quarantine.read")])
    async def show_quarantine(request: Request, entry: str, caller: Caller) -> Quarantined:
        """Show one entry of the quarantine."""
        return _quarantined(await _find(request, database, caller, entry))

    @router.get("/quarantine/{entry}/header", dependencies=[requires("quarantine.read")])
    async def show_header(request: Request, entry: str, caller: Caller) -> Document:
        """Show the header of its dataset, who the patient is included."""
        row = await _find(request, database, caller, entry)
        try:
            return Document(id=entry, elements=await quarantine().header(row))
        except RefusedError as error:
            raise _problem(error) from error


def _deciding(router: APIRouter, database: Database, quarantine: Callable[[], Quarantine]) -> None:
    # Those without an id in the path come first: `release` would be taken for one.
    @router.post("/quarantine/release", dependencies=[requires("quarantine.manage")])
    async def release_many(body: BulkRelease, caller: Caller) -> Outcomes:
        """Release all entries of a filter, corrected or as they are; those that can't be stay, and say why."""
        rows = await _undecided(database, caller, body.filter)
        made = [await _release_one_of_many(quarantine(), row, body, caller) for row in rows]
        return Outcomes(outcomes=tuple(await _ended(database, quarantine(), made)))

    @router.post("/quarantine/discard", dependencies=[requires("quarantine.manage")])
    async def discard_many(body: BulkDiscard, caller: Caller) -> Outcomes:
        """Decide that all entries of a filter never will be in a study."""
        rows = await _undecided(database, caller, body.filter)
        return Outcomes(outcomes=tuple([await _discard(quarantine(), row, body, caller) for row in rows]))

    @router.post("/quarantine/{entry}/release", dependencies=[requires("quarantine.manage")])
    async def release(request: Request, entry: str, body: Release, caller: Caller) -> Outcome:
        """Release an entry into a study, corrected or as it is: it is indexed, told and routed like an arrival."""
        row = await _find(request, database, caller, entry)
        made = await _release(quarantine(), row, body, caller)
        if made.outcome == "refused":
            raise Problem(409, "Not released", made.problem or "", advice=made.advice)
        return (await _ended(database, quarantine(), [made]))[0]

    @router.post("/quarantine/{entry}/discard", dependencies=[requires("quarantine.manage")])
    async def discard(request: Request, entry: str, body: Discard, caller: Caller) -> Outcome:
        """Decide that an entry never will be in a study. Its bytes are kept unless they are to be deleted."""
        row = await _find(request, database, caller, entry)
        made = await _discard(quarantine(), row, body, caller)
        if made.outcome == "refused":
            raise Problem(409, "Not discarded", made.problem or "", advice=made.advice)
        return made


async def _release(quarantine: Quarantine, row: Row[Any], body: Release, caller: Principal) -> Outcome:
    try:
        if row.reason == RULE:
            return await _release_ruled(quarantine, row, body, caller)
        if body.dry_run:
            return _outcome(row.id, "would-release", await quarantine.look(row, body.wish(), caller))
        return _outcome(row.id, "releasing", await quarantine.release(row, body.wish(), caller))
    except RefusedError as error:
        return Outcome(id=row.id, outcome="refused", problem=error.detail, advice=error.advice)
    except StoreUnavailableError as error:
        raise Problem(
            503, "Object store away", f"The object store can't be read: {error}.", advice="Try again later."
        ) from error


async def _release_ruled(quarantine: Quarantine, row: Row[Any], body: Release, caller: Principal) -> Outcome:
    """Release what a rule put aside. Raises RefusedError."""
    check(body.wish())
    if not body.dry_run:
        await quarantine.ruled.decide(row, "released", body.reason, caller.name)
    outcome: Literal["released", "would-release"] = "would-release" if body.dry_run else "released"
    return Outcome(id=row.id, outcome=outcome, study_instance_uid=row.study_uid, new_study=False, replaces=False)


async def _release_one_of_many(quarantine: Quarantine, row: Row[Any], body: Release, caller: Principal) -> Outcome:
    try:
        return await _release(quarantine, row, body, caller)
    except Problem as problem:
        # What was decided on the others has to be said all the same.
        return Outcome(id=row.id, outcome="refused", problem=problem.detail, advice=problem.advice)


async def _discard(quarantine: Quarantine, row: Row[Any], body: Discard, caller: Principal) -> Outcome:
    if body.dry_run:
        return Outcome(id=row.id, outcome="would-discard")
    try:
        if row.reason == RULE:
            await quarantine.ruled.decide(row, "discarded", body.reason, caller.name, delete=body.delete_bytes)
            return Outcome(id=row.id, outcome="discarded")
        await quarantine.discard(row, body.reason, caller.name, delete=body.delete_bytes)
    except RefusedError as error:
        return Outcome(id=row.id, outcome="refused", problem=error.detail, advice=error.advice)
    return Outcome(id=row.id, outcome="discarded")


async def _ended(database: Database, quarantine: Quarantine, made: Sequence[Outcome]) -> list[Outcome]:
    """Wait a little for the index, and say how far it came."""
    waiting = [each.id for each in made if each.outcome == "releasing"]
    if not waiting:
        return list(made)
    await quarantine.settled(waiting, _PATIENCE)
    async with database.reading() as tx:
        states = await catalog.quarantine_states(tx, waiting)
    return [_said(each, states) if each.id in states else each for each in made]


def _said(made: Outcome, states: dict[str, tuple[str, Any]]) -> Outcome:
    state, resolution = states[made.id]
    if state == "released":
        return made.model_copy(update={"outcome": "released"})
    if state == "releasing":
        return made
    why = (resolution or {}).get("failed", "it is open again")
    advice = "Look at the entry, and at the latest ones of the quarantine."
    return made.model_copy(update={"outcome": "refused", "problem": f"The release failed: {why}.", "advice": advice})


async def _undecided(database: Database, caller: Principal, wanted: Filter) -> list[Row[Any]]:
    # What a policy has decided is decided on one by one: a filter is about what people were alarmed of.
    states = ("open", "kept-first") if wanted.ids else ("open",)
    which = Which(wanted.ids, states, wanted.reason, wanted.tenant, wanted.site, wanted.node, wanted.since)
    async with database.reading() as tx:
        return await catalog.list_quarantine(tx, caller, which, before=None, limit=wanted.limit)


async def _find(request: Request, database: Database, caller: Principal, entry: str) -> Row[Any]:
    async with database.reading() as tx:
        row = await catalog.show_quarantine(tx, caller, entry)
    if row is None:
        raise Problem(
            404,
            "No such entry",
            "The quarantine has no such entry, or it is not in your scope.",
            advice="`kivuko quarantine list --all` and GET /v1/ingest/quarantine list those that are.",
        )
    use_of(request).concerns(entry, row.tenant)
    return row


def _outcome(entry: str, outcome: Literal["releasing", "would-release"], prospect: Prospect) -> Outcome:
    return Outcome(
        id=entry,
        outcome=outcome,
        study_instance_uid=prospect.study_uid,
        series_instance_uid=prospect.series_uid,
        sop_instance_uid=prospect.sop_uid,
        corrected=prospect.corrected,
        new_study=prospect.new_study,
        replaces=prospect.replaces,
    )


def _problem(error: RefusedError) -> Problem:
    return Problem(409, error.title, error.detail, advice=error.advice)


def _quarantined(row: Row[Any]) -> Quarantined:
    return Quarantined(
        id=row.id,
        tenant=row.tenant,
        site=row.site,
        reason=row.reason,
        detail=row.detail,
        study_instance_uid=row.study_uid,
        sop_instance_uid=row.sop_uid,
        transfer_syntax_uid=row.transfer_syntax_uid,
        source=Source.model_validate(row.source),
        object_key=row.object_key,
        content_hash=row.content_hash,
        size=row.size,
        times=row.times,
        received_at=utc(row.received_at),
        last_received_at=utc(row.last_received_at),
        state=row.state,
        resolved_at=None if row.resolved_at is None else utc(row.resolved_at),
        resolved_by=row.resolved_by,
        resolution=_shown(row.resolution),
    )


def _shown(resolution: dict[str, Any] | None) -> dict[str, Any] | None:
    """Leave out new values, which may say who the patient is: the corrected dataset has them."""
    if resolution is None:
        return None
    return {name: value for name, value in resolution.items() if name not in ("corrections", "replica", "before")}
