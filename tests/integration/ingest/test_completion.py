"""Completion with a real database and a real folder of objects, and with time that the test makes."""

import asyncio
import hashlib
import itertools
import json
import secrets
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from contracts.fact import Attributes, ObjectRef, Source
from contracts.instances import StoredInstance
from contracts.manifest import Manifest, set_hash
from contracts.study import StudyAmended, StudyCompleted
from libs.messaging.outbox import Outbox
from libs.storage.database import Database
from libs.storage.objects import ObjectStore, open_store
from services.ingest import repository, versions
from services.ingest.arrival import Arrival, Entry, arrival_id
from services.ingest.assembly import study_attributes
from services.ingest.completion import Completion
from services.ingest.evidence import Patience
from services.ingest.models import messaging, studies
from services.ingest.sorting import sort_out
from services.ingest.tally import of_batch
from services.ingest.work import Work
from tests.support.migrated import migrate

pytestmark = pytest.mark.integration
START = datetime(2026, 1, 1, tzinfo=UTC)
SOURCE = Source(site="luba", node="CT1", calling_aet="CT1", called_aet="KIVUKO", address="127.0.0.1")
PATIENCE = Patience(timedelta(seconds=10), {"SR": timedelta(seconds=4)}, timedelta(seconds=120))
#: Every batch has a name of its own, as processes have.
_BATCHES = itertools.count()
STUDY = ("default", "1.9")


class CrashError(BaseException):
    """The process ends here: nothing may handle it."""


class Image:
    """What a sender has: one instance of the study."""

    def __init__(self, number: int, series: int = 1, **attributes: Any) -> None:
        self.uid = f"1.2.{number}"
        self.series = f"1.4.{series}"
        self.content_hash = hashlib.sha256(self.uid.encode()).hexdigest()
        self.attributes: Attributes = {"InstanceNumber": number, "Modality": "CT", **attributes}


