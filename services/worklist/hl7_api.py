"""HTTP routes of HL7: what came and how it was answered, and what a mapping makes of a message before one is sent."""

from datetime import datetime
from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field
from sqlalchemy import Row, Select, Text, cast, select

from contracts.definition import Definition, Snapshot
from libs.clock import Clock
from libs.dimse.admission import UNKNOWN_NODE
from libs.hl7.charset import UnknownCharsetError, decode
from libs.hl7.message import messages as split
from libs.snapshot import NetworkView
from libs.storage.database import Database
from libs.web.permission import requires
from libs.web.principal import Principal, principal
from libs.web.problem import Problem
from services.worklist import hl7
from services.worklist.body import plain
from services.worklist.hl7_intake import Intake, Taking, read
from services.worklist.models import messages
from services.worklist.rule import element
from services.worklist.sender import Senders, charset_of

Caller = Annotated[Principal, Depends(principal)]
#: Longest message that is tried.
_LONGEST = 10_000_000


class Field_(BaseModel):  # noqa: N801 - `Field` is pydantic's
    """One attribute that a message gives a value, or of which something was lost."""

    part: int = Field(description="Which change of the message, from 0.")
    about: str = Field(description="patient, order, or which step.")
    tag: str
    keyword: str
    vr: str
    value: list[Any] | None = Field(description="null: not taken over; an empty list: it is set to be empty.")
    origin: str = Field(description="Place of the message, or what else it comes from.")
    notes: list[str] = Field(description="What was cut or lost.")


class Mapped(BaseModel):
    """What a mapping makes of a message. Nothing was kept."""

    source: str
    mapping: str
    type: str
    control_id: str
    charset: str = Field(description="Python's name of the character set that it was read in.")
    answer: Literal["AA", "AE"] = Field(description="AA: it would be taken, as far as it alone can tell.")
    faults: list[str] = Field(description="Why it would be refused.")
    warnings: list[str]
    actions: list[str] = Field(description="What it would do, change by change.")
    fields: list[Field_]


class Received(BaseModel):
    """A message that came."""

    id: int
    tenant: str | None
    source: str
    control_id: str
    received_at: datetime
    size: int = Field(description="Bytes.")
    answer: str = Field(description="AA taken, AE refused.")
    said: str = Field(description="Why it was refused.")
    warnings: list[str]
    removed: bool = Field(description="Whether its text was removed, as it is older than such are kept.")


class ReceivedPage(BaseModel):
    """What came, the latest first."""

    messages: list[Received]
    before: int | None = Field(description="Ask with this for the next page; null: there is none.")


class Shown(Received):
    """A message with its text."""

    text: str = Field(description="Empty once it is removed.")


class ReadAgain(BaseModel):
    """What became of a message that was read anew."""

    answer: Literal["AA", "AE"] = Field(description="AA: its orders are on the worklist now; AE: refused again.")
    faults: list[str] = Field(description="Why it is refused.")


def add_routes(router: APIRouter, database: Database, network: NetworkView, orders: Taking, clock: Clock) -> None:
    """Add the routes under `/messages` and `/map`."""
    _trying(router, network, clock)
    _messages(router, database, network)
    _again(router, database, network, Intake(network, orders, clock))


def _trying(router: APIRouter, network: NetworkView, clock: Clock) -> None:
    senders = Senders()

    @router.post("/map", dependencies=[requires("mappings.try")])
    async def try_mapping(
        request: Request,
        caller: Caller,
        source: Annotated[str | None, Query(description="Node that it counts as from; the only one with hl7.")] = None,
    ) -> list[Mapped]:
        """Show what the definition in force makes of a message, field by field. Nothing is kept."""
        snapshot = _in_force(network)
        node = _source(snapshot.definition, source, caller)
        raw = await request.body()
        if not raw or len(raw) > _LONGEST:
            raise Problem(422, "No message", "A message has 1 to 10,000,000 bytes.", advice="Send one HL7 message.")
        sender = senders.sender(snapshot, node)
        frames = split(raw.strip(b"\x0b\x1c\r\n ") + b"\r")
        return [
            _mapped(
                await to_thread.run_sync(read, each, snapshot.definition, sender, clock()), snapshot.definition, sender
            )
            for each in frames
        ]


