"""Compares what is in the database, on worklists and in the audit log with what was said and answered."""

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice, pairwise
from typing import Any, Final, TypeVar

from pydicom import Dataset
from sqlalchemy import Row, func, select

from libs.storage.database import Database
from services.audit.models import gaps, records
from services.worklist.models import changes, items, messages, messaging, mpps, mpps_items, mpps_messages, orders
from tests.soak.worklist_book import SHOWN, Book, Expected, Message, Order, Performed
from tests.support.process import wait_until
from tests.support.worklist import STEPS, find

T = TypeVar("T")
#: The node that all orders come from.
SOURCE: Final = "RIS"
#: The station that all orders are for.
STATION: Final = "CT1"
_AT_ONCE: Final = 400
#: How many changes a kind of message leaves in the journal, where it is not one.
_PARTS: Final = {"merge": 2, "inverse": 0}
_ASKED_PATIENTS: Final = 3
_RECENT: Final = 50
_PLACER: Final = "PlacerOrderNumberImagingServiceRequest"


@dataclass
class Looked:
    """How much was compared; `unheard`: messages that were kept, and the answer went down with the process."""

    messages: int = 0
    orders: int = 0
    items: int = 0
    steps: int = 0
    answers: int = 0
    events: int = 0
    unheard: int = 0