class Replica:
    """An ingest whose disk, network and clock are the test's: real tables and objects, no sockets."""

    def __init__(self, database: Database, objects: ObjectStore, name: str = "one") -> None:
        self.database = database
        self.objects = objects
        self.name = name
        self.now = START
        self.outbox = Outbox("ingest", "local", lambda: self.now, messaging)
        #: Entries on disk: acknowledged and not indexed, whatever happens.
        self.spool: dict[str, tuple[Entry, Image]] = {}
        #: What receivers have said and this process has not heard, in order.
        self.said: list[Callable[[], None]] = []
        self.open: dict[str, set[str]] = {}
        self.counted = 0
        self.at_barrier: Callable[[int], Awaitable[None]] | None = None
        self.start()

    def start(self) -> None:
        """Start the process, again: associations are gone, what is on disk is in hand."""
        self.said.clear()
        self.open.clear()
        self.barriers = 0
        self.work = Work(lambda: None)
        for entry, _ in self.spool.values():
            self._hear(entry)
        self.completion = Completion(
            self.database,
            self.objects,
            self.work,
            self.outbox,
            replica=self.name,
            barrier=self.barrier,
            patience=lambda: PATIENCE,
            clock=lambda: self.now,
            noise=secrets.token_bytes,
        )

    async def barrier(self) -> None:
        """Everything that was said is heard."""
        self.barriers += 1
        if self.at_barrier is not None:
            await self.at_barrier(self.barriers)
        self.hear(len(self.said))

    def hear(self, count: int) -> None:
        """Hear the first of what was said."""
        for _ in range(min(count, len(self.said))):
            self.said.pop(0)()

    def associate(self, name: str) -> None:
        """An association is accepted: the supervisor knows of it from the first."""
        self.open[name] = set()
        self.work.opened(name)

    def end(self, name: str, *, broken: bool = False) -> None:
        """An association ends."""
        del self.open[name]
        self.said.append(lambda: self.work.closed(name, broken=broken))

    def acknowledge(self, image: Image, association: str = "a") -> None:
        """An image is on stable storage, and its sender is told so."""
        self.counted += 1
        arrival = Arrival(
            id=arrival_id(self.now, self.counted.to_bytes(8, "big")),
            tenant=STUDY[0],
            source=SOURCE,
            association_id=association,
            sop_class_uid="1.3",
            sop_instance_uid=image.uid,
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            received_at=self.now,
        )
        entry = Entry(arrival, STUDY[1], image.series, Path(arrival.id), image.content_hash, 100, accepted=True)
        self.spool[arrival.id] = entry, image
        if association in self.open:
            self.open[association].add(STUDY[1])
        self.said.append(lambda: self._hear(entry))

    def _hear(self, entry: Entry) -> None:
        arrival = entry.arrival
        self.work.spooled(arrival.id, arrival.association_id, entry.study, arrival.received_at)

    async def index(self, arrivals: Iterable[str], *, dies: bool = False) -> None:
        """Index what is known of these; `dies`: the process ends before their files are removed."""
        known = self.work.arrivals()
        taken = [self.spool[each] for each in arrivals if each in known and each in self.spool]
        if not taken:
            return
        images = {entry.arrival.id: image for entry, image in taken}
        async with self.database.reading() as tx:
            kept = await repository.known(tx, [(STUDY[0], image.uid) for image in images.values()])
        sorted_ = sort_out((entry for entry, _ in taken), kept)
        new = tuple(stored(entry, images[entry.arrival.id]) for entry in sorted_.new)
        name = f"{self.name}-{next(_BATCHES)}-{min(images)}"
        headers = ObjectRef(key=f"headers/{name}", sha256="0" * 64, size=1) if new else None
        duplicates = [entry for entry, _ in sorted_.duplicates]
        batch = repository.Indexed(
            name, *STUDY, new=new, arrivals={"stored": sorted_.new, "duplicate": duplicates}, headers=headers
        )
        async with self.database.transaction() as tx:
            await repository.index(tx, [batch], now=self.now, patience=PATIENCE)
        if dies:
            self.start()
            return
        for entry, _ in taken:
            del self.spool[entry.arrival.id]
            self.work.indexed(entry.arrival.id)

    async def look(self) -> None:
        """Let the completion look until it has nothing to do now."""
        while await self.completion.look() == 0:
            pass

    async def receive(self, images: Iterable[Image], association: str = "a") -> None:
        """Let images arrive on one association that ends well, and be indexed."""
        self.associate(association)
        for image in images:
            self.acknowledge(image, association)
        self.end(association)
        await self.barrier()
        await self.index(list(self.spool))

    async def pass_time(self, seconds: float) -> None:
        """Let time pass as the completion sees it: it wakes when it said it would."""
        until = self.now + timedelta(seconds=seconds)
        while True:
            wait = await self.completion.look()
            if wait == 0:
                continue
            wakes = until if wait is None else min(until, self.now + timedelta(seconds=wait))
            self.now = max(self.now, wakes)
            if self.now >= until:
                await self.look()
                return

    async def events(self) -> list[StudyCompleted | StudyAmended]:
        """Give the events about studies, in order."""
        async with self.database.reading() as tx:
            bodies = (await tx.scalars(select(messaging.outbox.c.body).order_by(messaging.outbox.c.id))).all()
        found: list[StudyCompleted | StudyAmended] = []
        for body in map(json.loads, bodies):
            model = StudyCompleted if body["type"] == "kivuko.study.completed.v1" else StudyAmended
            found.append(model.model_validate(body["data"]))
        return found

    def manifest(self, event: StudyCompleted | StudyAmended) -> Manifest:
        """Read the manifest of a version."""
        with self.objects.open(event.manifest.key) as file:
            data = file.read()
        assert hashlib.sha256(data).hexdigest() == event.manifest.sha256
        assert len(data) == event.manifest.size
        return Manifest.model_validate_json(data)

    async def stray_manifests(self) -> set[str]:
        """List manifests that no version has."""
        return set(self.objects.list("manifests/")) - {event.manifest.key for event in await self.events()}


