"""The embedded transport's engine: one thread that commits for all, and timers instead of polling."""

import asyncio
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from aio_pika.exceptions import AMQPConnectionError, ConnectionClosed

from libs.messaging.lock import FileLock
from libs.messaging.store import NotDeclaredError, Store
from libs.telemetry import log

T = TypeVar("T")
_LOG = log.get(__name__)
#: Pauses before something that must be settled is tried again on a file that cannot be written.
_PAUSES_S = (0.1, 0.5, 1.0, 5.0, 15.0)
#: A timer further away is set again later: the machine's clock may be put right meanwhile.
_LONGEST_TIMER_S = 3600.0


class BusUnavailableError(AMQPConnectionError):
    """The bus file cannot be written now: nothing of what was asked has happened."""

    safe_to_log = True

    def __init__(self, path: Path, cause: sqlite3.Error) -> None:
        super().__init__(
            f"The message bus {path} could not be written ({cause}): nothing was accepted. Check that its disk has "
            f"room and is writable (`kivuko doctor`); what is kept is not touched, and sending is tried again."
        )


@dataclass
class _Request:
    operation: Callable[[Store], Any]
    patient: bool
    done: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    tries: int = 0


class Bus:
    """Runs operations on the store. What is asked while a commit is under way shares the next one.

    Parameters
    ----------
    path
        The file; `path.lock` beside it keeps other processes off.
    time
        Seconds since 1970.
    """

    def __init__(self, path: Path, time: Callable[[], float]) -> None:
        self.path = path
        self._time = time
        self._store = Store(path, time)
        self._lock = FileLock(path)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kivuko-bus")
        self._requests: list[_Request] = []
        self._resting: dict[asyncio.TimerHandle, _Request] = {}
        self._flushing: asyncio.Task[None] | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._wakers: dict[str, set[Callable[[], None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = False
        self._patience = True

    async def open(self) -> None:
        """Take the lock, open the file, recover.

        Raises
        ------
        libs.messaging.lock.LockedError
            Another process has the bus.
        BusUnavailableError
            The file cannot be opened.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock.acquire()
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._thread, self._store.open)
            await loop.run_in_executor(self._thread, _sync_folder, self.path.parent)
        except sqlite3.Error as error:
            self._lock.release()
            raise BusUnavailableError(self.path, error) from error
        self._open = True
        self._set_expiry(await loop.run_in_executor(self._thread, self._store.next_expiry))

    async def close(self) -> None:
        """Finish what was asked, give up what keeps failing, close the file. The messages themselves stay."""
        if not self._open:
            return
        self.lose_patience()
        self._open = False
        if self._expiry is not None:
            self._expiry.cancel()
        while self._flushing is not None:
            await asyncio.wait({self._flushing})
        await asyncio.get_running_loop().run_in_executor(self._thread, self._store.close)
        self._thread.shutdown()
        self._lock.release()

    def lose_patience(self) -> None:
        """From now on fail what cannot be written, instead of trying again; the end is near."""
        self._patience = False
        for timer, request in self._resting.items():
            timer.cancel()
            self._fail(request, self._closed())
        self._resting.clear()

    @property
    def is_open(self) -> bool:
        """Whether operations are taken."""
        return self._open

    def watch(self, queue: str, wake: Callable[[], None]) -> None:
        """Call `wake` whenever the queue has got something to deliver."""
        self._wakers.setdefault(queue, set()).add(wake)

    def unwatch(self, queue: str, wake: Callable[[], None]) -> None:
        """Stop calling `wake`."""
        self._wakers.get(queue, set()).discard(wake)

    async def run(self, operation: Callable[[Store], T], *, patient: bool = False) -> T:
        """Run an operation in the next commit and return its result when that commit is on stable storage.

        Parameters
        ----------
        operation
            What to do. It must fail, if it fails, before it changes anything.
        patient
            Try again for as long as it takes when the file cannot be written: for what settles messages.

        Raises
        ------
        BusUnavailableError
            The file could not be written, and `patient` is false.
        ConnectionClosed
            The bus is closed.
        """
        if not self._open:
            raise self._closed()
        request = _Request(operation, patient)
        self._enqueue(request)
        result: T = await request.done
        return result

    def _enqueue(self, request: _Request) -> None:
        self._requests.append(request)
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())

    async def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0)  # lets everyone who is ready to ask join the first commit
        try:
            while self._requests:
                batch, self._requests = self._requests, []
                outcome = await loop.run_in_executor(self._thread, self._commit, batch)
                parts = _parts(batch, outcome)
                if not parts:
                    self._resolve(batch, outcome)
                for part in parts:
                    self._resolve(part, await loop.run_in_executor(self._thread, self._commit, part))
        finally:
            self._flushing = None

    def _commit(self, batch: list[_Request]) -> "_Committed | Exception":
        results: list[Any] = []
        try:
            self._store.begin()
            for request in batch:
                try:
                    results.append(request.operation(self._store))
                except NotDeclaredError as error:
                    results.append(error)
            expiry = self._store.next_expiry()
            self._store.commit()
        except Exception as error:  # noqa: BLE001 - it goes to those who asked; the bus must go on for the others
            try:
                self._store.rollback()
            except sqlite3.Error as second:
                _LOG.error("a failed commit could not be undone yet; it is before the next one", exc_info=second)
            return error
        woken, self._store.woken = self._store.woken, set()
        return _Committed(results, woken, expiry)

    def _resolve(self, batch: list[_Request], outcome: "_Committed | Exception") -> None:
        if not isinstance(outcome, _Committed):
            _LOG.error("the message bus could not be written", exc_info=outcome, count=len(batch))
            for request in batch:
                if not isinstance(outcome, sqlite3.Error):
                    self._fail(request, outcome)
                elif request.patient and self._patience:
                    self._rest(request)
                else:
                    self._fail(request, BusUnavailableError(self.path, outcome))
            return
        for request, result in zip(batch, outcome.results, strict=True):
            if isinstance(result, NotDeclaredError):
                self._fail(request, result)
            elif not request.done.done():
                request.done.set_result(result)
        for queue in outcome.woken:
            for wake in self._wakers.get(queue, ()):
                wake()
        self._set_expiry(outcome.expiry)

    def _rest(self, request: _Request) -> None:
        pause = _PAUSES_S[min(request.tries, len(_PAUSES_S) - 1)]
        request.tries += 1
        timer: asyncio.TimerHandle = asyncio.get_running_loop().call_later(pause, lambda: self._again(timer))
        self._resting[timer] = request

    def _again(self, timer: asyncio.TimerHandle) -> None:
        self._enqueue(self._resting.pop(timer))

    def _set_expiry(self, at: float | None) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        if at is not None and self._open:
            delay = min(max(0.0, at - self._time()), _LONGEST_TIMER_S)
            self._expiry = asyncio.get_running_loop().call_later(delay, self._expire)

    def _expire(self) -> None:
        async def expire() -> None:
            try:
                await self.run(Store.expire, patient=True)
            except ConnectionClosed:
                _LOG.debug("the bus closed before messages expired; they will when it opens")

        task = asyncio.create_task(expire())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _closed(self) -> ConnectionClosed:
        return ConnectionClosed(320, f"the message bus {self.path} is closed")

    @staticmethod
    def _fail(request: _Request, error: Exception) -> None:
        if not request.done.done():
            request.done.set_exception(error)


@dataclass(frozen=True)
class _Committed:
    results: list[Any]
    woken: set[str]
    expiry: float | None


def _parts(batch: list[_Request], outcome: "_Committed | Exception") -> list[list[_Request]]:
    """Split a batch that failed, where a part of it may succeed; nothing where it is to be taken as a whole."""
    if isinstance(outcome, _Committed) or len(batch) == 1:
        return []
    if not isinstance(outcome, sqlite3.Error):
        return [[request] for request in batch]  # only the one to blame shall fail
    # Deleting may succeed where adding does not: a full disk must not keep messages from being settled.
    parts = [[request for request in batch if request.patient is patient] for patient in (True, False)]
    return parts if all(parts) else []


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
