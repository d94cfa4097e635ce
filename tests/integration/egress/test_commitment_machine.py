"""Any interleaving of requests, sendings, reports of storage commitment and restarts: done means committed to since."""

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

from contracts.commitment import CommitmentReported
from contracts.delivery import DeliveryItem
from contracts.manifest import set_hash
from libs.dimse.commitment import Reference
from services.egress.asking import Asked, Question
from services.egress.calling import Ending
from services.egress.claim import Stretch, ended
from services.egress.models import deliveries
from services.egress.outcome import ARRIVED, NO_ANSWER, Outcome, Verdict
from services.egress.parcel import Parcel
from tests.integration.egress.stand import QUICK, Stand, archive
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
_SETTINGS = QUICK.model_copy(update={"refusals": 2, "backoff_first": 2.0, "backoff_cap": 60.0})

Content = tuple[str, str]
#: A content, and how often it was tried when it was sent: what was sent once more is another sending.
Sending = tuple[str, str, int]


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


def contents(study: str, version: int) -> set[Content]:
    return {(each.sop_instance_uid, each.content_hash) for each in (item(study, one) for one in _VERSIONS[version])}


def said(question: Question, named: Sequence[Reference], reason: int) -> CommitmentReported:
    """Make a report: all that is named is committed to (0), or failed for this reason."""
    facts = [{"sop_class_uid": each.sop_class_uid, "sop_instance_uid": each.sop_instance_uid} for each in named]
    failed = [each | {"failure_reason": reason} for each in facts]
    values = {"failed": failed} if reason else {"committed": facts}
    return CommitmentReported.model_validate({"transaction_uid": question.transaction_uid, "node": "PACS"} | values)


@dataclass
class Worker:
    """A run of egress, and what it has in mind: all of that is gone when it is killed."""

    stand: Stand
    stretches: dict[str, Stretch] = field(default_factory=dict)
    hand: list[Parcel] = field(default_factory=list)
    told: list[tuple[Parcel, Outcome]] = field(default_factory=list)
    returned: list[Parcel] = field(default_factory=list)


