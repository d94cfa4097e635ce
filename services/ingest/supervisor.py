"""Receivers: starts them, hands connections to them, and takes up what one that died has left behind."""

import asyncio
import itertools
import secrets
import socket
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from libs.dimse import command as commands
from libs.dimse.doorstep import Doorstep
from libs.telemetry import log
from services.ingest import metric
from services.ingest.arrival import Entry
from services.ingest.disk import SpoolFullError, SpoolUnavailableError
from services.ingest.lane import Handover, Lane
from services.ingest.pace import Pace
from services.ingest.reception import Reception
from services.ingest.wire import Message, Setup

_LOG = log.get(__name__)
#: Seconds before a receiver that died is started again, by how often that happened in a row.
_PAUSES: Final = (0.0, 0.5, 1.0, 2.0, 5.0)
#: One that lived so long had not failed to start.
_SETTLED: Final = 60.0
_READY_TIMEOUT: Final = 30.0
#: Seconds from an arrival to the look at how many wait.
_LOOK: Final = 0.05
#: Connections that wait while there is no receiver at all.
_MOST_HELD: Final = 64


class ReceiverFailedError(Exception):
    """A receiver process does not start. The text says what to do."""

    safe_to_log = True


@dataclass
class _Receiver:
    number: int
    folder: Path
    lane: Lane
    began: float
    failures: int
    #: Whether it was told its folder: one that was not has nothing in it.
    configured: bool = False
    #: Why it does not start, in its own words.
    reason: str = ""
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    #: Source addresses of its connections, by number.
    connections: dict[int, str] = field(default_factory=dict)
    #: What `barrier` waits for, by number.
    syncs: dict[int, asyncio.Event] = field(default_factory=dict)