def _messages(router: APIRouter, database: Database, network: NetworkView) -> None:
    @router.get("/messages", dependencies=[requires("messages.read")])
    async def list_messages(
        caller: Caller,
        limit: Annotated[int, Query(ge=1, le=500, description="Messages at most.")] = 50,
        before: Annotated[int | None, Query(description="Messages below this id.")] = None,
        source: Annotated[str | None, Query(description="Of this node only.")] = None,
        answer: Annotated[Literal["AA", "AE"] | None, Query(description="With this answer only.")] = None,
        control_id: Annotated[str | None, Query(description="With this MSH-10 only.")] = None,
        warned: Annotated[bool, Query(description="Only those with warnings.")] = False,
    ) -> ReceivedPage:
        """List the messages that came, the latest first: how each was answered, and what of it was cut or lost."""
        wanted = _visible(network, caller).order_by(messages.c.id.desc()).limit(limit + 1)
        given = {messages.c.source: source, messages.c.answer: answer, messages.c.control_id: control_id}
        for column, value in given.items():
            wanted = wanted if value is None else wanted.where(column == value)
        if before is not None:
            wanted = wanted.where(messages.c.id < before)
        if warned:
            wanted = wanted.where(cast(messages.c.warnings, Text) != "[]")
        async with database.reading() as tx:
            rows = (await tx.execute(wanted)).all()
        shown = rows[:limit]
        return ReceivedPage(
            messages=[Received(**_columns(row)) for row in shown], before=shown[-1].id if len(rows) > limit else None
        )

    @router.get("/messages/{message}", dependencies=[requires("messages.read")])
    async def show_message(message: int, caller: Caller) -> Shown:
        """Show one message as it came, what it says of the patient included."""
        row = await _one(database, network, caller, message)
        return Shown(**_columns(row), text=_text(network, row))


def _again(router: APIRouter, database: Database, network: NetworkView, intake: Intake) -> None:
    @router.post("/messages/{message}/read-again", dependencies=[requires("orders.manage")])
    async def read_message_again(message: int, caller: Caller) -> ReadAgain:
        """Read a message anew that could not be read when it came, by the mapping in force: as if it came now again.

        It counts by its own time, so that what was said since stays. Its sender hears nothing of it.
        """
        row = await _one(database, network, caller, message)
        snapshot = _in_force(network)
        _check_again(snapshot.definition, row)
        answer, faults = await intake.again(bytes(row.raw), snapshot, row.source, row.received_at)
        if answer == "AR":
            raise Problem(503, "Not kept", "It could not be kept just now.", advice="Try again.")
        return ReadAgain(answer=answer, faults=[f"{fault.place}: {fault.said}" for fault in faults])


def _check_again(definition: Definition, row: Row[Any]) -> None:
    """Tell whether a message can be read anew. Raises Problem."""
    if row.answer == "AA":
        raise Problem(409, "Taken", "It was taken when it came.", advice="`kivuko worklist list` shows its orders.")
    if row.outcomes:
        raise Problem(
            409,
            "Refused",
            f"It was read, and what it says was refused: {row.said}.",
            advice="Do by hand what it should have done: `kivuko worklist edit`, `merges` or `unmerge`.",
        )
    if row.removed_size is not None:
        raise Problem(410, "Removed", "Its text was removed: it is older than such are kept.", advice="Have it sent.")
    node = definition.nodes.get(row.source)
    if row.source != UNKNOWN_NODE and (node is None or node.hl7 is None):
        why = f"The node {row.source} sends no HL7 in the network definition in force."
        raise Problem(409, "No sender", why, advice="Give it `hl7`, run `kivuko apply FILE`, then try again.")


