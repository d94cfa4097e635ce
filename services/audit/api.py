"""HTTP routes of audit."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import AwareDatetime, BaseModel, Field, ValidationError
from starlette.responses import Response

from contracts.envelope import CONTENT_TYPE, Event
from contracts.fact import Fact
from contracts.topics import BY_TYPE
from libs.clock import Clock
from libs.storage.database import Database
from libs.web.permission import requires
from libs.web.principal import Principal, principal
from libs.web.problem import Problem
from libs.web.recording import use_of
from services.audit import repository
from services.audit.timeline import details, sentence

#: Events may be this late before a gap is shown.
LATE = timedelta(minutes=1)

Caller = Annotated[Principal, Depends(principal)]
Limit = Annotated[int, Query(ge=1, le=1000, description="Entries at most.")]


class Entry(BaseModel):
    """One thing that happened to a study."""

    time: datetime = Field(description="When, UTC.")
    service: str = Field(description="Service that says so.")
    region: str = Field(description="Deployment that it belongs to.")
    event: str = Field(description="Name and version of the event.")
    sentence: str = Field(description="What happened, without anything that says who the patient is.")
    details: dict[str, Any] = Field(description="The event's data, without what may be personal.")
    trace_id: str | None = Field(description="Trace in which it happened.")
    record: int = Field(description="Number of the record that proves it.")


class Timeline(BaseModel):
    """What happened to a study, in order of time."""

    study_instance_uid: str
    entries: tuple[Entry, ...]
    more: bool = Field(description="Whether there are later entries: ask again with `since`, the time of the last one.")


class RecordSummary(BaseModel):
    """One record, without its event."""

    seq: int = Field(description="Number of the record.")
    source: str
    event_id: str
    sequence: int = Field(description="The producer's own number.")
    type: str
    time: datetime
    recorded_at: datetime
    tenant: str
    site: str | None
    subject: str
    study_instance_uid: str | None
    sha256: str = Field(description="SHA-256 of the event's bytes.")
    sentence: str


class RecordPage(BaseModel):
    """Records, the latest first."""

    records: tuple[RecordSummary, ...]
    before: int | None = Field(description="Ask with this for the next page; null: there is none.")


class MissingNumbers(BaseModel):
    """Events of one producer that have not come."""

    source: str
    first: int
    last: int
    since: datetime = Field(description="When the gap was first seen.")


class Gaps(BaseModel):
    """Events that are missing for longer than a minute."""

    gaps: tuple[MissingNumbers, ...]


class Wanted(BaseModel):
    """Which records are asked for."""

    type: str | None = Field(None, description="Type of event, such as kivuko.study.completed.v1.")
    source: str | None = Field(None, description="Producer, such as /local/ingest.")
    subject: str | None = Field(None, description="What the event is about.")
    study: str | None = Field(None, description="Study Instance UID.")
    since: AwareDatetime | None = Field(None, description="From this time on, with an offset.")
    until: AwareDatetime | None = Field(None, description="Before this time, with an offset.")
    before: int | None = Field(None, ge=1, description="Records below this number.")
    limit: int = Field(100, ge=1, le=1000, description="Records at most.")

    def filter(self) -> repository.Filter:
        """Give what the repository takes."""
        return repository.Filter(self.type, self.source, self.subject, self.study, self.since, self.until)


def make_router(database: Database, clock: Clock) -> APIRouter:
    """Give the routes of `/v1/audit`."""
    router = APIRouter()

    @router.get("/studies/{uid}/timeline", dependencies=[requires("studies.read")])
    async def timeline(
        request: Request,
        uid: str,
        caller: Caller,
        limit: Limit = 1000,
        since: Annotated[AwareDatetime | None, Query(description="From this time on, with an offset.")] = None,
    ) -> Timeline:
        """Tell what happened to a study, in order of time."""
        async with database.reading() as tx:
            found = await repository.of_study(tx, uid, caller, since, limit + 1)
        _concerns(request, uid, found)
        return Timeline(
            study_instance_uid=uid,
            entries=tuple(_entry(record) for record in found[:limit]),
            more=len(found) > limit,
        )

    @router.get("/records", dependencies=[requires("audit.read")])
    async def list_records(caller: Caller, wanted: Annotated[Wanted, Query()]) -> RecordPage:
        """List records, the latest first."""
        async with database.reading() as tx:
            found = await repository.page(tx, wanted.filter(), caller, wanted.before, wanted.limit + 1)
        shown = found[: wanted.limit]
        return RecordPage(
            records=tuple(_summary(record) for record in shown),
            before=shown[-1].seq if len(found) > wanted.limit else None,
        )

    @router.get("/records/{seq}", dependencies=[requires("audit.read")], response_class=Response)
    async def show_record(request: Request, seq: int, caller: Caller) -> Response:
        """Give the event of a record byte for byte, personal data included."""
        async with database.reading() as tx:
            record = await repository.one(tx, seq, caller)
        if record is None:
            raise Problem(
                404,
                "No such record",
                f"There is no record {seq}, or it is not in your scope.",
                advice="GET /v1/audit/records lists those that are.",
            )
        use_of(request).concerns(f"record {seq}", record.tenant)
        return Response(record.body, media_type=CONTENT_TYPE, headers={"X-Content-SHA256": record.sha256})

    @router.get("/gaps", dependencies=[requires("audit.read")])
    async def list_gaps() -> Gaps:
        """List the events that producers have counted and that have not come."""
        async with database.reading() as tx:
            found = await repository.open_gaps(tx, clock() - LATE)
        return Gaps(
            gaps=tuple(
                MissingNumbers(source=gap.source, first=gap.first, last=gap.last, since=gap.since) for gap in found
            )
        )

    return router


def _event(record: repository.Record) -> tuple[Fact | None, str | None]:
    """Read the fact and the trace back; no fact where this release does not know the event."""
    topic = BY_TYPE.get(record.type)
    content = json.loads(record.body)
    trace = content.get("traceparent")
    if topic is None:
        return None, trace
    try:
        return Event[topic.model].model_validate(content).data, trace  # type: ignore[name-defined]
    except ValidationError:
        # It was valid when it was recorded; a later release that cannot read it still shows that it is there.
        return None, trace


def _entry(record: repository.Record) -> Entry:
    data, trace = _event(record)
    _, region, service = record.source.split("/", 2)
    return Entry(
        time=record.time,
        service=service,
        region=region,
        event=record.type.removeprefix("kivuko."),
        sentence=sentence(data),
        details={} if data is None else details(data),
        trace_id=None if trace is None else trace.split("-")[1],
        record=record.seq,
    )


def _summary(record: repository.Record) -> RecordSummary:
    values = {name: getattr(record, name) for name in RecordSummary.model_fields if name != "sentence"}
    return RecordSummary(**values, sentence=sentence(_event(record)[0]))


def _concerns(request: Request, uid: str, found: Sequence[repository.Record]) -> None:
    tenants = {record.tenant for record in found}
    if len(tenants) == 1:
        use_of(request).concerns(uid, tenants.pop())
