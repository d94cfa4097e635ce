"""Any interleaving of requests, claims, answers, diversions, orders, crashes and late words, on the real tables.

Done means that every instance of the version was confirmed; nothing is both done and pending, or done and diverted;
nothing is lost: what was asked for is sent there, to be sent there, or an item of the delivery that it is diverted to;
nobody has in hand what another has.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import Row, select

from contracts.delivery import DeliveryItem
from contracts.manifest import set_hash
from services.egress.calling import Ending
from services.egress.claim import Stretch, ended
from services.egress.models import deliveries
from services.egress.orders import Given, Verb
from services.egress.outcome import ARRIVED, NO_ANSWER, Outcome, Verdict
from services.egress.parcel import Parcel
from services.egress.patience import Patience
from tests.integration.egress.stand import QUICK, Stand, network
from tests.support.migrated import migrate
from tests.support.synthetic import CT_IMAGE_STORAGE, EXPLICIT_LITTLE_ENDIAN

pytestmark = pytest.mark.integration
_BEGAN = datetime(2026, 11, 20, 10, tzinfo=UTC)
_STUDIES = ("1.2.1", "1.2.2")
#: Which contents each version of a study has, as instance and edition: the third has another edition of one.
_VERSIONS = {
    1: ((0, 0), (1, 0), (2, 0)),
    2: ((0, 0), (1, 0), (2, 0), (3, 0)),
    3: ((0, 1), (1, 0), (2, 0), (3, 0)),
}
_CONTENTS = sorted({each for version in _VERSIONS.values() for each in version})
_STATUS = {Verdict.SENT: "0000", Verdict.WARNING: "B000", Verdict.LATER: NO_ANSWER, Verdict.REFUSED: "C000"}
_ENDINGS = (
    Ending("finished"),
    Ending("stopped", "this process was asked to stop"),
    Ending("unreachable", "nothing takes connections there"),
    Ending("busy", "the receiver is out of resources"),
)
_PLACES = ("archive", "spare")
_NETWORK = network(
    1,
    {"archive": {"node": "PACS", "failover": "spare"}, "spare": {"node": "SPARE"}},
    {"PACS": {"port": 104}, "SPARE": {"port": 104}},
)
_SETTINGS = QUICK.model_copy(update={"refusals": 2, "backoff_first": 2.0, "backoff_cap": 60.0})

Content = tuple[str, str]


def item(study: str, content: tuple[int, int]) -> DeliveryItem:
    """Describe an edition of an instance."""
    number, edition = content
    uid = f"{study}.{number}"
    return DeliveryItem(
        sop_instance_uid=uid,
        sop_class_uid=CT_IMAGE_STORAGE,
        transfer_syntax_uid=EXPLICIT_LITTLE_ENDIAN,
        content_hash=sha256(f"{uid} {edition}".encode()).hexdigest(),
        object_key=f"{uid}-{edition}",
        size=100,
        received_at=_BEGAN + timedelta(seconds=edition),
    )


def uids(some: set[Content]) -> set[str]:
    return {uid for uid, _ in some}


def contents(study: str, version: int) -> set[Content]:
    return {(each.sop_instance_uid, each.content_hash) for each in (item(study, one) for one in _VERSIONS[version])}


@dataclass
class Worker:
    """A run of egress, and what it has in mind: all of that is gone when it is killed."""

    stand: Stand
    stretches: dict[str, dict[str, Stretch]] = field(default_factory=lambda: {place: {} for place in _PLACES})
    hand: list[Parcel] = field(default_factory=list)
    told: list[tuple[Parcel, Outcome]] = field(default_factory=list)
    returned: list[Parcel] = field(default_factory=list)

    def place(self, parcel: Parcel) -> str:
        """Tell where an instance in hand goes."""
        return next(place for place in _PLACES if parcel.delivery_id in self.stretches[place])

    async def write_down(
        self, told: list[tuple[Parcel, Outcome]], returned: list[Parcel], ending: Ending | None, failed: str | None
    ) -> None:
        """Write down what was told of each destination; the association with one of them ends, if any does."""
        by_place = {
            place: (
                [each for each in told if self.place(each[0]) == place],
                [each for each in returned if self.place(each) == place],
            )
            for place in _PLACES
        }
        for place, (some, back) in by_place.items():
            endings = [ending] if ending is not None and place == failed else []
            stretches = self.stretches[place]
            over = ended(stretches, some, back, calling=not endings)
            if some or back or over or endings:
                await self.stand.work.settle(place, some, back, over, endings, going_on=stretches)


class Machine(RuleBasedStateMachine):
    """The tables of egress beside what was really asked for, and really answered."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = Path(tempfile.mkdtemp(prefix="kivuko-machine-"))
        self._runner = asyncio.Runner()
        self._now = _BEGAN
        self._runs = 0
        self._zombies: list[Worker] = []
        self._asked: dict[tuple[str, str], set[tuple[int, int]]] = {
            (place, study): set() for place in _PLACES for study in _STUDIES
        }
        self._closing: dict[tuple[str, str], int] = {}
        self._confirmed: dict[str, set[Content]] = {place: set() for place in _PLACES}
        self._worker = self._runner.run(self._started())

    async def _started(self) -> Worker:
        """Start a run, as after a crash: nothing is known but what stands in the tables."""
        self._runs += 1
        url = f"sqlite://{self._folder / 'db'}"
        made = Stand(url, self._folder, _NETWORK, _SETTINGS, f"run-{self._runs}", lambda: self._now)
        if self._runs == 1:
            await migrate(made.database, "services.egress")
        await made.network.refresh()
        await made.work.adopt()
        return Worker(made)

    def teardown(self) -> None:
        """See that all goes to its end by itself from here."""
        try:
            self._runner.run(self._finish())
        finally:
            for each in (self._worker, *self._zombies):
                self._runner.run(each.stand.database.close())
            self._runner.close()
            shutil.rmtree(self._folder)

    @initialize(study=st.sampled_from(_STUDIES), version=st.sampled_from(sorted(_VERSIONS)))
    def begin(self, study: str, version: int) -> None:
        self._request("archive", study, list(_VERSIONS[version]), version)

    @rule(
        place=st.sampled_from(("archive", *_PLACES)),
        study=st.sampled_from(_STUDIES),
        version=st.sampled_from(sorted(_VERSIONS)),
        chosen=st.sets(st.sampled_from(_CONTENTS), max_size=len(_CONTENTS)),
        closes=st.booleans(),
    )
    def request(self, place: str, study: str, version: int, chosen: set[tuple[int, int]], closes: bool) -> None:
        """Ask for some of a version, in any order with others, as often as it comes."""
        self._request(
            place, study, [each for each in _VERSIONS[version] if each in chosen], version if closes else None
        )

    def _request(self, place: str, study: str, chosen: list[tuple[int, int]], closes: int | None) -> None:
        values: dict[str, Any] = {"closes": False}
        if closes is not None:
            whole = contents(study, closes)
            values = {"study_version": closes, "expected": len(whole), "expected_hash": set_hash(whole)}
            self._closing[place, study] = max(self._closing.get((place, study), 0), closes)
        elif not chosen:
            return
        self._asked[place, study].update(chosen)
        wanted = [item(study, each) for each in chosen]
        self._runner.run(self._worker.stand.request(wanted, study=study, destination=place, **values))

    @rule(place=st.sampled_from(_PLACES), most=st.integers(1, 5))
    def claim(self, place: str, most: int) -> None:
        worker = self._worker
        worker.hand += self._runner.run(worker.stand.work.claim(place, most, worker.stretches[place]))

    @rule()
    def fail_over(self) -> None:
        """Let the archive take nothing for long enough, and have that looked at."""
        for seconds in (0, 600, 600):
            self._now += timedelta(seconds=seconds)
            self._runner.run(self._worker.write_down([], [], _ENDINGS[2], "archive"))
        self._runner.run(self._patience().fail_over())

    @rule(days=st.sampled_from([1, 8]))
    def give_up(self, days: int) -> None:
        self._now += timedelta(days=days)
        self._runner.run(self._patience().give_up())

    @rule(
        verb=st.sampled_from(["redirect", "retry", "hold", "release", "cancel"]),
        place=st.sampled_from(_PLACES),
        study=st.sampled_from(_STUDIES),
    )
    def order(self, verb: Verb, place: str, study: str) -> None:
        """Have a person decide something."""
        self._runner.run(self._order(verb, place, study))

    async def _order(self, verb: Verb, place: str, study: str) -> None:
        row = await self._worker.stand.delivery(study, place)
        to = _PLACES[1 - _PLACES.index(place)]
        if row is not None:
            await self._worker.stand.orders.give(Given(verb, "op", to=to), [row.id])

    def _patience(self) -> Patience:
        made = self._worker.stand
        return Patience(made.database, made.deliveries, made.network, _SETTINGS, lambda: self._now)

    @precondition(lambda self: self._worker.hand)
    @rule(data=st.data(), verdict=st.sampled_from(list(Verdict)))
    def answer(self, data: st.DataObject, verdict: Verdict) -> None:
        """Have the receiver say something, which is not written down yet."""
        self._answer(self._worker, data.draw(st.integers(0, len(self._worker.hand) - 1)), verdict)

    def _answer(self, worker: Worker, which: int, verdict: Verdict) -> None:
        parcel = worker.hand.pop(which)
        if verdict in ARRIVED:
            self._confirmed[worker.place(parcel)].add((parcel.sop_instance_uid, parcel.content_hash))
        worker.told.append((parcel, Outcome(parcel.item, verdict, _STATUS.get(verdict, "object-damaged"), "Because.")))

    @precondition(lambda self: self._worker.hand)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        worker = self._worker
        worker.returned.append(worker.hand.pop(data.draw(st.integers(0, len(worker.hand) - 1))))

    @rule(ending=st.none() | st.sampled_from(_ENDINGS), most=st.integers(1, 5), place=st.sampled_from(_PLACES))
    def write_down(self, ending: Ending | None, most: int, place: str) -> None:
        self._write_down(self._worker, ending, most, place)

    def _write_down(self, worker: Worker, ending: Ending | None, most: int, place: str) -> None:
        told, worker.told = worker.told[:most], worker.told[most:]
        returned, worker.returned = worker.returned, []
        self._runner.run(worker.write_down(told, returned, ending, place))

    @rule()
    def crash(self) -> None:
        """Kill it, whatever it has in mind, and start it again."""
        self._runner.run(self._worker.stand.database.close())
        self._worker = self._runner.run(self._started())

    @precondition(lambda self: not self._zombies and (self._worker.hand or self._worker.told))
    @rule()
    def take_for_dead(self) -> None:
        """Start another run while the one before, which only slept, still has its answers to write down."""
        self._zombies.append(self._worker)
        self._worker = self._runner.run(self._started())

    @precondition(lambda self: self._zombies)
    @rule(verdict=st.sampled_from([Verdict.SENT, Verdict.LATER, Verdict.REFUSED]))
    def late_words(self, verdict: Verdict) -> None:
        """Let it wake up: it gives up what it has in hand, and writes down."""
        zombie = self._zombies.pop()
        while zombie.hand:
            self._answer(zombie, 0, verdict)
        self._write_down(zombie, Ending("stopped", "this process was asked to stop"), 99, "archive")
        self._runner.run(zombie.stand.database.close())

    @rule(seconds=st.sampled_from([1, 5, 60, 3600]))
    def wait(self, seconds: int) -> None:
        self._now += timedelta(seconds=seconds)

    @invariant()
    def holds(self) -> None:
        self._runner.run(self._check())

    async def _check(self) -> None:
        stand = self._worker.stand
        items = await stand.items()
        async with stand.database.reading() as tx:
            rows = {row.id: row for row in await tx.execute(select(deliveries))}
        for each in items:
            self._check_item(each, rows[each.delivery_id])
        for row in rows.values():
            self._check_delivery(row, [each for each in items if each.delivery_id == row.id])
        for place in _PLACES:
            for study in _STUDIES:
                self._check_items(place, study, [each for each in items if self._is_of(rows, each, place, study)])
        for row in rows.values():
            if row.diverted_to is not None:
                self._check_diverted(row, items, rows)
        mine = [parcel.item for parcel in (*self._worker.hand, *self._worker.returned)]
        mine += [parcel.item for parcel, _ in self._worker.told]
        assert len(mine) == len(set(mine)), "an instance is in hand twice"
        leased = {each.id: each.leased_by for each in items if each.leased_by is not None}
        # What is confirmed by a late word is nobody's business any more.
        sent = {each.id for each in items if each.state == "sent"}
        assert set(leased) <= set(mine), "an instance is leased by nobody"
        assert set(mine) - sent <= set(leased), "an instance is in hand that is not leased"
        assert set(leased.values()) <= {stand.work.worker}
        told = await stand.events("delivery.completed")
        said = [(each["destination"], each["study_instance_uid"], each["study_version"]) for each in told]
        assert len(said) == len(set(said)), "a version was told twice"
        diverted = await stand.events("delivery.diverted")
        arrived = [event for event in diverted if event.get("arrived_version")]
        said += [(event["instead"], event["study_instance_uid"], event["arrived_version"]) for event in arrived]
        for place, study, version in said:
            # Of an instance that both were to get, the content that came last counts.
            assert uids(contents(study, version)) <= uids(self._confirmed[place]), "told, and not confirmed"

    def _is_of(self, rows: dict[str, Row[Any]], each: Row[Any], place: str, study: str) -> bool:
        row = rows[each.delivery_id]
        return bool((row.destination, row.study_instance_uid) == (place, study))

    def _check_items(self, place: str, study: str, items: list[Row[Any]]) -> None:
        found = {(each.sop_instance_uid, each.content_hash) for each in items}
        asked = {at: self._contents(at, study) for at in _PLACES}
        assert asked[place] <= found, "an instance that was asked for is lost"
        assert found <= asked["archive"] | asked["spare"], "an instance is there that was not asked for"
        own = {(each.sop_instance_uid, each.content_hash) for each in items if each.own}
        assert own == asked[place], "it is not known which instances were asked for by which name"

    def _contents(self, place: str, study: str) -> set[Content]:
        described = (item(study, each) for each in self._asked[place, study])
        return {(each.sop_instance_uid, each.content_hash) for each in described}

    def _check_diverted(self, row: Row[Any], items: Sequence[Row[Any]], rows: dict[str, Row[Any]]) -> None:
        assert row.state == "diverted", "diverted, and something else as well"
        (other,) = [
            each
            for each in rows.values()
            if (each.destination, each.study_instance_uid) == (row.diverted_to, row.study_instance_uid)
        ]
        assert other.diverted_to != row.destination, "it goes round in a circle"
        there = {(each.sop_instance_uid, each.content_hash) for each in items if each.delivery_id == other.id}
        mine = [each for each in items if each.delivery_id == row.id and each.current]
        here = {(each.sop_instance_uid, each.content_hash) for each in mine}
        assert here <= there, "diverted, and an instance is not where it went"

    def _check_item(self, each: Row[Any], row: Row[Any]) -> None:
        if each.state == "sent":
            confirmed = self._confirmed[row.destination]
            assert (each.sop_instance_uid, each.content_hash) in confirmed, "sent, and not confirmed"
        elif each.state == "pending" and each.current and each.leased_by is None:
            assert each.next_attempt_at is not None
            if row.ordered is not None or row.given_up is not None or row.diverted_to is not None:
                return
            assert row.state in ("open", "waiting"), "an instance has to be sent, and its delivery has no turn"
            assert row.next_attempt_at is not None, "an instance has to be sent, and its delivery never comes up"
            assert row.next_attempt_at <= each.next_attempt_at

    def _check_delivery(self, row: Row[Any], items: list[Row[Any]]) -> None:
        current = [each for each in items if each.current]
        if row.state == "done":
            found = {(each.sop_instance_uid, each.content_hash) for each in current}
            assert {each.state for each in current} == {"sent"}, "done, and not all of it is sent"
            if row.joined:
                assert set_hash(found) == row.expected_hash, "done, and it is another set"
            else:
                assert found == contents(row.study_instance_uid, row.study_version), "done, and it is another set"
            assert found <= self._confirmed[row.destination], "done, and not confirmed"
            assert row.diverted_to is None
            assert row.ordered is None
        if row.state == "diverted":
            assert row.diverted_to is not None
        if row.state == "failed" and row.given_up is None:
            assert any(each.state == "failed" for each in current)

    async def _finish(self) -> None:
        """Let everything be taken from now on."""
        worker = self._worker
        worker.returned += worker.hand
        worker.hand = []
        async with worker.stand.database.reading() as tx:
            rows = list(await tx.execute(select(deliveries)))
        for row in rows:
            if row.ordered is not None and row.ordered_by == "op":
                await worker.stand.orders.give(Given("release", "op"), [row.id])
            elif row.given_up is not None:
                await worker.stand.orders.give(Given("retry", "op"), [row.id])
        for _ in range(40):
            for parcel in worker.hand:
                self._confirmed[worker.place(parcel)].add((parcel.sop_instance_uid, parcel.content_hash))
                worker.told.append((parcel, Outcome(parcel.item, Verdict.SENT, "0000")))
            worker.hand = []
            told, worker.told, returned, worker.returned = worker.told, [], worker.returned, []
            await worker.write_down(told, returned, None, None)
            for place in _PLACES:
                await worker.stand.work.settle(place, [], [], [], [Ending("finished")])
            self._now += timedelta(hours=1)
            for place in _PLACES:
                worker.hand += await worker.stand.work.claim(place, 5, worker.stretches[place])
            if not worker.hand:
                break
        else:
            pytest.fail("it never comes to an end")
        await self._check()
        for place, study in self._asked:
            await self._check_end(place, study)

    async def _check_end(self, place: str, study: str) -> None:
        row = await self._worker.stand.delivery(study, place)
        if row is None:
            assert not self._asked[place, study]
            return
        if row.state in ("diverted", "cancelled"):
            return
        items = await self._worker.stand.items()
        current = [each for each in items if each.delivery_id == row.id and each.current]
        assert {each.state for each in current} <= {"sent", "failed"}, "something was not tried to its end"
        if any(each.state == "failed" for each in current):
            assert row.state == "failed"
        elif not row.joined:
            found = {(each.sop_instance_uid, each.content_hash) for each in current}
            closing = self._closing.get((place, study))
            complete = closing is not None and found == contents(study, closing)
            assert row.state == ("done" if complete else "open")
        else:
            await self._check_joined_end(row, [each for each in current if each.own])

    async def _check_joined_end(self, row: Row[Any], own: list[Row[Any]]) -> None:
        """See that what carries another one is done when each of them is complete."""
        place, study = row.destination, row.study_instance_uid
        there = _PLACES[1 - _PLACES.index(place)]
        other = await self._worker.stand.delivery(study, there)
        parts = []
        if self._asked[place, study] or (place, study) in self._closing:
            parts.append((place, {(each.sop_instance_uid, each.content_hash) for each in own}))
        asked = self._asked[there, study] or (there, study) in self._closing
        if other is not None and other.diverted_to == place and asked:
            theirs = await self._worker.stand.items()
            found = {(e.sop_instance_uid, e.content_hash) for e in theirs if e.delivery_id == other.id and e.current}
            parts.append((other.destination, found))
        if parts:
            complete = all(
                (at, study) in self._closing and found == contents(study, self._closing[at, study])
                for at, found in parts
            )
            assert row.state == ("done" if complete else "open")


Machine.TestCase.settings = settings(
    max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)


TestMachine = Machine.TestCase


@pytest.mark.parametrize("verdict", [Verdict.LATER, Verdict.REFUSED, Verdict.SENT])
def test_late_words_of_the_dead_take_nothing_out_of_anothers_hand(verdict: Verdict) -> None:
    machine = Machine()
    try:
        machine.begin(_STUDIES[0], 1)
        machine.claim("archive", 5)
        machine.take_for_dead()
        machine.claim("archive", 5)
        machine.late_words(verdict)
        machine.holds()
    finally:
        machine.teardown()
