"""HTTP routes of destinations: what waits for each, pause and resume, and what a destination can do."""

import asyncio
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from sqlalchemy import Row

from libs.clock import Clock
from libs.dicom.uid import new_uid
from libs.storage.database import Database
from libs.web.permission import requires
from libs.web.principal import Principal
from libs.web.problem import Problem
from services.egress import calls, comparison_rows, listing, scope
from services.egress.calling import Timeouts, echo
from services.egress.deliveries import Deliveries
from services.egress.examination import common_pairs, examine
from services.egress.examination_view import ExaminationView, examination_view
from services.egress.filing import check
from services.egress.folder import FolderTarget
from services.egress.forecast import Flow, Queue, rate, seconds_left
from services.egress.models import deliveries as table
from services.egress.order_api import Reason
from services.egress.orders import Orders
from services.egress.partner import PartnerTarget
from services.egress.reach import Obstacle, Target
from services.egress.scope import Caller
from services.egress.specimen import specimen
from services.egress.work import Work

State = Literal["paused", "blocked", "unreachable", "sending", "held", "waiting", "idle"]
_MANAGE = requires("destinations.manage")
_TEST = requires("destinations.test")
#: A person waits for the answer of a test.
_PATIENT = 20.0


class DestinationView(BaseModel):
    """What is known of a destination, and what waits for it in the caller's scope."""

    key: str
    state: State = Field(
        description="paused: by a person; blocked: it can't be called as it is defined; unreachable: it did not answer "
        "the last time; sending: something arrived lately and more is to go; held: nothing of what waits may go; "
        "waiting: something is to go, and nothing went lately; idle: nothing is to go."
    )
    reachable: bool | None
    problem: str | None
    failures: int
    retry_at: datetime | None
    reached_at: datetime | None
    failed_at: datetime | None
    opens_at: datetime | None = Field(description="When its window opens; none if it is open.")
    paused_by: str | None
    paused_at: datetime | None
    paused_why: str | None
    backlog: int = Field(description="Deliveries with something that is not sent yet.")
    held: int = Field(description="How many of them do not go at present.")
    instances: int = Field(description="Instances that are not sent yet.")
    bytes: int
    oldest_request_at: datetime | None
    bytes_per_second: float | None = Field(description="Lately; none if nothing was sent, or nothing is to go.")
    empty_in: float | None = Field(description="Seconds until all that may go has gone; none if that is not known.")


class Standstill(BaseModel):
    """How many deliveries are in a state for a reason."""

    state: str
    reason: str | None
    deliveries: int


class DestinationDetail(DestinationView):
    """A destination with how it is called."""

    address: str | None
    called_aet: str | None
    calling_aet: str | None
    tls: bool | None
    associations_allowed: int | None
    associations: int | None = Field(description="At present, of all replicas; none in the embedded profile.")
    window: str | None = Field(description="Time of day in which it is sent to, in the network's time zone.")
    bandwidth: int | None = Field(description="Most that it may ever get, bit/s, by its own cap and its site's.")
    budget_left: int | None = Field(description="Bytes that are left of today's budgets; none if there is no budget.")
    contexts_accepted: int = Field(description="Pairs of SOP class and transfer syntax that it took the last time.")
    contexts_refused: int
    confirm: str = Field(description="What counts as delivered: `store`, `commit` or `query`.")
    compared_at: datetime | None = Field(description="When it was last asked what it has; none if never.")
    compared_problem: str | None = Field(description="Why the last comparison broke off.")
    missing: int = Field(description="Instances that it said success for and was seen not to have, in your scope.")
    standstills: list[Standstill] = Field(description="What of its deliveries is not done, and why.")


class EchoResult(BaseModel):
    """Outcome of a C-ECHO."""

    ok: bool
    problem: str | None


class TestWanted(BaseModel):
    """How far a test goes."""

    store: bool = Field(False, description="Whether to store a test object there; its Patient ID is KIVUKO-TEST.")