def stored(entry: Entry, image: Image) -> StoredInstance:
    return StoredInstance(
        sop_instance_uid=image.uid,
        sop_class_uid="1.3",
        series_instance_uid=image.series,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        content_hash=image.content_hash,
        object_key=entry.object_key,
        size=entry.size,
        received_at=entry.arrival.received_at,
        attributes=image.attributes,
    )


@pytest.fixture
async def replica(tmp_path: Path) -> Any:
    database = Database(f"sqlite:///{tmp_path}", "ingest")
    await migrate(database, "services.ingest")
    objects = open_store(f"file://{tmp_path / 'objects'}")
    yield Replica(database, objects)
    objects.close()
    await database.close()


#: All that a sender has of the study; what the study must be like in the end follows from it alone.
WHOLE = [
    *(Image(n, 1, StudyDescription=text, StationName="A") for n, text in ((1, "Head"), (2, "head"), (3, "Kopf"))),
    *(
        Image(n, 2, StudyDate="20260102", StationName=name, NumberOfStudyRelatedInstances=6)
        for n, name in ((1, "A"), (4, "B"))
    ),
    Image(5, 3, Modality="SR", StudyDate="20260101", StudyTime="1200"),
]
for _number, _image in enumerate(WHOLE):
    _image.uid = f"1.2.{_number}"
    _image.content_hash = hashlib.sha256(_image.uid.encode()).hexdigest()
associations = st.sampled_from(["a", "b"])
interruptions = st.sampled_from(["nothing", "crash", "acknowledged", "indexed"])


