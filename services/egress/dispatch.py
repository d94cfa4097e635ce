"""What this replica sends to one destination: its shelf, its associations, and the answers that it writes down."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Executor
from datetime import datetime
from typing import Any

from libs.messaging.listen import DATABASE_AWAY
from libs.telemetry import log
from libs.telemetry.trace import link_to, study_context, tracer
from services.egress import metric
from services.egress.backoff import Circuit
from services.egress.calling import Ending, Timeouts
from services.egress.claim import Stretch, ended
from services.egress.filing import Filing
from services.egress.folder import FolderTarget, Owner
from services.egress.journal import Journal
from services.egress.limits import Limits, Paces
from services.egress.outcome import ARRIVED, Outcome
from services.egress.parcel import Parcel, Readable
from services.egress.preparation import Preparation
from services.egress.reach import Target
from services.egress.scu import WINDOW, Call
from services.egress.settings import EgressSettings
from services.egress.shelf import Shelf
from services.egress.target import Carrier
from services.egress.transforming import Transforming
from services.egress.work import Work

_log = log.get(__name__)
_tracer = tracer(__name__)
#: How long nothing is asked for after nothing was found, at first; in seconds.
_SHORTEST_PAUSE = 0.02
#: How long answers are gathered that are written down together; in seconds.
_GATHER = 0.1


class Dispatch:
    """All that goes to one destination from this replica.

    Parameters
    ----------
    key
        Of the destination.
    work, objects, timeouts, settings
        As for the sender.
    paces
        Caps in use.
    windowless
        Destinations that are not asked for a window; added to.
    journal
        Keeps successes until they are written down.
    pool
        Runs associations.
    wake
        Called when there may be something to do; in the event loop.
    transforming
        Makes what must be changed ready; none: nothing can be.
    """

    def __init__(
        self,
        key: str,
        work: Work,
        objects: Readable,
        timeouts: Timeouts,
        settings: EgressSettings,
        paces: Paces,
        windowless: set[str],
        journal: Journal,
        pool: Executor,
        wake: Callable[[], None],
        transforming: Transforming | None = None,
    ) -> None:
        self.key = key
        self._work = work
        self._objects = objects
        self._timeouts = timeouts
        self._settings = settings
        self._paces = paces
        self._windowless = windowless
        self._journal = journal
        self._pool = pool
        self._wake = wake
        self._loop = asyncio.get_running_loop()
        self._shelf = Shelf(settings.hold // 2, self._wake_soon)
        self._preparation = Preparation(key, transforming, self._tenant_of, self)
        self._calls: dict[asyncio.Future[Ending], Carrier] = {}
        self._stretches: dict[str, Stretch] = {}
        self._lock = threading.Lock()
        self._told: list[tuple[Parcel, Outcome]] = []
        self._endings: list[Ending] = []
        self._left: list[str] = []
        self._returned: list[Parcel] = []
        self._accepted: dict[tuple[str, str], bool] | None = None
        self._recording: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[None] | None = None
        self._stopping = False
        self._resting = False
        self._later = False
        self._more = True
        self._pause = _SHORTEST_PAUSE
        #: How often was asked: what was read before the last time is out of date.
        self.claims = 0
        #: An association went wrong, and that is not written down yet: what is known of the destination is out of date.
        self._troubled = False

    @property
    def idle(self) -> bool:
        """Whether nothing is in hand and nothing under way."""
        under_way = self._recording or self._later or self._asking or self._resting
        return not (self._calls or self._shelf or self._preparation or self._stretches or under_way)

    @property
    def associations(self) -> int:
        """How many associations there are."""
        return len(self._calls)

    def turn(
        self,
        target: Target | FolderTarget,
        limits: Limits,
        circuit: Circuit,
        urgency: int | None,
        room: int,
        now: datetime,
    ) -> None:
        """Take in hand what is due and call.

        Parameters
        ----------
        target, limits, circuit
            How the destination is reached, what limits it, and what is known of reaching it.
        urgency
            The most urgent lane of what is due there and in nobody's hand; none if nothing is.
        room
            Associations that this process may begin.
        now
            The time, UTC.
        """
        if self._stopping or self._troubled:
            return
        allowed = circuit.allowance(now, target.associations)
        if not allowed and not self._calls:
            # Taken in hand while it became known that nothing gets through.
            self.give_back()
        held = self._shelf.urgency()
        wanted = (
            not self._resting
            and urgency is not None
            and (
                len(self._shelf) + len(self._preparation) < self._settings.hold // 2
                or (held is not None and urgency < held)
            )
        )
        if urgency is not None:
            # Said while there was no room for it: it is asked for once there is.
            self._more = True
        if wanted and (allowed or self._calls) and self._asking is None:
            self._asking = self._task(self._take_in_hand())
        waiting = self._shelf.unattended
        begun = 0
        while begun < min(room, waiting) and len(self._calls) < allowed:
            self._begin(target, limits)
            begun += 1

    async def stop(self, grace: float) -> None:
        """Let what is under way come to its end, for so many seconds, and write everything down."""
        self._stopping = True
        self._shelf.close()
        for call in self._calls.values():
            call.stop()
        if self._calls:
            _, late = await asyncio.wait(self._calls, timeout=grace)
            for each in late:
                self._calls[each].abort()
            if late:
                await asyncio.wait(late)
        if self._asking is not None:
            await asyncio.wait([self._asking])
        self.give_back()
        await self._preparation.stop()
        await asyncio.sleep(0)
        while self._recording is not None:
            await asyncio.wait([self._recording])

    def give_back(self) -> None:
        """Put what is on the shelf into nobody's hand."""
        returned = self._shelf.remove() + self._preparation.remove()
        if returned:
            self._returned += returned
            self._record_soon()

    def renew(self) -> None:
        """Put into nobody's hand what was made ready by what the destination's transform no longer says."""
        if self._preparation.outdated():
            self.give_back()

    def pause(self) -> None:
        """Let nothing begin for now; what is under way comes to its end."""
        self.give_back()
        for call in self._calls.values():
            call.stop()

    def _bytes_in_hand(self) -> int:
        return sum(stretch.bytes_in_hand for stretch in self._stretches.values())

    @property
    def deliveries(self) -> Iterable[str]:
        """The deliveries of which something is in hand."""
        return [key for key, stretch in self._stretches.items() if stretch.in_hand]

    def take_off(self, stopped: set[str]) -> None:
        """Put what is on the shelf of these deliveries into nobody's hand: a person stopped them."""
        returned = []
        if stopped:
            returned = self._shelf.remove(lambda parcel: parcel.delivery_id in stopped)
            returned += self._preparation.remove(lambda parcel: parcel.delivery_id in stopped)
        if returned:
            self._returned += returned
            self._record_soon()

    def abandon(self) -> None:
        """End everything at once: this replica was taken for dead, and what it held is others' now."""
        # Its leases are gone, but it must not believe for ever that it still has them in hand.
        self.give_back()
        for call in self._calls.values():
            call.abort()

    async def _take_in_hand(self) -> None:
        try:
            if self._accepted is None:
                self._accepted = await self._work.accepted(self.key)
            parcels = await self._work.claim(self.key, self._settings.hold, self._stretches, self._bytes_in_hand())
        except DATABASE_AWAY:
            _log.exception("deliveries can't be taken, trying again", destination=self.key)
            parcels = []
        finally:
            self._asking = None
            self.claims += 1
        self._shelf.put(self._preparation.begin(parcels))
        # Fewer than it may have: there is no more, and whoever makes more says so.
        self._more = len(parcels) >= self._settings.hold
        if parcels:
            self._pause = _SHORTEST_PAUSE
        else:
            # They were taken in hand meanwhile, or another replica has them. Asking at once would be a busy loop.
            self._resting = True
            self._loop.call_later(self._pause, self._rested)
            self._pause = min(2 * self._pause, self._settings.poll)

    def _rested(self) -> None:
        self._resting = False
        self._wake()

    def _carrier(self, target: Target | FolderTarget, limits: Limits) -> Carrier:
        if isinstance(target, FolderTarget):
            return Filing(
                target,
                self._shelf,
                self._objects,
                self._tell,
                self._owner_of,
                linger=self._settings.linger,
                paces=self._paces.of(limits),
            )
        return Call(
            target,
            self._shelf,
            self._objects,
            self._timeouts,
            self._tell,
            accepted=self._accepted,
            learned=self._learned,
            linger=self._settings.linger,
            paces=self._paces.of(limits),
            window=1 if self.key in self._windowless else WINDOW,
        )

    def _owner_of(self, parcel: Parcel) -> Owner:
        # It is there as long as anything of the delivery is in hand.
        stretch = self._stretches[parcel.delivery_id]
        return Owner(stretch.tenant, parcel.study_instance_uid or stretch.study_instance_uid)

    def _begin(self, target: Target | FolderTarget, limits: Limits) -> None:
        call = self._carrier(target, limits)
        placeholder = asyncio.create_task(self._run(call, target, limits))
        self._calls[placeholder] = call
        placeholder.add_done_callback(self._ended)

    async def _run(self, call: Carrier, target: Target | FolderTarget, limits: Limits) -> Ending:
        try:
            placed = await self._work.take_place(self.key, target.associations, limits.shared)
        except DATABASE_AWAY:
            _log.exception("no association can be begun, trying again", destination=self.key)
            placed = False
        if not placed:
            await asyncio.sleep(self._settings.poll)
            return Ending("stopped", "other replicas have all associations that there may be")
        with _tracer.start_as_current_span("association", attributes={"kivuko.destination": self.key}) as span:
            ending = await self._loop.run_in_executor(self._pool, call.run)
            span.set_attribute("kivuko.outcome", ending.kind)
        if ending.kind == "unreachable" and isinstance(call, Call) and not call.answered:
            # There are receivers that drop the connection of who asks for a window, at the first request.
            self._windowless.add(self.key)
        said = _log.info if ending.kind in ("finished", "stopped") else _log.warning
        said("association ended", destination=self.key, kind=ending.kind, reason=ending.problem)
        self._note(ending)
        self._left += dict.fromkeys((self.key, *limits.shared))
        return ending

    def _note(self, ending: Ending) -> None:
        self._endings.append(ending)
        for stretch in self._stretches.values():
            stretch.problem = stretch.problem or ending.problem

    def _ended(self, call: "asyncio.Future[Ending]") -> None:
        del self._calls[call]
        error = None if call.cancelled() else call.exception()
        if error is not None:
            _log.error("sending broke off inside", destination=self.key, exc_info=error)
            self._note(Ending("unreachable", f"sending broke off inside Kivuko ({type(error).__name__}): report it"))
        if self._endings and self._endings[-1].kind not in ("finished", "stopped"):
            self._troubled = True
            self._returned += self._shelf.remove()
        self._record_soon()
        self._wake()

    def _tenant_of(self, parcel: Parcel) -> str:
        return self._stretches[parcel.delivery_id].tenant

    def ready(self, parcel: Parcel) -> None:
        """Put an instance on the shelf that was made ready."""
        self._shelf.put([parcel])
        self._wake()

    def told(self, parcel: Parcel, outcome: Outcome) -> None:
        """Take what became of an instance that could not be made ready."""
        self._tell(parcel, outcome)

    def back(self, parcel: Parcel, ending: Ending | None = None) -> None:
        """Put an instance into nobody's hand; with an ending, the destination rests before it is tried again."""
        self._returned.append(parcel)
        if ending is not None:
            self._note(ending)
            self._troubled = True
        self._record_soon()

    def _tell(self, parcel: Parcel, outcome: Outcome) -> None:
        parcel = self._preparation.original(parcel)
        if outcome.verdict in ARRIVED:
            # Before the next one begins: a kill costs what is under way, and no more.
            try:
                self._journal.note(parcel, outcome)
            except OSError as error:
                _log.error("an answer is not in the journal: a kill now would send its instance again", exc_info=error)
        with self._lock:
            self._told.append((parcel, outcome))
            first = len(self._told) == 1
        if first:
            self._loop.call_soon_threadsafe(self._record_later)

    def _wake_soon(self) -> None:
        if self._more:
            self._loop.call_soon_threadsafe(self._wake)

    def _learned(self, answers: Mapping[tuple[str, str], bool]) -> None:
        self._loop.call_soon_threadsafe(self._learn, answers)

    def _learn(self, answers: Mapping[tuple[str, str], bool]) -> None:
        known = self._accepted or {}
        new = {pair: answer for pair, answer in answers.items() if known.get(pair) is not answer}
        if new:
            self._accepted = known | new
            self._task(self._write_learned(new))

    async def _write_learned(self, new: Mapping[tuple[str, str], bool]) -> None:
        try:
            await self._work.learn(self.key, new)
        except DATABASE_AWAY:
            _log.exception("what a destination accepts was not written down: it is learned again", destination=self.key)

    def _task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        task.add_done_callback(self._worked)
        return task

    def _worked(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a step of a delivery broke off inside; it is taken again later", exc_info=error)
        self._wake()

    def _record_later(self) -> None:
        # Nobody waits for it, and others are about to be told: they are written down in one go. The journal has them.
        if self._recording is None and not self._later:
            self._later = True
            self._loop.call_later(_GATHER, self._record_soon)

    def _record_soon(self) -> None:
        self._later = False
        if self._recording is None and (self._told or self._endings or self._returned):
            self._recording = asyncio.create_task(self._record())
            self._recording.add_done_callback(self._recorded)

    async def _record(self) -> None:
        """Write down what has been told, and all that is told meanwhile once no more is on its way."""
        while True:
            with self._lock:
                told = self._told[: self._settings.record_items]
                del self._told[: len(told)]
            endings, self._endings = self._endings, []
            returned, self._returned = self._returned, []
            left, self._left = self._left, []
            over = ended(self._stretches, told, returned, calling=bool(self._calls))
            while True:
                try:
                    await self._work.settle(self.key, told, returned, over, endings, left, self._stretches)
                except Exception:  # noqa: BLE001 - an answer that is not written down is sent again: it is kept here
                    _log.exception("answers can't be written down, trying again", destination=self.key)
                    await asyncio.sleep(self._settings.poll)
                else:
                    break
            self._journal.settled(parcel.item for parcel, _ in told)
            self._preparation.forget([*(parcel.item for parcel, _ in told), *(each.item for each in returned)])
            self._troubled = bool(self._endings)
            self._count(told, over, endings)
            if endings or returned:
                self._wake()
            if not self._due():
                return

    def _due(self) -> bool:
        """Whether something is to be written down for which no other is worth waiting."""
        full = len(self._told) >= (self._settings.record_items if self._calls else 1)
        return bool(full or self._endings or self._returned)

    def _recorded(self, recording: "asyncio.Task[None]") -> None:
        self._recording = None
        if not recording.cancelled() and (error := recording.exception()) is not None:
            _log.error("answers were not written down by a defect; they are sent again", exc_info=error)
        if self._due():
            self._record_soon()
        elif self._told:
            self._record_later()
        elif self.idle:
            self._wake()

    def _count(self, told: list[tuple[Parcel, Outcome]], over: list[Stretch], endings: list[Ending]) -> None:
        metric.count_outcomes(self.key, (outcome for _, outcome in told))
        for ending in endings:
            metric.ASSOCIATIONS.labels(self.key, ending.kind).inc()
        for stretch in over:
            _trace(stretch)
            if stretch.damaged:
                _log.error("instances damaged in the object store", delivery=stretch.delivery_id, count=stretch.damaged)


def _trace(stretch: Stretch) -> None:
    with _tracer.start_as_current_span(
        "delivery attempt",
        context=study_context(stretch.tenant, stretch.study_instance_uid),
        links=link_to(stretch.traceparent),
        start_time=int(stretch.started_at.timestamp() * 1e9),
        attributes={
            "kivuko.destination": stretch.destination,
            "kivuko.attempt": stretch.attempt,
            "kivuko.instances": stretch.sent + len(stretch.unsent),
            "kivuko.count": stretch.sent,
        },
    ):
        pass