async def _one(database: Database, network: NetworkView, caller: Principal, message: int) -> Row[Any]:
    async with database.reading() as tx:
        row: Row[Any] | None = (
            await tx.execute(_visible(network, caller).where(messages.c.id == message))
        ).one_or_none()
    if row is None:
        raise Problem(
            404, "Not found", f"There is no message {message}.", advice="`kivuko worklist messages` shows them."
        )
    return row


def _in_force(network: NetworkView) -> Snapshot:
    if network.current is None:
        raise Problem(409, "No definition", "There is no network definition yet.", advice="Run `kivuko apply FILE`.")
    return network.current


def _source(definition: Definition, asked: str | None, caller: Principal) -> str:
    nodes = [key for key, node in definition.nodes.items() if node.hl7 is not None]
    seen = [key for key in nodes if caller.sees_tenant(definition.tenant_of(key))]
    if asked is None and len(seen) == 1:
        return seen[0]
    if asked is None and not nodes and len(definition.sites) == 1:
        return UNKNOWN_NODE
    if asked is not None and asked in definition.nodes and caller.sees_tenant(definition.tenant_of(asked)):
        return asked
    what = "Several nodes send HL7." if asked is None else f"There is no node {asked}."
    raise Problem(422, "Which node", what, advice=f"Name the source: {', '.join(seen) or 'a node with hl7'}.")


def _mapped(found: Any, definition: Definition, sender: hl7.Sender) -> Mapped:
    interpretation, message = found.interpretation, found.message
    known = definition.nodes.get(sender.node)
    taken = bool(interpretation.changes)
    faults = [f"{fault.place}: {fault.said}" for fault in interpretation.faults]
    if not taken and not faults:
        faults = ["it is an acknowledgement, which is never answered"]
    return Mapped(
        source=sender.node,
        mapping=known.hl7.mapping if known is not None and known.hl7 is not None else "default",
        type="" if message is None else hl7.kind_of(message),
        control_id=found.asked.control_id,
        charset=found.asked.codec,
        answer="AA" if taken else "AE",
        faults=faults,
        warnings=list(interpretation.warnings),
        actions=[hl7.described(change) for change in interpretation.changes],
        fields=[_field(row) for row in interpretation.rows],
    )


def _field(row: hl7.Row) -> Field_:
    kind = element(row.keyword)
    return Field_(
        part=row.part,
        about=row.about,
        tag=f"({kind.tag >> 16:04X},{kind.tag & 0xFFFF:04X})",
        keyword=row.keyword,
        vr=kind.vr,
        value=None if row.found.values is None else plain(list(row.found.values)),
        origin=row.found.origin,
        notes=list(row.found.notes),
    )


def _visible(network: NetworkView, caller: Principal) -> Select[Any]:
    """Select the messages that a caller may see: of tenants and sites, as far as it is limited to such."""
    wanted = select(messages)
    if caller.tenants is not None:
        wanted = wanted.where(messages.c.tenant.in_(sorted(caller.tenants)))
    if caller.sites is not None:
        definition = None if network.current is None else network.current.definition
        nodes = {} if definition is None else definition.nodes
        wanted = wanted.where(messages.c.source.in_([key for key, node in nodes.items() if node.site in caller.sites]))
    return wanted


def _columns(row: Row[Any]) -> dict[str, Any]:
    size = len(row.raw) if row.removed_size is None else row.removed_size
    said = {name: getattr(row, name) for name in Received.model_fields.keys() - {"size", "removed"}}
    return {**said, "size": size, "removed": row.removed_size is not None}


def _text(network: NetworkView, row: Row[Any]) -> str:
    if row.removed_size is not None:
        return ""
    snapshot = network.current
    default, always = ("ASCII", False) if snapshot is None else charset_of(snapshot.definition, row.source)
    try:
        return decode(row.raw, default, always=always).text
    except UnknownCharsetError:
        return bytes(row.raw).decode("latin-1")
