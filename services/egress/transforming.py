"""What an instance becomes before it is sent: taken out of the object store, transformed by a worker, spooled."""

import asyncio
import fcntl
import os
import shutil
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Final

from libs.snapshot import NetworkView
from libs.storage.database import Database
from libs.storage.objects import StoreUnavailableError
from services.egress import decided, transformed
from services.egress.original import original
from services.egress.outcome import NO_ROOM, NO_SECRET, OBJECT_DAMAGED, TRANSFORM, Outcome, Verdict
from services.egress.parcel import DamagedError, Parcel, Readable
from services.egress.project import NoSecretError, Projects
from services.egress.transforms.engine import Step, version
from services.egress.transforms.errors import UntransformableError
from services.egress.transforms.job import Done, Job
from services.egress.transforms.workers import NoRoomError, WorkerLostError, Workers

#: Begins the key of what is in the spool; no key of an object store begins like this.
_SPOOLED: Final = "transformed:"
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Unprepared(Exception):  # noqa: N818 (it is an outcome, not always an error)
    """An instance could not be made ready: what is told of it, or nothing where it is only put back."""

    def __init__(self, outcome: Outcome | None, reason: str = "") -> None:
        super().__init__(reason or (outcome.reason if outcome else ""))
        self.outcome = outcome


@dataclass(frozen=True)
class Owner:
    """Whose an instance is, and where it goes."""

    tenant: str
    destination: str


class Spool:
    """Where what is transformed lies until it is sent: a folder of this run, gone with it.

    Parameters
    ----------
    folder
        Holds the folders of all runs on this machine; those of runs that have ended are removed.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # One at a time, so that none takes another's new folder for one that was left behind.
        turn = _locked(folder)
        try:
            _tidy(folder)
            self.folder = folder / uuid.uuid4().hex
            self.folder.mkdir(mode=0o700)
            self._lock = _locked(self.folder)
        finally:
            os.close(turn)

    def close(self) -> None:
        """Remove it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)

    def new(self) -> Path:
        """Name a file that is not there."""
        return self.folder / uuid.uuid4().hex


class Spooled:
    """An object store in which what is in the spool is found as well."""

    def __init__(self, objects: Readable) -> None:
        self._objects = objects

    def open(self, key: str) -> BinaryIO:
        """Read an object from its beginning, see `Readable`."""
        if not key.startswith(_SPOOLED):
            return self._objects.open(key)
        try:
            return open(key.removeprefix(_SPOOLED), "rb")  # noqa: PTH123 (whoever asked closes it)
        except OSError as error:
            raise StoreUnavailableError(f"the spool of transforms can't be read ({error.strerror})") from error


