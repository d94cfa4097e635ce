"""The worklist port in this process, with items that are written by hand; and the answers that a peer gets."""

import asyncio
import subprocess
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self, cast

from pydicom import Dataset, dcmread
from sqlalchemy import insert

from contracts.definition import Definition, Snapshot
from libs.messaging.outbox import Outbox
from libs.service import Platform
from libs.settings import Settings
from libs.snapshot import NetworkView
from libs.storage.database import Database
from services.worklist.attributes import Attributes
from services.worklist.caller import Steps
from services.worklist.models import counters, items, messaging, orders, patients
from services.worklist.port import Port
from tests.support.migrated import migrate
from tests.support.port import free_port
from tests.support.process import Program, answers, program, wait_until

NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)
STEPS = "ScheduledProcedureStepSequence"


class Worklist:
    """The port with its database, in an event loop in a thread of its own; also a context manager.

    Parameters
    ----------
    folder
        Of its database, unless there is an address of one.
    nodes
        Of the network definition, as its YAML has them; sites are `s`, `t` (of the same tenant) and `u` (of another).
    """

    def __init__(
        self,
        folder: Path,
        nodes: Mapping[str, Mapping[str, Any]],
        *,
        url: str | None = None,
        steps: Steps | None = None,
        **settings: Any,
    ) -> None:
        self.folder = folder
        self._url = url or f"sqlite:///{folder / 'db'}"
        self._nodes = nodes
        self._steps = steps
        self._settings = settings
        self._version = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="worklist loop")
        self._loops: list[asyncio.Task[None]] = []
        self._row = 0

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self.run(self._start())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._stop())
        self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: Any) -> Any:
        """Have a coroutine done in the loop, and give its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(120)

    @property
    def port_number(self) -> int:
        """Where it listens."""
        return int(self.port.addresses()["worklist"].rpartition(":")[2])

    def apply(self, nodes: Mapping[str, Mapping[str, Any]]) -> None:
        """Put other nodes in force."""
        self._nodes = nodes
        self.run(self.view.refresh())

    def add(self, *added: Mapping[str, Any], tenant: str = "default") -> list[int]:
        """Write items; each has `attributes`, and `site`, `state`, `performed` where they are not the usual."""
        return cast("list[int]", self.run(self._add(added, tenant)))

    def seen(self, count: int) -> None:
        """Wait until the index has so many items."""
        wait_until(lambda: self.indexed() == count, "the index to follow the table")

    def indexed(self) -> int:
        """Tell how many items can be shown."""
        running = self.port._running
        assert running is not None
        return len(running.feed._index)

    async def _add(self, added: Sequence[Mapping[str, Any]], tenant: str) -> list[int]:
        rows = []
        for each in added:
            self._row += 1
            step = each["attributes"][STEPS][0] if each["attributes"].get(STEPS) else {}
            date = "".join(step.get("ScheduledProcedureStepStartDate", ()))
            time = "".join(step.get("ScheduledProcedureStepStartTime", ()))
            rows.append(
                {
                    "id": self._row,
                    "tenant": tenant,
                    "site": each.get("site", "s"),
                    "order_id": 1,
                    "step_id": str(self._row),
                    "state": each.get("state", "scheduled"),
                    "performed": each.get("performed"),
                    "start": (date + time.ljust(6, "0"))[:14] if date else "",
                    "station_aets": list(step.get("ScheduledStationAETitle", ())),
                    "modality": "".join(step.get("Modality", ())),
                    "attributes": each["attributes"],
                    "revision": self._row,
                    "changed_at": each.get("changed_at", NOW),
                }
            )
        async with self.database.transaction() as tx:
            await tx.execute(insert(items), rows)
            await tx.execute(counters.update().where(counters.c.name == "revision").values(value=self._row))
        return [row["id"] for row in rows]

    async def _start(self) -> None:
        self.database = Database(self._url, "worklist")
        await migrate(self.database, "services.worklist")
        async with self.database.transaction() as tx:
            await tx.execute(insert(counters), [{"name": "revision", "value": 0}, {"name": "rows", "value": 10}])
            await tx.execute(
                insert(patients),
                {"id": 1, "tenant": "default", "value": "P", "issuer": "P", "site": "", "said": {}, "changed_at": NOW},
            )
            await tx.execute(
                insert(orders),
                {
                    "id": 1, "tenant": "default", "site": "s", "patient_id": 1, "accession": "A",
                    "study_instance_uid": "1.2", "minted": [], "priority": "routine", "state": "scheduled", "start": "",
                    "told": {}, "placed_at": NOW, "changed_at": NOW, "floating": False,
                },
            )  # fmt: skip
        self.view = NetworkView(self._fetch, self.folder / "kept.json")
        await self.view.refresh()
        platform = Platform(
            settings=Settings(home=self.folder, worklist_port=0, **self._settings),
            broker=cast("Any", None),
            objects=cast("Any", None),
            network=self.view,
            clock=lambda: NOW,
            database=lambda _: self.database,
        )
        outbox = Outbox("worklist", "local", lambda: NOW, messaging)
        steps = self._steps
        self.port = Port(platform, self.database, outbox, None if steps is None else lambda: steps)
        await self.port.start()
        self._loops = [asyncio.ensure_future(each()) for each in (self.port.follow, self.port.record)]

    async def _stop(self) -> None:
        for each in self._loops:
            each.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        await self.port.stop()
        await self.database.close()

    async def _fetch(self) -> Snapshot | None:
        self._version += 1
        definition = Definition.model_validate(
            {
                "kivuko": 1,
                "name": "n",
                "sites": {"s": {"name": "S"}, "t": {"name": "T"}, "u": {"name": "U", "tenant": "other"}},
                "nodes": {
                    key: {"site": "s", "host": "127.0.0.1", "may": ["worklist"], **node}
                    for key, node in self._nodes.items()
                },
            }
        )
        return Snapshot(version=self._version, document_hash="", definition=definition)


class WlmScp:
    """dcmtk's wlmscpfs, which answers from a folder of files."""

    def __init__(self, folder: Path, *, aet: str = "KIVUKO", flags: Sequence[str] = ()) -> None:
        self.files = folder / aet
        self.files.mkdir(parents=True)
        (self.files / "lockfile").touch()
        self.port = free_port()
        command = [program("wlmscpfs", "dcmtk"), "-v", "-dfr", "-csk", *flags, "-dfp", str(folder), str(self.port)]
        self._server = Program(command, folder.parent, name="wlmscpfs")

    def start(self) -> None:
        """Start it; return when it listens."""
        self._server.start(lambda: answers(self.port))

    def stop(self) -> None:
        """End it."""
        self._server.kill()

    def add(self, name: str, attributes: Attributes, charset: str) -> None:
        """Write an item in a character set."""
        found = dataset(attributes)
        found.SpecificCharacterSet = charset.split("\\")
        write(self.files / f"{name}.wl", found)