class Destinations:
    """What the routes are about."""

    def __init__(
        self, database: Database, deliveries: Deliveries, work: Work, orders: Orders, timeouts: Timeouts, clock: Clock
    ) -> None:
        self.database = database
        self.deliveries = deliveries
        self._work = work
        self.orders = orders
        self.timeouts = timeouts
        self.clock = clock

    async def views(self, caller: Principal, only: str | None = None) -> list[DestinationView]:
        """Show the destinations that the caller sees; or one of them."""
        now = self.clock()
        async with self.database.reading() as tx:
            keys = await scope.destinations(tx, caller, self.deliveries)
            if only is not None:
                keys &= {only}
            within = [scope.within(caller)] + ([] if only is None else [table.c.destination == only])
            known = await calls.list_destinations(tx)
            queues = await listing.queues(tx, within)
            flows = await listing.flows(tx, now)
        return [self._view(key, known.get(key), queues.get(key), flows.get(key), now) for key in sorted(keys)]

    async def view(self, caller: Principal, key: str) -> DestinationView:
        """Show one. Raises Problem 404."""
        found = await self.views(caller, key)
        if not found:
            raise scope.no_destination()
        return found[0]

    async def detail(self, caller: Principal, key: str) -> DestinationDetail:
        """Show one with everything. Raises Problem 404."""
        view = await self.view(caller, key)
        target = self.deliveries.reach(key)
        async with self.database.reading() as tx:
            contexts = await calls.accepted(tx, key)
            standstills = await listing.standstills(tx, [scope.within(caller), table.c.destination == key])
            cluster = self.database.dialect == "postgresql"
            associations = await listing.associations(tx, key) if cluster else None
            left = await self._work.left(tx, key)
            compared = await comparison_rows.last(tx, key)
            missing = await comparison_rows.missing(tx, scope.within(caller), table.c.destination == key)
        limits = self.deliveries.limits(key)
        return DestinationDetail(
            **view.model_dump(),
            **_called(target),
            associations=associations,
            window=None if limits is None else limits.window,
            bandwidth=None if limits is None else limits.caps.bandwidth,
            budget_left=left,
            contexts_accepted=sum(contexts.values()),
            contexts_refused=len(contexts) - sum(contexts.values()),
            confirm=self.deliveries.confirm(key),
            compared_at=None if compared is None else compared.began_at,
            compared_problem=None if compared is None else compared.problem,
            missing=missing.get(key, 0),
            standstills=[Standstill(state=s, reason=reason, deliveries=count) for s, reason, count in standstills],
        )

    async def seen(self, caller: Principal, key: str) -> Target | FolderTarget:
        """Give how a destination is reached that the caller sees. Raises Problem 404 or 409."""
        async with self.database.reading() as tx:
            visible = await scope.destinations(tx, caller, self.deliveries)
        if key not in visible:
            raise scope.no_destination()
        target = self.deliveries.reach(key)
        if isinstance(target, PartnerTarget):
            raise Problem(409, "Destination can't be called", "It is a partner: it is told by the broker.")
        if isinstance(target, Obstacle):
            raise Problem(409, "Destination can't be called", f"{target.reason[:1].upper()}{target.reason[1:]}.")
        return target

    async def owned(self, caller: Principal, key: str) -> None:
        """See that the caller may decide for all who use a destination. Raises Problem 404 or 403."""
        if key in scope.own_destinations(caller, self.deliveries):
            return
        async with self.database.reading() as tx:
            if key not in await scope.destinations(tx, caller, self.deliveries):
                raise scope.no_destination()
        if caller.tenants is None and caller.sites is None:
            return
        raise Problem(
            403,
            "Not allowed",
            "Others than you send to this destination too, and its node is not in your scope.",
            advice="Hold your own deliveries to it instead, or ask an administrator of the node's site.",
        )

    async def examined(self, caller: Principal, key: str, *, store: bool) -> ExaminationView:
        """Find out what a destination can do, and remember it. Raises Problem 404 or 409."""
        target = await self.seen(caller, key)
        if isinstance(target, FolderTarget):
            raise Problem(
                409,
                "Destination can't be called",
                "It is a folder: there is nothing to negotiate with.",
                advice=f"See whether it can be written with POST /v1/egress/destinations/{key}/echo.",
            )
        async with self.database.reading() as tx:
            needed = await listing.needed(tx, key)
            known = await calls.accepted(tx, key)
        found = await asyncio.to_thread(
            examine,
            target,
            _hasty(self.timeouts),
            [*needed, *known, *common_pairs()],
            specimen(self.clock()) if store else None,
            time.perf_counter,
            new_uid(),
        )
        await self._work.learn(key, found.contexts)
        return examination_view(key, target, found, needed)

    def _view(
        self, key: str, known: Row[Any] | None, queue: Queue | None, flow: Flow | None, now: datetime
    ) -> DestinationView:
        target = self.deliveries.reach(key)
        obstacle = target.reason if isinstance(target, Obstacle) else None
        failures = 0 if known is None else known.failures
        paused = known is not None and known.paused_at is not None
        tried = known is not None and (known.reached_at is not None or failures > 0)
        limits = self.deliveries.limits(key)
        opens_at = None if limits is None else limits.opens_at(now)
        still = paused or obstacle is not None or failures > 0 or opens_at is not None
        return DestinationView(
            key=key,
            state=_state(queue, flow, obstacle=obstacle is not None, failures=failures, paused=paused),
            reachable=failures == 0 if tried else None,
            problem=obstacle or (None if known is None else known.problem),
            failures=failures,
            opens_at=opens_at,
            backlog=0 if queue is None else queue.deliveries,
            held=0 if queue is None else queue.held,
            instances=0 if queue is None else queue.instances,
            bytes=0 if queue is None else queue.size,
            oldest_request_at=None if queue is None else queue.oldest,
            bytes_per_second=None if queue is None else rate(flow, now),
            empty_in=None if still and queue is not None else seconds_left(queue, flow, now),
            **{name: None if known is None else getattr(known, name) for name in _KNOWN},
        )