class Transforming:
    """Makes instances ready to be sent.

    Parameters
    ----------
    network
        Says what is to be done.
    projects
        Secrets.
    workers
        Do it.
    database
        Where it is written down what came out, before it is sent.
    objects
        Where instances are kept.
    folder
        For the spool.
    at_once
        How many are taken out of the object store at a time.
    """

    def __init__(
        self,
        network: NetworkView,
        projects: Projects,
        workers: Workers,
        database: Database,
        objects: Readable,
        folder: Path,
        at_once: int,
    ) -> None:
        self._network = network
        self._projects = projects
        self._workers = workers
        self._database = database
        self._objects = objects
        self._folder = folder
        self._turn = asyncio.Semaphore(at_once)
        self._spool: Spool | None = None
        #: Secrets that were not there, and the destinations for which something needed them.
        self.lacking: dict[str, set[str]] = {}

    def steps(self, destination: str, parcel: Parcel) -> list[Step] | str:
        """Name what is to be done to an instance, or say why nobody knows: see `decided.steps`."""
        snapshot = self._network.current
        definition = None if snapshot is None else snapshot.definition
        return decided.steps(definition, destination, parcel.transform, parcel.said)

    def step(self, name: str) -> Step | None:
        """Give a transform of the definition in force."""
        snapshot = self._network.current
        found = None if snapshot is None else snapshot.definition.transforms.get(name)
        return None if found is None else Step(name, found)

    async def attempt(
        self, content: AsyncIterator[bytes], owner: Owner, steps: Sequence[Step], at: datetime, *, explain: bool
    ) -> tuple[Done, Path]:
        """Transform a file that is not kept here; whoever asked removes what it becomes.

        Raises
        ------
        UntransformableError, NoSecretError, WorkerLostError, NoRoomError
            Why that can't be done.
        """
        secrets = self._secrets(steps)
        source, result = self._new(), self._new()
        try:
            async with self._turn:
                with open(source, "xb") as file:  # noqa: PTH123, ASYNC230 (as all others here; pieces are small)
                    async for piece in content:
                        await asyncio.to_thread(file.write, piece)
                job = Job(str(source), str(result), tuple(steps), secrets, owner.tenant, at, explain)
                return await self._workers.do(job), result
        except BaseException:
            result.unlink(missing_ok=True)
            raise
        finally:
            source.unlink(missing_ok=True)

    def _secrets(self, steps: Sequence[Step]) -> dict[str, bytes]:
        secrets: dict[str, bytes] = {}
        for step in steps:
            secrets |= self._projects.secrets(step.transform)
        return secrets

    def _new(self) -> Path:
        if self._spool is None:
            self._spool = Spool(self._folder)
        return self._spool.new()

    async def prepare(self, parcel: Parcel, owner: Owner, steps: Sequence[Step]) -> Parcel:
        """Make an instance ready; what it gives lies in the spool until it is discarded. Raises Unprepared.

        Without steps it goes as it is kept, whatever was made of it before.
        """
        if not steps:
            async with self._database.transaction() as tx:
                await transformed.forget(tx, parcel.item)
            return replace(parcel, made=False)
        done, path = await self._transformed(parcel, owner, steps)
        made = done.transformed
        try:
            async with self._database.transaction() as tx:
                await transformed.note(tx, parcel.item, version(steps), made)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return replace(
            parcel,
            sop_class_uid=made.sop_class_uid,
            sop_instance_uid=made.sop_instance_uid,
            study_instance_uid=made.study_instance_uid,
            transfer_syntax_uid=made.transfer_syntax_uid,
            content_hash=made.content_hash,
            object_key=f"{_SPOOLED}{path}",
            size=made.size,
            fresh=True,
        )

    def discard(self, parcel: Parcel) -> None:
        """Remove what was made of an instance."""
        if parcel.object_key.startswith(_SPOOLED):
            Path(parcel.object_key.removeprefix(_SPOOLED)).unlink(missing_ok=True)

    async def stop(self) -> None:
        """End what is under way, and remove the spool."""
        await self._workers.stop()
        if self._spool is not None:
            self._spool.close()
            self._spool = None

    async def _transformed(self, parcel: Parcel, owner: Owner, steps: Sequence[Step]) -> tuple[Done, Path]:
        try:
            secrets = self._secrets(steps)
        except NoSecretError as error:
            self.lacking.setdefault(error.secret, set()).add(owner.destination)
            raise Unprepared(
                _outcome(parcel, Verdict.LATER, NO_SECRET, f"It is not sent as it is: {error}.")
            ) from error
        async with self._turn:
            try:
                source, result = self._new(), self._new()
            except OSError as error:
                raise self._why(parcel, error) from error
            try:
                await asyncio.to_thread(_fetch, parcel, self._objects, source)
                job = Job(str(source), str(result), tuple(steps), secrets, owner.tenant, parcel.arrived_at)
                return await self._workers.do(job), result
            except BaseException as error:
                result.unlink(missing_ok=True)
                raise self._why(parcel, error) from error
            finally:
                source.unlink(missing_ok=True)

    def _why(self, parcel: Parcel, error: BaseException) -> BaseException:
        """Tell what an error means for an instance."""
        match error:
            case UntransformableError():
                return Unprepared(_outcome(parcel, Verdict.UNFIT, TRANSFORM, f"It is not sent: {error}."))
            case WorkerLostError():
                return Unprepared(_outcome(parcel, Verdict.REFUSED, TRANSFORM, f"It is not sent as it is: {error}."))
            case DamagedError():
                return Unprepared(_outcome(parcel, Verdict.DAMAGED, OBJECT_DAMAGED, str(error)))
            case StoreUnavailableError():
                return Unprepared(None, str(error))
            case NoRoomError() | OSError():
                said = error.strerror if isinstance(error, OSError) else str(error)
                reason = f"There is no room to transform it, or no right to: {said}."
                return Unprepared(_outcome(parcel, Verdict.LATER, NO_ROOM, reason))
        return error


def _outcome(parcel: Parcel, verdict: Verdict, status: str, reason: str) -> Outcome:
    return Outcome(parcel.item, verdict, status, reason)


def _fetch(parcel: Parcel, objects: Readable, path: Path) -> None:
    with open(path, "xb") as file:  # noqa: PTH123 (as all others here)
        file.writelines(original(parcel, objects))


def _locked(folder: Path) -> int:
    lock = os.open(folder, _FOLDER)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def _tidy(folder: Path) -> None:
    """Remove the folders of runs that have ended."""
    for each in folder.iterdir():
        with suppress(OSError):
            lock = os.open(each, _FOLDER)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(each, ignore_errors=True)
            finally:
                os.close(lock)