class AssemblyMachine(RuleBasedStateMachine):
    """Any order, batches, repetition and restart of the same instances."""

    template: Path

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp(prefix="kivuko-assembly-"))
        shutil.copy(self.template, self.folder / "ingest.db")
        self.runner.run(self._start())
        #: UIDs that a sender was told success for.
        self.acknowledged: set[str] = set()
        self.seen = 0

    async def _start(self) -> None:
        self.replica = Replica(
            Database(f"sqlite:///{self.folder}", "ingest"), open_store(f"file://{self.folder / 'objects'}")
        )

    @rule(name=associations, broken=st.booleans())
    def end(self, name: str, broken: bool) -> None:
        if name in self.replica.open:
            self.replica.end(name, broken=broken)

    @rule(name=associations, image=st.sampled_from(WHOLE))
    def send(self, name: str, image: Image) -> None:
        if name not in self.replica.open:
            self.replica.associate(name)
        self._acknowledge(image, name)

    def _acknowledge(self, image: Image, name: str) -> None:
        self.replica.acknowledge(image, name)
        self.acknowledged.add(image.uid)

    @rule(count=st.integers(1, 3))
    def hear(self, count: int) -> None:
        self.replica.hear(count)

    @rule(data=st.data(), dies=st.booleans())
    def index(self, data: st.DataObject, dies: bool) -> None:
        if self.replica.spool:
            some = data.draw(st.lists(st.sampled_from(sorted(self.replica.spool)), unique=True, min_size=1))
            self.runner.run(self.replica.index(some, dies=dies and data.draw(st.booleans())))

    @rule(seconds=st.sampled_from([0.1, 2.5, 10, 40, 130]))
    def pass_time(self, seconds: float) -> None:
        self.replica.now += timedelta(seconds=seconds)

    @rule()
    def restart(self) -> None:
        self.replica.start()

    @rule()
    def look(self) -> None:
        self._look()

    @rule(
        unheard=st.none() | st.sampled_from(WHOLE),
        image=st.sampled_from(WHOLE),
        at=st.integers(1, 2),
        how=interruptions,
    )
    def settle(self, unheard: Image | None, image: Image, at: int, how: str) -> None:
        """All that was sent is indexed, and time is over; then something comes between.

        The first barrier is before the decision, the second after the manifest was put.
        """
        for name in list(self.replica.open):
            self.replica.end(name)
        self.replica.hear(len(self.replica.said))
        self.runner.run(self.replica.index(list(self.replica.spool)))
        self.replica.now += timedelta(seconds=45)
        if unheard is not None:
            self._acknowledge(unheard, "unheard")
        last = self.replica.barriers + at

        async def interrupt(number: int) -> None:
            if number == last and how == "crash":
                raise CrashError
            if number == last and how != "nothing":
                self._acknowledge(image, "late")
                if how == "indexed":
                    self.replica.hear(len(self.replica.said))
                    await self.replica.index(list(self.replica.spool))

        self.replica.at_barrier = interrupt
        self._look()
        self.replica.at_barrier = None

    def _look(self) -> None:
        try:
            self.runner.run(self.replica.look())
        except CrashError:
            self.replica.start()
        self._check()

    def _check(self) -> None:
        events = self.runner.run(self.replica.events())
        assert [event.version for event in events] == list(range(1, len(events) + 1))
        before: set[str] = set()
        for event in events:
            manifest = self.replica.manifest(event)
            names = {each.sop_instance_uid for each in manifest.instances}
            assert set(manifest.added) == names - before
            assert not manifest.replaced
            assert event.version == 1 or (isinstance(event, StudyAmended) and event.added_count == len(manifest.added))
            before = names
        if len(events) > self.seen:
            self.seen = len(events)
            assert before == self.acknowledged, "complete without what was acknowledged"
            assert not any(self.replica.open.values()), "complete while an association of it is open"

    def teardown(self) -> None:
        try:
            self._finish()
        finally:
            self.runner.run(self._close())
            self.runner.close()
            shutil.rmtree(self.folder)

    def _finish(self) -> None:
        """Whatever happened: once everything has come, the study is what it is."""
        missing = [image for image in WHOLE if image.uid not in self.acknowledged]
        for name in list(self.replica.open):
            self.replica.end(name)
        self.acknowledged |= {image.uid for image in missing}
        self.runner.run(self.replica.receive(missing, "last"))
        self.runner.run(self.replica.pass_time(300))
        self._check()
        assert self.runner.run(self.replica.stray_manifests()) == set()
        event = self.runner.run(self.replica.events())[-1]
        manifest = self.replica.manifest(event)
        assert manifest.content_hash == set_hash((image.uid, image.content_hash) for image in WHOLE)
        expected = [(image.uid, image.series, image.attributes) for image in sorted(WHOLE, key=lambda each: each.uid)]
        assert [
            (each.sop_instance_uid, each.series_instance_uid, each.attributes) for each in manifest.instances
        ] == expected
        assert manifest.attributes == event.attributes == study_attributes(manifest.instances)
        assert manifest.attributes["ModalitiesInStudy"] == ["CT", "SR"]
        assert (manifest.attributes["StudyDate"], manifest.attributes["StudyDescription"]) == ("20260101", "Head")
        assert self.runner.run(self._tallies()) == list(of_batch(manifest.instances).series.values())

    async def _tallies(self) -> Any:
        async with self.replica.database.reading() as tx:
            (row,) = (await tx.execute(select(studies))).all()
            assert (row.instance_count, row.series_count, row.size, row.due_at) == (6, 3, 600, None)
            return (await versions.tallies(tx, [row.id]))[row.id]

    async def _close(self) -> None:
        self.replica.objects.close()
        await self.replica.database.close()


def test_the_same_instances_make_the_same_manifest(tmp_path: Path) -> None:
    async def template() -> None:
        database = Database(f"sqlite:///{tmp_path}", "ingest")
        await migrate(database, "services.ingest")
        await database.close()

    asyncio.run(template())
    AssemblyMachine.template = tmp_path / "ingest.db"
    run_state_machine_as_test(
        AssemblyMachine,
        settings=settings(
            max_examples=30,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            # Each step is on a disk: to look for a shorter failure would take longer than a test may.
            phases=(Phase.reuse, Phase.generate),
        ),
    )


def images(count: int, **attributes: Any) -> list[Image]:
    return [Image(number, **attributes) for number in range(1, count + 1)]


async def test_a_study_whose_announced_count_is_met_waits_a_quarter(replica: Replica) -> None:
    await replica.receive(images(3, NumberOfStudyRelatedInstances=3))
    await replica.pass_time(2.4)
    assert await replica.events() == []
    await replica.pass_time(0.2)
    (event,) = await replica.events()
    assert event.score == 1
    assert "all 3 instances that were announced" in event.evidence
    assert event.evidence == tuple(sign.detail for sign in event.signs)


