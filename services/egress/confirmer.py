"""The loop that asks destinations whether they have what they said success for."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from typing import Any, Final, Protocol, TypeVar

from contracts.commitment import CommitmentReported, Committed, NotCommitted
from libs.clock import Clock
from libs.dimse.commitment import Report
from libs.messaging.listen import DATABASE_AWAY
from libs.storage.database import Database
from libs.telemetry import log
from services.egress import calls
from services.egress.asking import Conversation
from services.egress.backoff import Backoff, Circuit, Random
from services.egress.calling import Timeouts
from services.egress.confirmations import Confirmations
from services.egress.deliveries import CONFIRM, Deliveries
from services.egress.finding import Inquiry
from services.egress.reach import Target
from services.egress.settings import EgressSettings

#: Destinations that are asked at a time: one that hangs holds its own thread only.
_AT_ONCE: Final = 32
#: How long a report may take to be written down before the destination is told to come again, in seconds.
_PATIENT: Final = 30.0
#: Seconds after which is looked again where nothing can be asked, though it is due.
_LOOK_AGAIN: Final = 60.0
#: How long what is under way may take when the process is to stop, in seconds.
_GRACE: Final = 5.0
_log = log.get(__name__)
T_co = TypeVar("T_co", covariant=True)


class Call(Protocol[T_co]):
    """One association that asks."""

    def run(self) -> T_co:
        """Ask; in a thread."""
        ...

    def stop(self) -> None:
        """End it soon; from any thread."""
        ...


class Confirmer:
    """Asks destinations to confirm, from this replica; one association with each at a time, besides those that send.

    Parameters
    ----------
    confirmations, deliveries, database, timeouts, settings
        Of egress.
    clock, random
        The time in UTC; a number in [0, 1) for jitter.
    """

    def __init__(
        self,
        confirmations: Confirmations,
        deliveries: Deliveries,
        database: Database,
        *,
        timeouts: Timeouts,
        settings: EgressSettings,
        clock: Clock,
        random: Random,
    ) -> None:
        self._confirmations = confirmations
        self._deliveries = deliveries
        self._database = database
        self._timeouts = timeouts
        self._settings = settings
        self._clock = clock
        self._random = random
        self._backoff = Backoff(settings.backoff_first, settings.backoff_cap)
        #: What is known of asking, besides what is known of sending: who can't confirm may well be sent to.
        self._circuits: dict[str, Circuit] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._conversations: set[Call[Any]] = set()
        self._wake = asyncio.Event()
        database.on_commit(lambda session: self._wake.set() if session.info.get(CONFIRM) else None)

    async def run(self) -> None:
        """Ask until cancelled; then end what is under way. May be run again."""
        self._loop = asyncio.get_running_loop()
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="confirm")
        try:
            await self._confirmations.adopt()
            while True:
                self._wake.clear()
                pause = await self._turn()
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
        finally:
            for conversation in self._conversations:
                conversation.stop()
            if self._running:
                await asyncio.wait(self._running.values(), timeout=_GRACE)
            for task in self._running.values():
                task.cancel()
            self._pool.shutdown(wait=False)

    async def _turn(self) -> float | None:
        """Begin to ask where that is due; give the seconds until it is elsewhere, None if only work can change it."""
        try:
            due = await self._confirmations.due()
            async with self._database.reading() as tx:
                circuits = await calls.circuits(tx)
        except DATABASE_AWAY:
            _log.exception("what is to be confirmed can't be read, trying again")
            return self._settings.poll
        now = self._clock()
        later = []
        for key, first in due.items():
            known, mine = circuits.get(key, Circuit()), self._circuits.get(key, Circuit())
            if key in self._running or known.paused:
                continue
            at = max(first, *(each.retry_at for each in (known, mine) if each.failures and each.retry_at), first)
            if at > now:
                later.append(at)
            elif len(self._running) < _AT_ONCE:
                self._begin(key)
        seconds = max(0.0, (min(later) - now).total_seconds()) if later else _LOOK_AGAIN if due else None
        if self._database.dialect == "postgresql":
            return self._settings.poll if seconds is None else min(self._settings.poll, seconds)
        return seconds

    def _begin(self, key: str) -> None:
        target, node = self._deliveries.reach(key), self._deliveries.node(key)
        if not isinstance(target, Target) or node is None:
            return
        query = self._deliveries.confirm(key) == "query"
        work = self._look(key, target) if query else self._ask(key, node, target)
        task = asyncio.create_task(self._guarded(key, work))
        self._running[key] = task
        task.add_done_callback(lambda ended: self._ended(key, ended))

    def _ended(self, key: str, task: "asyncio.Task[None]") -> None:
        self._running.pop(key, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("asking for confirmation broke off inside; it is taken again", destination=key, exc_info=error)
            self._trouble(key, f"asking broke off inside Kivuko ({type(error).__name__}): report it")
        self._wake.set()

    async def _guarded(self, key: str, work: Coroutine[Any, Any, bool]) -> None:
        try:
            if not await work:
                # Another replica has it in hand. Asking at once would be a busy loop.
                await asyncio.sleep(self._settings.poll)
        except DATABASE_AWAY:
            _log.exception("what is to be confirmed can't be written down, trying again", destination=key)
            self._trouble(key, "the database is away")

    async def _look(self, key: str, target: Target) -> bool:
        """Have a destination show what it has; False if there is nothing to ask for."""
        began = self._clock()
        studies = await self._confirmations.claim_studies(key)
        if not studies:
            return False
        inquiry = Inquiry(target, self._timeouts, list(studies.values()))
        found = await self._run(inquiry)
        again_at = self._judge(key, found.problem)
        await self._confirmations.looked(studies, found, began, again_at)
        return True

    async def _ask(self, key: str, node: str, target: Target) -> bool:
        """Have a destination asked for storage commitment; False if there is nothing to ask for."""
        wanted = await self._confirmations.claim(key, node)
        if not wanted:
            return False

        conversation = Conversation(target, self._timeouts, wanted, self._settings.commit_wait, self.keeper(node))
        found = await self._run(conversation)
        again_at = self._judge(key, found.problem or next(iter(found.refused.values()), None))
        await self._confirmations.asked(wanted, found, again_at)
        return True

    async def _run(self, call: "Call[T_co]") -> T_co:
        """Run an association in a thread of its own."""
        self._conversations.add(call)
        try:
            return await self._loop.run_in_executor(self._pool, call.run)
        finally:
            self._conversations.discard(call)

    def _judge(self, key: str, problem: str | None) -> datetime:
        """Note what is known of asking a destination; give when to ask again what it did not take."""
        if problem is None:
            self._circuits.pop(key, None)
            return self._clock()
        _log.warning("a destination could not be asked to confirm", destination=key, reason=problem)
        return self._trouble(key, problem)

    def _trouble(self, key: str, problem: str) -> datetime:
        now = self._clock()
        circuit = self._circuits.get(key, Circuit()).failed(problem, now, self._backoff, self._random)
        self._circuits[key] = circuit
        return circuit.retry_at or now

    def keeper(self, node: str) -> Callable[[Report], bool]:
        """Give what writes down reports of a node, in the thread that took them; False if that can't be done now."""
        return lambda report: self._kept(node, report)

    def _kept(self, node: str, report: Report) -> bool:
        fact = CommitmentReported(
            transaction_uid=report.transaction_uid,
            node=node,
            committed=tuple(
                Committed(sop_class_uid=each.sop_class_uid, sop_instance_uid=each.sop_instance_uid)
                for each in report.committed
            ),
            failed=tuple(
                NotCommitted(
                    sop_class_uid=each.sop_class_uid, sop_instance_uid=each.sop_instance_uid, failure_reason=each.reason
                )
                for each in report.failed
            ),
        )
        written: Future[None] = asyncio.run_coroutine_threadsafe(self._confirmations.reported_here(fact), self._loop)
        try:
            written.result(_PATIENT)
        except (*DATABASE_AWAY, TimeoutError, CancelledError):
            # Too late for the destination's patience; if it is written down after all, that is as good.
            _log.exception("a report of storage commitment can't be written down: it has to come again", node=node)
            return False
        return True