def dataset(attributes: Attributes) -> Dataset:
    """Make a dataset of attributes."""
    found = Dataset()
    for keyword, values in attributes.items():
        if keyword.endswith("Sequence"):
            setattr(found, keyword, [dataset(each) for each in values if not isinstance(each, str)])
        else:
            texts = cast("Sequence[str]", values)
            number = keyword == "PregnancyStatus"
            setattr(found, keyword, int(texts[0]) if number else list(texts) if len(texts) > 1 else "".join(texts))
    return found


def write(path: Path, found: Dataset) -> None:
    """Write a dataset as dcmtk reads it."""
    found.save_as(path, implicit_vr=True, little_endian=True)


def find(
    port: int, query: Dataset, *, called: str = "KIVUKO", calling: str = "CT1", flags: Sequence[str] = ()
) -> tuple[list[Dataset], str]:
    """Ask with dcmtk's findscu; give the answers, and what it said."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "query.dcm"
        write(path, query)
        answered = Path(folder) / "answers"
        answered.mkdir()
        command = [
            program("findscu", "dcmtk"), "-v", "-W", "-X", "-od", str(answered), "-aet", calling, "-aec", called,
            *flags, "127.0.0.1", str(port), str(path),
        ]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, timeout=60, env={"TCP_NODELAY": "1"}
        )
        found: list[Dataset] = [dcmread(each, force=True) for each in sorted(answered.iterdir())]
        return found, done.stdout + done.stderr