async def test_a_gap_makes_it_wait_and_is_said(replica: Replica) -> None:
    first, second, third, fourth = images(4)
    await replica.receive([first, second, fourth])
    await replica.pass_time(19)
    assert await replica.events() == []
    await replica.receive([third])
    await replica.pass_time(10.1)
    (event,) = await replica.events()
    assert "instance numbers without gaps" in event.evidence
    assert event.score == 0.9


async def test_a_broken_association_makes_it_wait_unless_its_sender_comes_again(replica: Replica) -> None:
    one, two = images(2)
    replica.associate("a")
    replica.acknowledge(one, "a")
    replica.end("a", broken=True)
    await replica.barrier()
    await replica.index(list(replica.spool))
    await replica.pass_time(25)
    assert await replica.events() == []
    await replica.receive([one, two], "b")
    await replica.pass_time(10.1)
    (event,) = await replica.events()
    assert event.instance_count == 2


async def test_nothing_waits_longer_than_at_most_not_even_for_an_association_that_never_ends(replica: Replica) -> None:
    replica.associate("a")
    for image in images(2, NumberOfStudyRelatedInstances=9):
        replica.acknowledge(image, "a")
    await replica.barrier()
    await replica.index(list(replica.spool))
    await replica.pass_time(119)
    assert await replica.events() == []
    await replica.pass_time(40)
    (event,) = await replica.events()
    assert "2 of 9 instances that were announced" in event.evidence
    assert [sign.kind for sign in event.signs] == ["association-ended", "quiet", "numbers", "announced"]
    assert event.score == 0.5


async def test_silence_while_nobody_listened_says_nothing(replica: Replica) -> None:
    await replica.receive(images(2))
    replica.now += timedelta(seconds=60)
    replica.start()
    await replica.look()
    assert await replica.events() == []
    await replica.pass_time(10.1)
    assert len(await replica.events()) == 1


async def test_without_the_manifest_before_all_counts_as_added(replica: Replica) -> None:
    one, two = images(2)
    await replica.receive([one])
    await replica.pass_time(11)
    (first,) = await replica.events()
    replica.objects.delete(first.manifest.key)
    await replica.receive([two])
    await replica.pass_time(11)
    amended = (await replica.events())[-1]
    assert isinstance(amended, StudyAmended)
    assert (amended.version, amended.added_count, amended.replaced_count) == (2, 2, 0)


class Interrupted:
    """A store whose deletions wait until something else is done."""

    def __init__(self, objects: ObjectStore, first: Callable[[], None]) -> None:
        self._objects = objects
        self._first = first

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objects, name)

    def delete(self, key: str) -> None:
        """Remove an object afterwards."""
        self._first()
        self._objects.delete(key)


async def test_a_replica_that_was_too_slow_leaves_the_version_of_another_alone(replica: Replica) -> None:
    other = Replica(replica.database, replica.objects, "two")
    written, overtaken = asyncio.Event(), asyncio.Event()
    looks: list[asyncio.Task[None]] = []
    loop = asyncio.get_running_loop()

    async def other_waits(count: int) -> None:
        if count == 2:
            written.set()
            await overtaken.wait()

    async def other_takes_over(count: int) -> None:
        if count == 2:
            other.now = replica.now = replica.now + timedelta(minutes=6)
            looks.append(asyncio.create_task(other.look()))
            await written.wait()

    def other_records() -> None:
        loop.call_soon_threadsafe(overtaken.set)
        asyncio.run_coroutine_threadsafe(_ended(looks), loop).result(10)

    await replica.receive(images(2))
    other.now = replica.now
    await replica.pass_time(9)
    slow = Interrupted(replica.objects, other_records)
    replica.objects = cast("ObjectStore", slow)
    replica.start()
    replica.barriers = 0
    replica.at_barrier, other.at_barrier = other_takes_over, other_waits
    replica.now += timedelta(seconds=20)
    await replica.completion.look()
    overtaken.set()
    await _ended(looks)
    (event,) = await replica.events()
    assert replica.manifest(event).instances
    assert await other.stray_manifests() == set()