class Machine(RuleBasedStateMachine):
    """The tables of egress beside what was really asked for, and really answered."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = Path(tempfile.mkdtemp(prefix="kivuko-machine-"))
        self._runner = asyncio.Runner()
        self._now = _BEGAN
        self._runs = 0
        self._zombies: list[Worker] = []
        self._asked: dict[str, set[tuple[int, int]]] = {study: set() for study in _STUDIES}
        self._closing: dict[str, int] = {}
        self._confirmed: set[Content] = set()
        #: What the archive committed itself to after it had said success for just that, and what it was asked and is to
        #: report: instances by transaction, with the sending that they were asked after.
        self._committed: set[Sending] = set()
        self._questions: list[tuple[Question, dict[str, Sending]]] = []
        self._reports: list[CommitmentReported] = []
        self._worker = self._runner.run(self._started())

    async def _started(self) -> Worker:
        """Start a run, as after a crash: nothing is known but what stands in the tables."""
        self._runs += 1
        url = f"sqlite://{self._folder / 'db'}"
        made = Stand(
            url,
            self._folder,
            archive(104, destination={"confirm": "commit"}),
            _SETTINGS,
            f"run-{self._runs}",
            lambda: self._now,
        )
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
        self._request(study, list(_VERSIONS[version]), version)

    @rule(
        study=st.sampled_from(_STUDIES),
        version=st.sampled_from(sorted(_VERSIONS)),
        chosen=st.sets(st.sampled_from(_CONTENTS), max_size=len(_CONTENTS)),
        closes=st.booleans(),
    )
    def request(self, study: str, version: int, chosen: set[tuple[int, int]], closes: bool) -> None:
        """Ask for some of a version, in any order with others, as often as it comes."""
        self._request(study, [each for each in _VERSIONS[version] if each in chosen], version if closes else None)

    def _request(self, study: str, chosen: list[tuple[int, int]], closes: int | None) -> None:
        values: dict[str, Any] = {"closes": False}
        if closes is not None:
            whole = contents(study, closes)
            values = {"study_version": closes, "expected": len(whole), "expected_hash": set_hash(whole)}
            self._closing[study] = max(self._closing.get(study, 0), closes)
        elif not chosen:
            return
        self._asked[study].update(chosen)
        wanted = [item(study, each) for each in chosen]
        self._runner.run(self._worker.stand.request(wanted, study=study, **values))

    @rule(most=st.integers(1, 5))
    def claim(self, most: int) -> None:
        worker = self._worker
        worker.hand += self._runner.run(worker.stand.work.claim("archive", most, worker.stretches))

    @precondition(lambda self: self._worker.hand)
    @rule(data=st.data(), verdict=st.sampled_from(list(Verdict)))
    def answer(self, data: st.DataObject, verdict: Verdict) -> None:
        """Have the receiver say something, which is not written down yet."""
        self._answer(self._worker, data.draw(st.integers(0, len(self._worker.hand) - 1)), verdict)

    def _answer(self, worker: Worker, which: int, verdict: Verdict) -> None:
        parcel = worker.hand.pop(which)
        if verdict in ARRIVED:
            self._confirmed.add((parcel.sop_instance_uid, parcel.content_hash))
        worker.told.append((parcel, Outcome(parcel.item, verdict, _STATUS.get(verdict, "object-damaged"), "Because.")))

    @precondition(lambda self: self._worker.hand)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        worker = self._worker
        worker.returned.append(worker.hand.pop(data.draw(st.integers(0, len(worker.hand) - 1))))

    @rule(ending=st.none() | st.sampled_from(_ENDINGS), most=st.integers(1, 5))
    def write_down(self, ending: Ending | None, most: int) -> None:
        self._write_down(self._worker, ending, most)

    def _write_down(self, worker: Worker, ending: Ending | None, most: int) -> None:
        told, worker.told = worker.told[:most], worker.told[most:]
        returned, worker.returned = worker.returned, []
        endings = [] if ending is None else [ending]
        over = ended(worker.stretches, told, returned, calling=not endings)
        if told or returned or over or endings:
            going_on = worker.stretches
            self._runner.run(worker.stand.work.settle("archive", told, returned, over, endings, going_on=going_on))

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
        self._write_down(zombie, Ending("stopped", "this process was asked to stop"), 99)
        self._runner.run(zombie.stand.database.close())

    @rule()
    def send_all(self) -> None:
        """Have all that is due arrive, and written down."""
        self.claim(20)
        while self._worker.hand:
            self._answer(self._worker, 0, Verdict.SENT)
        self._write_down(self._worker, Ending("finished"), 99)

    @rule(lost=st.booleans())
    def ask(self, lost: bool) -> None:
        """Ask for commitment; the archive may never hear of it."""
        self._ask(lost=lost)

    def _ask(self, *, lost: bool) -> None:
        confirmations = self._worker.stand.confirmations
        wanted = self._runner.run(confirmations.claim("archive", "PACS"))
        if not wanted:
            return
        current = self._runner.run(self._sent())
        self._questions += [
            (each, {uid: current[uid] for uid in (one.sop_instance_uid for one in each.references)}) for each in wanted
        ]
        found = Asked(problem="it broke off") if lost else Asked(taken=[each.transaction_uid for each in wanted])
        self._runner.run(confirmations.asked(wanted, found, self._now + timedelta(seconds=5)))

    async def _sent(self) -> dict[str, Sending]:
        items = await self._worker.stand.items()
        return {
            each.sop_instance_uid: (each.sop_instance_uid, each.content_hash, each.attempts)
            for each in items
            if each.state == "sent" and each.current
        }

    @precondition(lambda self: self._questions)
    @rule(data=st.data(), reason=st.sampled_from([0, 0, 0x0112, 0x0122, 0x0131]), part=st.booleans())
    def report(self, data: st.DataObject, reason: int, part: bool) -> None:
        """Have the archive report about any request that it ever had, as often as it likes."""
        question, asked = data.draw(st.sampled_from(self._questions))
        named = question.references[:1] if part else question.references
        if not reason:
            self._committed |= {asked[each.sop_instance_uid] for each in named}
        self._reports.append(said(question, named, reason))
        self._runner.run(self._take(self._reports[-1]))

    @precondition(lambda self: self._reports)
    @rule(data=st.data(), node=st.sampled_from(["PACS", "CT1"]))
    def report_again(self, data: st.DataObject, node: str) -> None:
        """Have an event of a report come once more, or say that it came from somebody else."""
        fact = data.draw(st.sampled_from(self._reports))
        self._runner.run(self._take(fact.model_copy(update={"node": node})))

    async def _take(self, fact: CommitmentReported) -> None:
        stand = self._worker.stand
        async with stand.database.transaction() as tx:
            await stand.confirmations.reported(tx, fact)

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
        found = {(each.sop_instance_uid, each.content_hash) for each in items}
        wanted = {
            (one.sop_instance_uid, one.content_hash)
            for study, asked in self._asked.items()
            for one in (item(study, each) for each in asked)
        }
        assert found == wanted, "an instance that was asked for is lost, or one that was not is there"
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
        said = [(each["study_instance_uid"], each["study_version"]) for each in told]
        assert len(said) == len(set(said)), "a version was told twice"
        for study, version in said:
            assert contents(study, version) <= self._confirmed, "told, and not confirmed"
            committed = {sending[:2] for sending in self._committed}
            assert contents(study, version) <= committed, "told, and not committed to"

    def _check_item(self, each: Row[Any], row: Row[Any]) -> None:
        if each.state == "sent":
            assert (each.sop_instance_uid, each.content_hash) in self._confirmed, "sent, and not confirmed"
        elif each.state == "pending" and each.current and each.leased_by is None:
            assert each.next_attempt_at is not None
            assert row.state in ("open", "waiting"), "an instance has to be sent, and its delivery has no turn"
            assert row.next_attempt_at is not None, "an instance has to be sent, and its delivery never comes up"
            assert row.next_attempt_at <= each.next_attempt_at

    def _check_delivery(self, row: Row[Any], items: list[Row[Any]]) -> None:
        current = [each for each in items if each.current]
        if row.state == "done":
            found = {(each.sop_instance_uid, each.content_hash) for each in current}
            assert {each.state for each in current} == {"sent"}, "done, and not all of it is sent"
            assert found == contents(row.study_instance_uid, row.study_version), "done, and it is another set"
            assert found <= self._confirmed, "done, and not confirmed"
            sendings = {(each.sop_instance_uid, each.content_hash, each.attempts) for each in current}
            assert sendings <= self._committed, "done, and not committed to since it was sent"
            assert all(each.committed_at is not None for each in current), "done, and a commitment is not written down"
        if row.state == "failed":
            assert any(each.state == "failed" for each in current)

    async def _finish(self) -> None:
        """Let everything be taken from now on."""
        worker = self._worker
        for parcel in worker.hand:
            worker.returned.append(parcel)
        worker.hand = []
        for _ in range(60):
            await self._confirm_all()
            for parcel in worker.hand:
                self._confirmed.add((parcel.sop_instance_uid, parcel.content_hash))
                worker.told.append((parcel, Outcome(parcel.item, Verdict.SENT, "0000")))
            worker.hand = []
            told, worker.told, returned, worker.returned = worker.told, [], worker.returned, []
            # There is an association all the time: nothing has to wait for its end.
            over = ended(worker.stretches, told, returned, calling=True)
            endings = [Ending("finished")]
            await worker.stand.work.settle("archive", told, returned, over, endings, going_on=worker.stretches)
            # Further than anything waits, to be sent or to be asked for again.
            self._now += timedelta(hours=25)
            worker.hand = await worker.stand.work.claim("archive", 5, worker.stretches)
            if not worker.hand and not await self._confirm_all():
                break
        else:
            pytest.fail("it never comes to an end")
        await self._check()
        for study in self._asked:
            await self._check_end(study)

    async def _confirm_all(self) -> bool:
        """Ask, and have the archive commit itself to everything at once; tell whether there was anything to ask."""
        stand = self._worker.stand
        wanted = await stand.confirmations.claim("archive", "PACS")
        await stand.confirmations.asked(wanted, Asked(taken=[each.transaction_uid for each in wanted]), self._now)
        current = await self._sent()
        for each in wanted:
            self._committed |= {current[one.sop_instance_uid] for one in each.references}
            await self._take(said(each, each.references, 0))
        return bool(wanted)

    async def _check_end(self, study: str) -> None:
        row = await self._worker.stand.delivery(study)
        if row is None:
            assert not self._asked[study]
            return
        current = [each for each in await self._worker.stand.items() if each.delivery_id == row.id and each.current]
        assert {each.state for each in current} <= {"sent", "failed"}, "something was not tried to its end"
        found = {(each.sop_instance_uid, each.content_hash) for each in current}
        closing = self._closing.get(study)
        if any(each.state == "failed" for each in current):
            assert row.state == "failed"
        elif closing is not None and found == contents(study, closing):
            assert row.state == "done"
        else:
            assert row.state == "open"


Machine.TestCase.settings = settings(
    max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)


TestCommitmentMachine = Machine.TestCase
