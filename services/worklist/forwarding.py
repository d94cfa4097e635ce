"""Passes performed procedure steps on to the nodes that the network definition names, such as a RIS."""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final

from contracts.definition import Definition
from libs.clock import Clock
from libs.dicom.uid import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from libs.dimse.calling import Callee, Timeouts
from libs.messaging.listen import DATABASE_AWAY
from libs.snapshot import NetworkView
from libs.storage.database import Database
from libs.telemetry import log
from services.worklist import forward_rows, metric
from services.worklist.forward import Backoff
from services.worklist.forward_scu import Carried, Journey, Letter, carry

_LOG = log.get(__name__)
#: Steps of one association.
_AT_ONCE: Final = 50
#: Associations at a time, to different nodes.
_NODES: Final = 8
#: Other replicas' steps fall due without a word to this one, seconds.
_LONGEST_WAIT: Final = 5.0
_IMPLEMENTATION: Final = (IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME)

#: Gives what makes TLS contexts, by the name of the secret with our certificate; a sentence if there is none.
Contexts = Callable[[str | None], "Callable[[], ssl.SSLContext] | str"]


@dataclass
class _Line:
    """What is known of the way to a node."""

    failures: int = 0
    retry_at: datetime | None = None


class Forwarding:
    """The loop. Any number of replicas may run it: each leases what it takes in hand.

    Parameters
    ----------
    contexts
        For nodes that are called with TLS.
    random
        Gives a number in [0, 1).
    """

    def __init__(
        self,
        database: Database,
        network: NetworkView,
        contexts: Contexts,
        *,
        replica: str,
        timeouts: Timeouts,
        backoff: Backoff,
        clock: Clock,
        random: Callable[[], float],
    ) -> None:
        self._database = database
        self._network = network
        self._contexts = contexts
        self._replica = replica
        self._timeouts = timeouts
        self._backoff = backoff
        self._clock = clock
        self._random = random
        self._lines: dict[str, _Line] = {}
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Look at once: there is something to forward. From the event loop only."""
        self._wake.set()

    async def run(self) -> None:
        """Forward until cancelled."""
        try:
            while True:
                self._wake.clear()
                try:
                    wait = await self.look()
                except DATABASE_AWAY as error:
                    metric.FAILURES.labels(kind="forward").inc()
                    _LOG.warning("steps to forward can't be read, trying again", reason=type(error).__name__)
                    wait = _LONGEST_WAIT
                try:
                    # Not `wait_for`: on Python 3.11 it swallows a cancellation that comes together with the wake-up.
                    async with asyncio.timeout(wait):
                        await self._wake.wait()
                except TimeoutError:
                    continue
        finally:
            # Threads can't be ended: what they have in hand is sent once more by whoever comes next.
            for task in self._busy.values():
                task.cancel()

    async def look(self) -> float:
        """Begin to call the nodes for which something is due; give the seconds until there may be more."""
        now = self._clock()
        async with self._database.reading() as tx:
            waiting = await forward_rows.waiting(tx, self._replica, now)
            metric.WAITING.clear()
            for (node, state), count in (await forward_rows.counts(tx)).items():
                metric.WAITING.labels(node=node, state=state).set(count)
        soonest = _LONGEST_WAIT
        for node, due_at in sorted(waiting.items(), key=lambda each: each[1]):
            line = self._lines.setdefault(node, _Line())
            due = max(due_at, line.retry_at or due_at)
            if node in self._busy or len(self._busy) >= _NODES:
                continue
            if due > now:
                soonest = min(soonest, (due - now).total_seconds())
                continue
            task = asyncio.create_task(self._call(node))
            self._busy[node] = task
            task.add_done_callback(partial(self._called, node))
        return soonest

    async def idle(self) -> None:
        """Return when no node is being called."""
        while self._busy:
            await asyncio.wait(list(self._busy.values()))

    def _called(self, node: str, task: "asyncio.Task[None]") -> None:
        del self._busy[node]
        if not task.cancelled() and (error := task.exception()) is not None:
            line = self._lines[node]
            line.failures += 1
            line.retry_at = self._backoff.after(line.failures, self._clock(), self._random)
            metric.FAILURES.labels(kind="forward").inc()
            _LOG.error("steps not forwarded, trying again", node=node, error=type(error).__name__, exc_info=error)
        self._wake.set()

    async def _call(self, node: str) -> None:
        now = self._clock()
        async with self._database.transaction() as tx:
            taken = await forward_rows.lease(tx, node, self._replica, now, _AT_ONCE)
        if not taken:
            return
        async with self._database.reading() as tx:
            letters = await forward_rows.letters(tx, node, taken)
        callee = self._callee(node)
        if isinstance(callee, str):
            journey = Journey((), callee)
        else:
            journey = await asyncio.to_thread(carry, callee, self._timeouts, _IMPLEMENTATION, letters)
        await self._note(node, letters, journey)

    async def _note(self, node: str, letters: list[Letter], journey: Journey) -> None:
        line, now = self._lines[node], self._clock()
        if journey.problem is None:
            line.failures, line.retry_at = 0, None
        else:
            line.failures += 1
            line.retry_at = self._backoff.after(line.failures, now, self._random)
            _LOG.warning(
                "steps not forwarded, trying again",
                node=node,
                reason=journey.problem,
                attempts=line.failures,
                until=line.retry_at,
            )
        carried = {each.mpps_id: each for each in journey.carried}
        left = [letter.mpps_id for letter in letters if letter.mpps_id not in carried]
        async with self._database.transaction() as tx:
            before = await forward_rows.failures(tx, node, list(carried))
            for letter in letters:
                if letter.mpps_id in carried:
                    one = carried[letter.mpps_id]
                    due_at = self._backoff.after(before.get(one.mpps_id, 0) + 1, now, self._random)
                    who = node, one.mpps_id, one.sent, self._replica
                    if one.verdict == "taken":
                        await forward_rows.note_sent(tx, *who, now)
                    elif one.verdict == "refused":
                        await forward_rows.note_refused(tx, *who, one.problem or "", now)
                    else:
                        await forward_rows.note_failed(tx, *who, one.problem or "", due_at, now)
            if left:
                await forward_rows.give_back(
                    tx, node, left, self._replica, journey.problem or "", line.retry_at or now, now
                )
        for letter in letters:
            if letter.mpps_id in carried:
                self._tell(node, letter, carried[letter.mpps_id])

    def _tell(self, node: str, letter: Letter, one: Carried) -> None:
        metric.FORWARDS.labels(outcome=one.verdict).inc()
        if one.verdict == "refused":
            _LOG.error(
                "a performed procedure step is refused by the node that it is forwarded to",
                node=node,
                sop_instance_uid=letter.sop_instance_uid,
                reason=one.problem,
                advice="mend it there, then run `kivuko worklist steps --again UID`",
            )

    def _callee(self, key: str) -> Callee | str:
        """Say whom to call, or why that can't be."""
        snapshot = self._network.current
        if snapshot is None:
            return "there is no network definition yet: run `kivuko apply FILE`"
        return reach(snapshot.definition, key, self._contexts)


def reach(definition: Definition, key: str, contexts: Contexts) -> Callee | str:
    """Tell how a node is reached under a network definition, or why it can't be."""
    node = definition.nodes.get(key)
    if node is None:
        return f"the node {key} is not in the network definition any more: add it again"
    if node.retired:
        return f"the node {key} is retired"
    if node.host is None or node.port is None:
        return f"the node {key} has no host and port to call"
    tls = None
    if node.tls is not False:
        found = contexts(None if node.tls is True else node.tls.client)
        if isinstance(found, str):
            return f"the node {key} asks for TLS: {found}"
        tls = found
    return Callee(node.host, node.port, definition.aet_of(key), definition.aets[0], tls)