async def killed_with_a_manifest(replica: Replica) -> None:
    """Kill a replica when it has put the manifest of a study, and not yet recorded the version."""

    async def kill(count: int) -> None:
        if count == 2:
            raise CrashError

    await replica.receive(images(2))
    await replica.pass_time(9)
    replica.now += timedelta(seconds=2)
    replica.barriers, replica.at_barrier = 0, kill
    with pytest.raises(CrashError):
        await replica.completion.look()
    replica.at_barrier = None
    assert len(await replica.stray_manifests()) == 1


async def one_manifest(replica: Replica) -> None:
    """There is one version, its manifest can be read, and there is no other."""
    (event,) = await replica.events()
    assert len(replica.manifest(event).instances) == 2
    assert await replica.stray_manifests() == set()


async def test_a_version_is_of_the_time_before_it_was_asked_what_is_in_hand(replica: Replica) -> None:
    """Else something might be acknowledged before that time, and not be in it."""
    asked: list[datetime] = []

    async def takes_a_second(_count: int) -> None:
        asked.append(replica.now)
        replica.now += timedelta(seconds=1)

    await replica.receive(images(2))
    replica.at_barrier = takes_a_second
    await replica.pass_time(15)
    async with replica.database.reading() as tx:
        (body,) = (await tx.scalars(select(messaging.outbox.c.body))).all()
        (at,) = (await tx.scalars(select(studies.c.version_at))).all()
    assert datetime.fromisoformat(json.loads(body)["time"]) == repository.utc(at) == asked[-1]


async def test_a_manifest_that_a_kill_has_left_goes(replica: Replica) -> None:
    await killed_with_a_manifest(replica)
    replica.start()
    await replica.pass_time(60)
    await one_manifest(replica)


async def test_a_manifest_that_a_lost_replica_has_left_goes(replica: Replica) -> None:
    await killed_with_a_manifest(replica)
    other = Replica(replica.database, replica.objects, "two")
    other.now = replica.now
    await other.pass_time(400)
    await one_manifest(other)


async def test_a_manifest_goes_although_more_came_after_the_kill(replica: Replica) -> None:
    await killed_with_a_manifest(replica)
    replica.start()
    await replica.receive(images(3)[2:])
    await replica.pass_time(60)
    (event,) = await replica.events()
    assert event.instance_count == 3
    assert await replica.stray_manifests() == set()


async def test_a_manifest_goes_whose_version_could_not_be_recorded(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(*_args: Any) -> bool:
        raise OperationalError("the connection was lost", None, Exception())

    await replica.receive(images(2))
    with monkeypatch.context() as patched:
        patched.setattr(versions, "record", lost)
        with pytest.raises(OperationalError):
            await replica.pass_time(60)
    assert len(await replica.stray_manifests()) == 1
    await replica.pass_time(60)
    await one_manifest(replica)


async def _ended(tasks: Iterable[asyncio.Task[None]]) -> None:
    await asyncio.gather(*tasks)


async def test_an_association_that_broke_off_is_noted_although_another_replica_decides(replica: Replica) -> None:
    other = Replica(replica.database, replica.objects, "two")
    replica.associate("a")
    replica.acknowledge(images(1)[0], "a")
    replica.end("a", broken=True)
    await replica.barrier()
    await replica.index(list(replica.spool))
    await replica.completion.look()
    other.now = START - timedelta(seconds=1)
    other.start()
    other.now = START
    await other.pass_time(29)
    assert await other.events() == []
    await other.pass_time(2)
    assert len(await other.events()) == 1


async def test_thousands_of_instances_are_one_manifest_page_by_page(replica: Replica) -> None:
    await replica.receive(images(1203))
    await replica.pass_time(11)
    (event,) = await replica.events()
    assert event.instance_count == 1203
    manifest = replica.manifest(event)
    uids = [each.sop_instance_uid for each in manifest.instances]
    assert uids == sorted(set(uids))
    assert len(uids) == 1203
