"""HTTP routes of performed procedure steps: what modalities reported, what it is linked to, and who has it."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field
from sqlalchemy import Row

from libs.clock import Clock
from libs.storage.database import Database
from libs.web.permission import requires
from libs.web.principal import Principal, principal
from libs.web.problem import Problem
from libs.web.recording import use_of
from services.worklist import forward_rows, step_listing
from services.worklist.forwarding import Forwarding
from services.worklist.models import mpps
from services.worklist.step import State

Caller = Annotated[Principal, Depends(principal)]
_READ, _MANAGE = requires("orders.read"), requires("orders.manage")


class LinkView(BaseModel):
    """A scheduled step that a performed one names."""

    study_instance_uid: str
    accession: str
    step_id: str
    order_id: int | None = Field(description="The order that it is a step of; null if none is known.")
    item_id: int | None
    matched_by: str | None = Field(description="How it was found: step, study, accession or referenced.")
    contradicts: bool = Field(description="The modality names another patient than the order: look at both.")


class ForwardView(BaseModel):
    """A node that gets the step."""

    node: str
    state: str = Field(description="open: under way; done; failed: people must look.")
    sent: int = Field(description="How many of its messages the node has.")
    failures: int = Field(description="Attempts in a row that failed.")
    due_at: datetime | None = Field(description="When it is tried next.")
    problem: str | None


class StepView(BaseModel):
    """A performed procedure step."""

    id: int
    sop_instance_uid: str
    tenant: str
    site: str
    node: str
    state: State
    station_aet: str
    modality: str
    patient: str = Field(description="Patient ID as the modality says it.")
    started_at: datetime
    ended_at: datetime | None
    instance_count: int
    wrong_entry: bool = Field(description="The wrong worklist entry had been selected: that is to be done still.")
    lapses: tuple[str, ...] = Field(description="What was said otherwise than PS3.4 wants.")
    repeated: int = Field(description="How often the modality said again what was known.")
    changed_at: datetime
    links: tuple[LinkView, ...]
    forwards: tuple[ForwardView, ...]


class MessageView(BaseModel):
    """A request that was answered with success."""

    number: int = Field(description="0 is the N-CREATE, all others are N-SETs.")
    calling_aet: str
    received_at: datetime
    transfer_syntax_uid: str
    size: int = Field(description="Bytes of its dataset.")


class StepDetail(StepView):
    """A step with all that was said of it."""

    attributes: dict[str, Any] = Field(description="By DICOM keyword.")
    messages: tuple[MessageView, ...]


class StepPage(BaseModel):
    """Steps, the newest first."""

    steps: tuple[StepView, ...]
    before: int | None = Field(description="Ask with this for the next page; null: there is none.")


class Again(BaseModel):
    """What is sent again."""

    forwards: int


def make_step_router(database: Database, forwarding: Forwarding, clock: Clock) -> APIRouter:
    """Build the routes under `/steps`."""
    router = APIRouter(tags=["worklist"])

    @router.get("/steps", dependencies=[_READ])
    async def list_steps(
        caller: Caller,
        limit: Annotated[int, Query(ge=1, le=500, description="Steps at most.")] = 100,
        before: Annotated[int | None, Query(description="Steps below this id.")] = None,
        state: Annotated[list[State] | None, Query(description="In one of these states only.")] = None,
        node: Annotated[str | None, Query(description="Of this modality only.")] = None,
        study: Annotated[str | None, Query(description="That name this Study Instance UID.")] = None,
        accession: Annotated[str | None, Query(description="That name this accession number.")] = None,
        patient: Annotated[str | None, Query(description="Of this Patient ID.")] = None,
        unlinked: Annotated[bool, Query(description="Only those that are no step of a known order.")] = False,
        waiting: Annotated[bool, Query(description="Only those that a node has not got.")] = False,
    ) -> StepPage:
        """List performed procedure steps, the newest first."""
        wanted = [step_listing.within(caller)]
        if state:
            wanted.append(mpps.c.state.in_(state))
        exact = {mpps.c.node: node, mpps.c.patient: patient}
        wanted += [column == value for column, value in exact.items() if value is not None]
        wanted += step_listing.naming(study=study, accession=accession, unlinked=unlinked, waiting=waiting)
        async with database.reading() as tx:
            rows = await step_listing.steps(tx, wanted, before, limit + 1)
            shown = rows[:limit]
            views = await _views(tx, shown)
        return StepPage(steps=tuple(views), before=shown[-1].id if len(rows) > limit else None)

    @router.get("/steps/{uid}", dependencies=[_READ])
    async def show_step(request: Request, caller: Caller, uid: str) -> StepDetail:
        """Show a step with all that was said of it."""
        async with database.reading() as tx:
            row = await _find(tx, caller, uid)
            (view,) = await _views(tx, [row])
            messages = await step_listing.messages(tx, row.id)
        use_of(request).concerns(view.links[0].study_instance_uid if view.links else None, row.tenant)
        return StepDetail(
            **view.model_dump(),
            attributes=row.attributes,
            messages=tuple(MessageView(**one._asdict()) for one in messages),
        )

    @router.post("/steps/{uid}/again", dependencies=[_MANAGE])
    async def again(
        request: Request,
        caller: Caller,
        uid: str,
        node: Annotated[str | None, Query(description="To this node only.")] = None,
    ) -> Again:
        """Send a step now to the nodes that have not got it, also to those that refused it."""
        async with database.transaction() as tx:
            row = await _find(tx, caller, uid)
            count = await forward_rows.again(tx, row.id, node, clock())
        use_of(request).concerns(None, row.tenant)
        forwarding.wake()
        return Again(forwards=count)

    return router


async def _find(tx: Any, caller: Principal, uid: str) -> Row[Any]:
    rows = await step_listing.steps(tx, [step_listing.within(caller), mpps.c.sop_instance_uid == uid], None, 2)
    if len(rows) == 1:
        return rows[0]
    if rows:
        raise Problem(
            409,
            "It does not fit",
            "Steps of more than one tenant have this SOP Instance UID.",
            advice="Use a token of one tenant.",
        )
    raise Problem(
        404,
        "Not found",
        "No performed procedure step has this SOP Instance UID.",
        advice="`kivuko worklist steps` lists those that there are.",
    )


async def _views(tx: Any, rows: Any) -> list[StepView]:
    ids = [row.id for row in rows]
    links, forwards = await step_listing.links(tx, ids), await step_listing.forwards(tx, ids)
    names = set(StepView.model_fields) - {"links", "forwards"}
    return [
        StepView(
            **{name: getattr(row, name) for name in names},
            links=tuple(LinkView(**one) for one in links[row.id]),
            forwards=tuple(ForwardView(**one) for one in forwards[row.id]),
        )
        for row in rows
    ]