_KNOWN = ("retry_at", "reached_at", "failed_at", "paused_by", "paused_at", "paused_why")


def make_destination_router(destinations: Destinations) -> APIRouter:
    """Build the routes."""
    router = APIRouter(tags=["egress"])

    @router.get("/destinations", dependencies=[requires("destinations.read")])
    async def list_destinations(caller: Caller) -> list[DestinationView]:
        return await destinations.views(caller)

    @router.get("/destinations/{key}", dependencies=[requires("destinations.read")])
    async def show_destination(caller: Caller, key: str) -> DestinationDetail:
        return await destinations.detail(caller, key)

    @router.post("/destinations/{key}/pause", dependencies=[_MANAGE])
    async def pause_destination(caller: Caller, key: str, why: Reason | None = None) -> DestinationView:
        await destinations.owned(caller, key)
        await destinations.orders.pause(key, caller.name, None if why is None else why.reason)
        return await destinations.view(caller, key)

    @router.post("/destinations/{key}/resume", dependencies=[_MANAGE])
    async def resume_destination(caller: Caller, key: str) -> DestinationView:
        await destinations.owned(caller, key)
        if (await destinations.view(caller, key)).paused_at is None:
            raise Problem(409, "It does not fit", f"Destination {key} is not paused.")
        await destinations.orders.resume(key)
        return await destinations.view(caller, key)

    @router.post("/destinations/{key}/echo", dependencies=[_TEST])
    async def echo_destination(caller: Caller, key: str) -> EchoResult:
        target = await destinations.seen(caller, key)
        if isinstance(target, FolderTarget):
            ending = await asyncio.to_thread(check, target)
        else:
            ending = await asyncio.to_thread(echo, target, destinations.timeouts)
        return EchoResult(ok=ending.kind == "finished", problem=ending.problem)

    @router.post("/destinations/{key}/test", dependencies=[_TEST])
    async def test_destination(caller: Caller, key: str, wanted: TestWanted | None = None) -> ExaminationView:
        return await destinations.examined(caller, key, store=wanted is not None and wanted.store)

    return router


def _state(queue: Queue | None, flow: Flow | None, *, obstacle: bool, failures: int, paused: bool) -> State:
    if paused:
        return "paused"
    if obstacle:
        return "blocked"
    if failures:
        return "unreachable"
    if queue is None:
        return "idle"
    if queue.held == queue.deliveries:
        return "held"
    return "waiting" if flow is None else "sending"


def _called(target: Target | FolderTarget | PartnerTarget | Obstacle) -> Mapping[str, Any]:
    nothing = dict.fromkeys(("address", "called_aet", "calling_aet", "tls", "associations_allowed"))
    if isinstance(target, FolderTarget):
        return nothing | {"address": str(target.path), "associations_allowed": target.associations}
    if isinstance(target, Obstacle | PartnerTarget):
        return nothing
    return {
        "address": f"{target.host}:{target.port}",
        "called_aet": target.called_aet,
        "calling_aet": target.calling_aet,
        "tls": target.tls is not None,
        "associations_allowed": target.associations,
    }


def _hasty(timeouts: Timeouts) -> Timeouts:
    return Timeouts(
        min(timeouts.connect, _PATIENT),
        min(timeouts.acse, _PATIENT),
        min(timeouts.response, _PATIENT),
        min(timeouts.network, _PATIENT),
    )
