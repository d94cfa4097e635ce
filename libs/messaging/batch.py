"""Many events, one transaction: what is ready is handled together; where that fails, each event alone."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from faststream.rabbit.annotations import RabbitMessage
from opentelemetry import propagate, trace
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.envelope import Event
from libs.clock import Clock
from libs.messaging import inbox
from libs.messaging.ladder import attempt
from libs.messaging.tables import MessagingTables
from libs.messaging.verdict import Verdict, judge, not_begun
from libs.storage.database import Database
from libs.telemetry import log

Handle = Callable[[bytes, AsyncSession, Event[Any]], Awaitable[None]]
Settle = Callable[[RabbitMessage, str | Verdict], Awaitable[None]]

#: Events that share a transaction at most. A consumer holds twice as many, and each death of its process counts against
#: all that it holds: more would bring innocent events nearer to the delivery limit.
TOGETHER = 16
#: Of those that a process held when it ended, so many share a transaction; power cuts end processes, too.
_AGAIN = 8
#: Redeliveries after which each is taken alone: one of them may be what ends the process.
_ALONE = 3
#: How long the handlers of a batch may work before it commits, in seconds: others wait for what it has locked.
HOLD_S = 0.1

_LOG = log.get(__name__)
_TRACER = trace.get_tracer(__name__)


@dataclass(eq=False)
class _Taken:
    """An event at hand: `done` gets its outcome, or the verdict on its failure; `settled` when the broker knows."""

    message: RabbitMessage
    event: Event[Any]
    done: asyncio.Future[str | Verdict] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    settled: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def key(self) -> inbox.Key:
        return self.event.source, self.event.id

    @property
    def suspect(self) -> bool:
        """Whether it has failed before, or a process has ended while it held it."""
        return bool(self.message.raw_message.redelivered) or attempt(self.message.headers) > 0

    @property
    def cut_off(self) -> bool:
        """Whether all that speaks against it is that its process ended, and not often."""
        return attempt(self.message.headers) == 0 and self.redeliveries < _ALONE

    @property
    def redeliveries(self) -> int:
        """How often it was delivered before, as the broker counts it."""
        found = self.message.headers.get("x-delivery-count", 0)
        return found if isinstance(found, int) else 0

    def tell(self, outcome: str | Verdict) -> None:
        if not self.done.done():
            self.done.set_result(outcome)


class Batches:
    """Works off the events of one queue, those that are ready together.

    Nothing waits for a batch to fill, unless it is said how long: an event that comes alone is handled at once. What
    has failed before, or was delivered several times, is handled alone, so that one that always fails or ends the
    process takes no other with it.

    Parameters
    ----------
    queue
        Its name; the inbox is kept by it.
    handle
        Called for each event that was not processed before, one after another, in the transaction of the batch.
    settle
        Called with each message and what became of it: `processed` or `repeated`, or the verdict on its failure.
    database, tables
        Where the inbox is.
    clock
        The time in UTC.
    linger
        How long an event waits for others where nobody waits for what is made of it, in seconds.
    monotonic
        Seconds that only go forward.
    """

    def __init__(
        self,
        queue: str,
        handle: Handle,
        settle: Settle,
        database: Database,
        tables: MessagingTables,
        clock: Clock,
        *,
        linger: float = 0.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = queue
        self._handle = handle
        self._settle = settle
        self._database = database
        self._tables = tables
        self._clock = clock
        self._linger = linger
        self._full = asyncio.Event()
        self._monotonic = monotonic
        self._ready: deque[_Taken] = deque()
        self._held: set[_Taken] = set()
        self._working: asyncio.Task[None] | None = None

    async def process(self, message: RabbitMessage, event: Event[Any]) -> None:
        """Return when the event is settled. Its work was committed before that, or it failed and was handed over."""
        taken = _Taken(message, event)
        self._held.add(taken)
        self._ready.append(taken)
        if len(self._ready) >= TOGETHER:
            self._full.set()
        if self._working is None:
            self._working = asyncio.create_task(self._work())
        try:
            await self._settle(message, await taken.done)
        finally:
            self._held.discard(taken)
            taken.settled.set()

    async def _work(self) -> None:
        await asyncio.sleep(0)  # lets everyone who is ready join the first batch
        try:
            while self._ready:
                await self._gather()
                if self._ready[0].suspect:
                    await self._all_settled()
                batch = self._next()
                try:
                    await self._work_off(batch)
                except Exception as error:  # noqa: BLE001 - it goes to those who wait; the next batch must go on
                    for taken in batch:
                        if not taken.done.done():
                            taken.done.set_exception(error)
        finally:
            self._working = None

    async def _gather(self) -> None:
        """Let others join the next batch, for a while, if there is room in it."""
        if self._linger == 0 or len(self._ready) >= TOGETHER:
            return
        self._full.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._linger):
                await self._full.wait()

    async def _all_settled(self) -> None:
        """Wait until the broker knows what is done: the next event may end the process, and would count against it."""
        for taken in [each for each in self._held if each.done.done()]:
            await taken.settled.wait()

    def _next(self) -> list[_Taken]:
        if self._ready[0].suspect:
            # One of them may end this process each time: what is behind it and what is before it go first in turn.
            suspects = [taken for taken in self._ready if taken.suspect]
            number = _AGAIN if all(taken.cut_off for taken in suspects) else 1
            chosen = suspects[-number:] if suspects[0].redeliveries % 2 else suspects[:number]
            for taken in chosen:
                self._ready.remove(taken)
            return chosen
        batch = [self._ready.popleft()]
        while self._ready and len(batch) < TOGETHER and not self._ready[0].suspect:
            batch.append(self._ready.popleft())
        return batch

    async def _work_off(self, batch: Sequence[_Taken]) -> None:
        if len(batch) > 1:
            try:
                return await self._together(batch)
            except _NotBegunError as error:
                return _tell_all(batch, error.verdict)
            except Exception as error:  # noqa: BLE001 - each event is taken alone, where its own failure is judged
                _LOG.info(
                    "events are handled one by one: together they failed",
                    queue=self._queue, count=len(batch), reason=judge(error).reason,
                )  # fmt: skip
        for number, taken in enumerate(batch):
            try:
                await self._together([taken])
            except _NotBegunError as error:
                # Each would wait for the database as long as this one did.
                return _tell_all(batch[number:], error.verdict)
            except Exception as error:  # noqa: BLE001 - judged; whoever waits logs it and hands it over
                taken.tell(judge(error))
        return None

    async def _together(self, batch: Sequence[_Taken]) -> None:
        # Handlers lock by what events are about: in one order, replicas do not wait for each other crosswise.
        order = sorted(batch, key=lambda taken: (taken.event.tenant, taken.event.subject))
        outcomes: dict[_Taken, str] = {}
        begun = False
        try:
            async with self._database.transaction() as tx:
                new = await inbox.record(
                    tx, self._tables, queue=self._queue, events=[each.key for each in order], now=self._clock()
                )
                begun = True
                end = self._monotonic() + HOLD_S
                for taken in order:
                    if outcomes and self._monotonic() >= end:
                        break
                    with process_span(taken.event, self._queue):
                        if taken.key in new:
                            new.discard(taken.key)
                            await self._handle(taken.message.body, tx, taken.event)
                            outcomes[taken] = "processed"
                        else:
                            outcomes[taken] = "repeated"
                left = [taken for taken in order if taken not in outcomes]
                undone = {taken.key for taken in left} & new
                if undone:
                    await inbox.forget(tx, self._tables, queue=self._queue, events=undone)
        except Exception as error:
            if begun:
                raise
            raise _NotBegunError(not_begun(error)) from error
        self._ready.extendleft(reversed(left))
        for taken, outcome in outcomes.items():
            taken.tell(outcome)


class _NotBegunError(Exception):
    """No handler was called: the database was not to be had."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict


def process_span(event: Event[Any], queue: str) -> Any:
    """Go on in the trace of the producer. What the handler raises is not recorded: its text may hold personal data."""
    carrier = {"traceparent": event.traceparent or "", "tracestate": event.tracestate or ""}
    return _TRACER.start_as_current_span(
        f"process {event.type.removeprefix('kivuko.')}",
        context=propagate.extract(carrier),
        kind=trace.SpanKind.CONSUMER,
        attributes={
            "messaging.operation.type": "process",
            "messaging.destination.name": queue,
            "messaging.message.id": event.id,
        },
        record_exception=False,
    )


def _tell_all(batch: Sequence[_Taken], verdict: Verdict) -> None:
    for taken in batch:
        taken.tell(verdict)