class Supervisor:
    """The receivers of this replica. From one event loop only.

    Parameters
    ----------
    setup
        What each is told, but for its folder and its run.
    spool
        The folder of their folders.
    count
        How many there are.
    reception
        Answers and keeps what they say.
    doorstep
        Bounds the connections that nobody has been admitted on.
    pace
        Says how long answers are held back.
    left
        Reads what a receiver that died has left in its folder, but for the arrivals that are known. It blocks, and
        raises SpoolUnavailableError, SpoolFullError or OSError.
    silence
        Seconds without an answer after which a receiver hangs: it is killed, and another takes its place.
    """

    def __init__(
        self,
        setup: Setup,
        spool: Path,
        count: int,
        *,
        reception: Reception,
        doorstep: Doorstep,
        pace: Pace,
        left: Callable[[Path, set[str]], list[Entry]],
        silence: float = 30.0,
    ) -> None:
        self._setup = setup
        self._spool = spool
        self._count = count
        self._reception = reception
        self._doorstep = doorstep
        self._pace = pace
        self._left = left
        self._silence = silence
        self._started = False
        self._trouble = ""
        self._receivers: dict[Lane, _Receiver] = {}
        self._leaving: dict[Lane, _Receiver] = {}
        self._of: dict[int, _Receiver] = {}
        self._held: list[tuple[socket.socket, str, int, bool]] = []
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._pacing: asyncio.TimerHandle | None = None
        self._stopping = False
        self._loop = asyncio.get_running_loop()

    def spawn(self) -> None:
        """Start the processes: they load while this one is still busy with the spool."""
        for number in range(self._count):
            self._begin(number, failures=0)

    async def start(self) -> None:
        """Have them take connections. Raises ReceiverFailedError."""
        self._started = True
        for receiver in self._receivers.values():
            self._configure(receiver)
        try:
            async with asyncio.timeout(_READY_TIMEOUT):
                while waiting := [each for each in self._receivers.values() if not each.ready.is_set()]:
                    await waiting[0].ready.wait()
        except TimeoutError as error:
            why = self._trouble or "see the log, and whether this machine has memory for them"
            raise ReceiverFailedError(f"the receiver processes do not start: {why}") from error
        self._task(self._watch())

    async def stop(self) -> None:
        """Abort what is open, and end: nothing of an unfinished request was acknowledged."""
        self._stopping = True
        if self._pacing is not None:
            self._pacing.cancel()
        for connected, *_ in self._held:
            connected.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(lane.stop() for lane in list(self._receivers)))

    async def barrier(self) -> None:
        """Return when everything is known that was acknowledged before the call.

        A receiver that hangs is killed, and one that died counts until what it left is taken up: as long as that can't
        be read, nobody can tell what was acknowledged.
        """
        waits = []
        for lane, receiver in [*self._receivers.items(), *self._leaving.items()]:
            number = next(self._numbers)
            receiver.syncs[number] = event = asyncio.Event()
            lane.send({"kind": "sync", "number": number})
            waits.append((receiver, event))
        until = self._loop.time() + self._silence
        for receiver, event in waits:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await event.wait()
            if not event.is_set() and receiver.ready.is_set() and receiver.lane in self._receivers:
                _LOG.error("receiver hangs, killed", item=receiver.lane.name, pid=receiver.lane.pid)
                receiver.lane.kill()
            await event.wait()

    def take(self, connected: socket.socket, address: str, port: int, tls: bool) -> None:
        """Hand a connection to the receiver that has fewest; one that is still starting takes it when it has."""
        if not self._receivers:
            self._hold_connection(connected, address, port, tls)
            return
        receiver = min(self._receivers.values(), key=lambda each: (not each.ready.is_set(), len(each.connections)))
        number = next(self._numbers)
        leaves = self._doorstep.enter(number, address)
        if leaves is not None:
            self._of[leaves].lane.send({"kind": "drop", "id": leaves})
        receiver.connections[number] = address
        self._of[number] = receiver
        receiver.lane.send(
            {"kind": "connection", "id": number, "address": address, "port": port, "tls": tls}, connected
        )

    def _begin(self, number: int, *, failures: int) -> _Receiver:
        name = f"receiver-{number}"
        lane = Lane(name, self._said, self._lost)
        receiver = _Receiver(number, self._spool / name, lane, time.monotonic(), failures)
        self._receivers[lane] = receiver
        return receiver

    def _configure(self, receiver: _Receiver) -> None:
        setup = replace(self._setup, folder=str(receiver.folder), run=secrets.token_hex(4))
        receiver.lane.send({"kind": "configure", "setup": asdict(setup)})
        receiver.configured = True
        held, self._held = self._held, []
        for connection in held:
            self.take(*connection)

    def _hold_connection(self, connected: socket.socket, address: str, port: int, tls: bool) -> None:
        """Keep a connection until there is a receiver again: the sender only waits a little longer."""
        if self._stopping or len(self._held) >= _MOST_HELD:
            connected.close()
            metric.ASSOCIATIONS.labels(outcome="no-receiver").inc()
        else:
            self._held.append((connected, address, port, tls))

    def _said(self, lane: Lane, message: Message) -> None:
        receiver = self._receivers[lane]
        kind = message["kind"]
        if kind == "spooled":
            self._reception.spooled(receiver.folder, message)
            if self._pacing is None:
                self._pacing = self._loop.call_later(_LOOK, self._hold)
        elif kind == "answered":
            self._reception.answered(message)
        elif kind == "dropped":
            self._reception.dropped(message)
        elif kind == "log":
            self._reception.say(message)
        elif kind == "synced":
            receiver.syncs.pop(message["number"]).set()
        elif kind == "ready":
            receiver.ready.set()
            lane.send({"kind": "pace", "seconds": self._pace.seconds})
        elif kind == "gone":
            self._ended(receiver, message)
        elif kind == "failed":
            receiver.reason = message["reason"]
        else:
            self._answer(receiver, message)

    def _answer(self, receiver: _Receiver, message: Message) -> None:
        kind, call = message["kind"], message["call"]
        if kind == "admit":
            answer = self._reception.admit(receiver.lane.name, message)
            if answer.get("session") is not None:
                self._doorstep.leave(message["id"])
            receiver.lane.send({"kind": "answer", "call": call, **answer})
        elif kind == "take":
            seconds = self._reception.take(message["association"])
            receiver.lane.send({"kind": "answer", "call": call, "seconds": seconds})
        elif kind == "closed":
            self._reception.closed(message["association"], message["how"])
            receiver.lane.send({"kind": "answer", "call": call})
        elif kind == "report":
            self._task(self._report(receiver, message))
        else:
            self._task(self._expect(receiver, message))

    async def _expect(self, receiver: _Receiver, message: Message) -> None:
        answer = await self._reception.expect(receiver.lane.name, receiver.folder, message)
        receiver.lane.send({"kind": "answer", "call": message["call"], **answer})

    async def _report(self, receiver: _Receiver, message: Message) -> None:
        status = commands.PROCESSING_FAILURE
        try:
            status = await self._reception.report(message)
        finally:
            # After a defect too: an archive that is told of a failure comes again, one that waits does not.
            receiver.lane.send({"kind": "answer", "call": message["call"], "status": status})

    def _ended(self, receiver: _Receiver, message: Message) -> None:
        number = message["id"]
        address = receiver.connections.pop(number)
        self._doorstep.leave(number)
        del self._of[number]
        if message["association"] is not None:
            # Known already, unless it ended by a defect.
            self._reception.closed(message["association"], message["how"])
        elif not self._stopping:
            self._reception.gone(address, message)

    def _hold(self) -> None:
        """Tell the receivers how fast to answer, when that has changed, and look again while it is slow."""
        self._pacing = None
        if self._pace.changed():
            for lane in self._receivers:
                lane.send({"kind": "pace", "seconds": self._pace.seconds})
        if self._pace.seconds > 0:
            self._pacing = self._loop.call_later(self._pace.seconds, self._hold)

    def _lost(self, lane: Lane, left: list[Handover]) -> None:
        receiver = self._receivers.pop(lane)
        for number in receiver.connections:
            self._doorstep.leave(number)
            del self._of[number]
        if self._stopping:
            self._reception.lost(lane.name)
        else:
            self._leaving[lane] = receiver
            self._task(self._replace(receiver))
        for said, connected in left:
            # It never knew of them: another takes them, or the next one.
            self.take(connected, said["address"], said["port"], said["tls"])

    async def _replace(self, receiver: _Receiver) -> None:
        lane = receiver.lane
        code = await lane.gone()
        metric.FAILURES.labels(kind="alarm").inc()
        self._trouble = receiver.reason
        said = {"reason": receiver.reason} if receiver.reason else {}
        _LOG.error("receiver died, another takes its place", item=lane.name, pid=lane.pid, code=code, **said)
        if receiver.configured:
            await self._take_up(receiver)
        self._reception.lost(lane.name)
        del self._leaving[lane]
        for event in receiver.syncs.values():
            event.set()
        failures = 0 if time.monotonic() - receiver.began > _SETTLED else receiver.failures + 1
        await asyncio.sleep(_PAUSES[min(failures, len(_PAUSES) - 1)])
        another = self._begin(receiver.number, failures=failures)
        if self._started:
            self._configure(another)

    async def _take_up(self, receiver: _Receiver) -> None:
        """Have everything indexed that a receiver has left, however long it takes until it can be read."""
        for pause in itertools.chain(_PAUSES[1:], itertools.repeat(_PAUSES[-1])):
            try:
                entries = await asyncio.to_thread(self._left, receiver.folder, self._reception.known())
            except (SpoolUnavailableError, SpoolFullError, OSError) as error:
                metric.FAILURES.labels(kind="alarm").inc()
                safe = str(error) if getattr(type(error), "safe_to_log", False) else type(error).__name__
                _LOG.error(
                    "what a receiver left can't be read, tried again: no study is complete meanwhile",
                    item=receiver.lane.name,
                    reason=safe,
                    delay=pause,
                )
                await asyncio.sleep(pause)
            else:
                break
        for entry in entries:
            self._reception.take_up(entry)

    async def _watch(self) -> None:
        """Find a receiver that hangs, though nobody waits for it."""
        while True:
            await asyncio.sleep(self._silence)
            await self.barrier()

    def _task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            metric.FAILURES.labels(kind="alarm").inc()
            _LOG.error("receivers not looked after, by a defect", exc_info=error)