class Judge:
    """Looks at a Kivuko that nobody talks to just now.

    Parameters
    ----------
    database_url
        Of its services.
    """

    def __init__(self, book: Book, database_url: str) -> None:
        self._book = book
        self._url = database_url
        self._done: set[Message] = set()
        self.looked = Looked()

    def after_a_kill(self, lost: Iterable[Sequence[Message]], port: int) -> None:
        """Judge what was said since the last time; `lost`: what each sender had on its way, in its order."""
        new = [each for each in self._book.messages.values() if each not in self._done]
        recent = list(self._book.performed.values())[-_RECENT:]
        touched = asyncio.run(self._judge(new, recent))
        self._done |= {each for each in new if each.answers}
        self.looked.unheard += sum(each.kept and not each.answers for each in new)
        for sent in lost:
            self._in_turn(sent)
        for patient in sorted({each.patient for each in touched})[-_ASKED_PATIENTS:]:
            self._ask(port, patient)

    def at_the_end(self, port: int) -> None:
        """Judge everything."""
        asyncio.run(self._judge(list(self._book.messages.values()), list(self._book.performed.values())))
        self._ask(port, "*")
        try:
            wait_until(lambda: asyncio.run(self._all_told()), "every event to be in the audit log", 120)
        except TimeoutError as error:
            self._book.fault(str(error))
        asyncio.run(self._judge_events())

    def _in_turn(self, sent: Sequence[Message]) -> None:
        """What one connection brings is taken in its order: nothing is there before what was sent before it."""
        for earlier, later in pairwise(sent):
            if later.kept and not earlier.kept:
                self._book.fault(f"{later.control_id} is there, and {earlier.control_id}, sent before it, is not")

    async def _judge(self, said: Sequence[Message], performed: Sequence[Performed]) -> set[Order]:
        database = Database(self._url, "worklist")
        try:
            for some in _parts(said):
                await self._judge_messages(database, some)
            touched = self._book.touched(said) | {each.order for each in performed if each.order is not None}
            for steps in _parts(performed):
                await self._judge_performed(database, steps)
            for those in _parts(touched):
                await self._judge_orders(database, those)
        finally:
            await database.close()
        return touched

    async def _judge_messages(self, database: Database, said: Sequence[Message]) -> None:
        """Each is there once, as it was answered, with all of its changes; or not at all."""
        names = {f"{each.control_id} {sha256(each.raw).hexdigest()[:16]}": each for each in said}
        answers: dict[str, list[str]] = defaultdict(list)
        journal: Counter[Message] = Counter()
        async with database.reading() as tx:
            wanted = messages.c.control_id.in_([each.control_id for each in said])
            found = select(messages.c.control_id, messages.c.answer).where(messages.c.source == SOURCE, wanted)
            for row in await tx.execute(found):
                answers[row.control_id].append(row.answer)
            wanted = changes.c.message.in_(list(names))
            for name in await tx.scalars(select(changes.c.message).where(changes.c.source == SOURCE, wanted)):
                journal[names[name]] += 1
        for each in said:
            kept, what = answers[each.control_id], f"{each.control_id} ({each.kind})"
            each.kept = bool(kept)
            if each.answers and not kept:
                self._book.fault(f"{what} was answered {each.want} and is not in the database")
            if kept and kept != [each.want]:
                self._book.fault(f"{what} is kept as {kept}, not once as {each.want}")
            if journal[each] != (_PARTS.get(each.kind, 1) if kept else 0):
                self._book.fault(f"{what} is {'kept' if kept else 'not kept'}, and left {journal[each]} changes")
        self.looked.messages += len(said)

    async def _judge_orders(self, database: Database, those: Sequence[Order]) -> None:
        """Each is what follows from the messages that are there, in all of its items, and nothing else."""
        roots = self._book.roots()
        async with database.reading() as tx:
            by_placer: dict[str | None, Row[Any]] = {
                row.placer: row
                for row in await tx.execute(select(orders).where(orders.c.placer.in_([each.placer for each in those])))
            }
            of_order: dict[int, list[Row[Any]]] = defaultdict(list)
            wanted = items.c.order_id.in_([row.id for row in by_placer.values()])
            for row in await tx.execute(select(items).where(wanted)):
                of_order[row.order_id].append(row)
        for order in those:
            found, expected = by_placer.get(order.placer), self._book.expected(order, roots)
            if found is not None and expected is not None:
                self._judge_order(order, found, of_order[found.id], expected)
            elif found is not None:
                self._book.fault(f"{order.placer} is there, and no message of it")
            elif expected is not None:
                self._book.fault(f"{order.placer} is not there, and a message of it is")
        self.looked.orders += len(those)

    def _judge_order(self, order: Order, row: Row[Any], own: Sequence[Row[Any]], expected: Expected) -> None:
        if sorted(each.step_id for each in own) != sorted(order.steps):
            self._book.fault(f"{order.placer} has the items {[each.step_id for each in own]}, not {order.steps}")
        wanted = {"state": expected.state, "number": {f"T{expected.number}"}}
        if expected.state in SHOWN:
            wanted |= {"patient": expected.patient, "name": f"N{expected.named}^Ana"}
        for each in own:
            shows = _shown(each)
            if {name: shows[name] for name in wanted} != wanted:
                self._book.fault(f"{order.placer} shows {shows}, not {wanted}")
        if row.state != expected.state:
            self._book.fault(f"{order.placer} is {row.state}, not {expected.state}")
        self.looked.items += len(own)

    async def _judge_performed(self, database: Database, steps: Sequence[Performed]) -> None:
        """Each is as far as it was answered, or one request further; and so is the item that it names."""
        async with database.reading() as tx:
            uids = [each.uid for each in steps]
            rows = {
                row.sop_instance_uid: row
                for row in await tx.execute(select(mpps).where(mpps.c.sop_instance_uid.in_(uids)))
            }
            ids = [row.id for row in rows.values()]
            of_step = select(mpps_messages.c.mpps_id, func.count()).where(mpps_messages.c.mpps_id.in_(ids))
            kept = {row[0]: row[1] for row in await tx.execute(of_step.group_by(mpps_messages.c.mpps_id))}
            linked = select(mpps_items.c.mpps_id, items.c.performed, items.c.step_id).join(
                items, items.c.id == mpps_items.c.item_id
            )
            performed = {row.mpps_id: row for row in await tx.execute(linked.where(mpps_items.c.mpps_id.in_(ids)))}
        for step in steps:
            row, answered = rows.get(step.uid), [each for each in step.requests if each.answered]
            if row is None:
                if answered:
                    self._book.fault(f"{step.uid} was answered with success and is not there")
                continue
            sent = [each for each in step.requests if each.sent]
            said = row.attributes.get("PerformedProcedureStepDescription")
            could = [each for each in sent if each in answered[-1:] or not each.answered]
            if not any((row.state, said) == (each.state, [f"T{each.number}"]) for each in could):
                self._book.fault(f"{step.uid} is {row.state} {said}, and {len(answered)} requests were answered")
            if not len(answered) <= kept[row.id] <= sum(each.sent for each in sent):
                self._book.fault(f"{step.uid} has {kept[row.id]} requests, of {len(answered)} that were answered")
            if step.order is not None:
                found = performed.get(row.id)
                if found is None or (found.performed, found.step_id) != (row.state, step.order.steps[0]):
                    self._book.fault(f"{step.order.placer} was performed ({row.state}), and its item says {found}")
        self.looked.steps += len(steps)

    def _ask(self, port: int, patient: str) -> None:
        """What findscu sees is what the database has to be shown: of one patient, or of all."""
        query = Dataset()
        query.PatientID = self._book.roots().get(patient, patient)
        query.PlacerOrderNumberImagingServiceRequest = query.RequestedProcedureDescription = ""
        query.ScheduledProcedureStepSequence = [Dataset()]
        query.ScheduledProcedureStepSequence[0].ScheduledProcedureStepID = ""
        found, said = find(port, query, calling=STATION)
        if "Received Final Find Response (Success)" not in said:
            self._book.fault(f"findscu ended with: {said[-200:]}")
        seen = Counter(
            (str(each.PlacerOrderNumberImagingServiceRequest), str(each.RequestedProcedureDescription))
            for each in found
        )
        wanted = asyncio.run(self._listed(query.PatientID))
        if seen != wanted:
            self._book.fault(
                f"findscu sees too much {list(seen - wanted)[:3]}, or too little {list(wanted - seen)[:3]}"
            )
        self.looked.answers += len(found)

    async def _listed(self, patient: str) -> Counter[tuple[str, str]]:
        database = Database(self._url, "worklist")
        try:
            async with database.reading() as tx:
                ended = items.c.performed.in_(("completed", "discontinued"))
                shown = select(items.c.attributes).where(items.c.state.in_(SHOWN), ended.is_not(True))
                rows = list(await tx.scalars(shown))
        finally:
            await database.close()
        return Counter(
            (each[_PLACER][0], each["RequestedProcedureDescription"][0])
            for each in rows
            if patient in ("*", each["PatientID"][0])
        )

    # Events

    async def _all_told(self) -> bool:
        worklist, audit = Database(self._url, "worklist"), Database(self._url, "audit")
        try:
            async with worklist.reading() as tx:
                left = (await tx.execute(select(func.count()).select_from(messaging.outbox))).scalar_one()
                last = (await tx.execute(select(messaging.sequence.c.value))).scalar_one()
            async with audit.reading() as tx:
                count = select(func.count()).where(records.c.source.endswith("/worklist"))
                known = (await tx.execute(count)).scalar_one()
        finally:
            await worklist.close()
            await audit.close()
        return not left and known >= last

    async def _judge_events(self) -> None:
        """Every event is told once, none of what is not there, and the last of each order says what it is."""
        worklist, audit = Database(self._url, "worklist"), Database(self._url, "audit")
        try:
            async with audit.reading() as tx:
                ours = records.c.source.endswith("/worklist")
                rows = (await tx.execute(select(records).where(ours).order_by(records.c.sequence))).all()
                missing = (await tx.execute(select(gaps).where(gaps.c.source.endswith("/worklist")))).all()
            async with worklist.reading() as tx:
                told = {row.placer: row.told for row in await tx.execute(select(orders.c.placer, orders.c.told))}
                states = {row.sop_instance_uid: row.state for row in await tx.execute(select(mpps))}
                journal = select(orders.c.placer, changes.c.body).join(changes, changes.c.order_id == orders.c.id)
                first: dict[str | None, str] = {}
                for placer, said in await tx.execute(journal.order_by(changes.c.id)):
                    first.setdefault(placer, said["action"])
        finally:
            await worklist.close()
            await audit.close()
        if [row.sequence for row in rows] != list(range(1, len(rows) + 1)) or missing:
            self._book.fault(f"{len(rows)} events in the audit log are not numbered from 1 on; {len(missing)} gaps")
        of_order: dict[str, list[tuple[str, dict[str, Any]]]] = defaultdict(list)
        of_step: dict[str, list[str]] = defaultdict(list)
        for row in rows:
            (_, family, kind, _), data = row.type.split("."), json.loads(row.body)["data"]
            if family == "order":
                of_order[data["placer_order_number"]].append((kind, data))
            elif family == "procedure":
                of_step[data["mpps_instance_uid"]].append(kind)
        # Of an order that was given up before anything else came of it nobody has ever heard.
        stillborn = {placer for placer, action in first.items() if action == "cancel"}
        self._judge_order_events(of_order, told, stillborn)
        for uid in of_step.keys() | states.keys():
            state = states.get(uid, "not there")
            if of_step[uid] != (["started"] if state == "in-progress" else ["started", state]):
                self._book.fault(f"{uid} is {state}, and its events are {of_step[uid]}")
        self.looked.events = len(rows)

    def _judge_order_events(
        self,
        of_order: Mapping[str, Sequence[tuple[str, dict[str, Any]]]],
        told: Mapping[str, dict[str, Any]],
        stillborn: Collection[str | None],
    ) -> None:
        if of_order.keys() != told.keys():
            self._book.fault(f"events and orders differ: {sorted(of_order.keys() ^ told.keys())[:5]}")
        for placer, events in of_order.items():
            revisions = [data.pop("revision") for _, data in events]
            kinds = [kind for kind, _ in events]
            if "placed" in kinds[1:] or (kinds[0] == "placed") == (placer in stillborn):
                self._book.fault(f"{placer} was told to be placed not once and first: {kinds}")
            if revisions != sorted(set(revisions)):
                self._book.fault(f"{placer} was told in another order than it was changed: {revisions}")
            if events[-1][1] != told.get(placer):
                self._book.fault(f"the last event of {placer} says something else than the order is")


def _shown(row: Row[Any]) -> dict[str, Any]:
    """Give what an item shows of the messages that made it."""
    attributes = row.attributes
    [step] = attributes[STEPS]
    texts = (
        attributes.get("RequestedProcedureDescription"),
        attributes.get("RequestedProcedureComments"),
        step.get("ScheduledProcedureStepDescription"),
    )
    return {
        "state": row.state,
        "number": {text for each in texts for text in each or ("nothing",)},
        "patient": attributes["PatientID"][0],
        "name": attributes["PatientName"][0],
    }


def _parts(everything: Collection[T]) -> Iterator[list[T]]:
    rest = iter(everything)
    while some := list(islice(rest, _AT_ONCE)):
        yield some
