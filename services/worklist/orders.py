"""Orders and patients: what arrives is kept, folded and told in one transaction, and answered after its commit."""

import asyncio
import hashlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias

import asyncpg
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncSession

from libs.clock import Clock
from libs.messaging.outbox import Outbox
from libs.messaging.verdict import judge
from libs.storage.database import Database
from libs.telemetry import log
from services.worklist import body, matching_rows, repository
from services.worklist.change import Change, OrderChange, PatientChange, PatientMerge
from services.worklist.claim import claim, follow
from services.worklist.filing import Desk, Zones, file
from services.worklist.ledger import LONGEST, Key, Ledger, flaw
from services.worklist.linking import tell
from services.worklist.meeting import Meeting
from services.worklist.step_rows import compare

_LOG = log.get(__name__)
#: Most messages of one transaction.
TOGETHER: Final = 64
_NAMES: Final = ("study_instance_uid", "accession_number")
#: SQLSTATE: not serializable, deadlock, lock not to be had.
_WAITED_IN_VAIN: Final = ("40001", "40P01", "55P03")
#: Source, control identifier and digest of a message.
_Key: TypeAlias = tuple[str, str, str]


@dataclass(frozen=True)
class Received:
    """One message, or one act of a person.

    Attributes
    ----------
    source
        Key of the node that sent it, or `hand:` and who did it.
    control_id
        MSH-10, or an identifier of its own.
    raw
        The message as it came.
    received_at
        When it came, in UTC.
    changes
        What it says, in its order.
    warnings
        What could not be taken over as it stands, one sentence each, without personal data.
    tenant
        Of the source, where no change says it.
    refusal
        Why it says nothing that can be applied, without personal data; it has no changes then, and is kept as refused.
    """

    source: str
    control_id: str
    raw: bytes
    received_at: datetime
    changes: tuple[Change, ...]
    warnings: tuple[str, ...] = ()
    tenant: str | None = None
    refusal: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of a change.

    Attributes
    ----------
    result
        applied; repeated: known before; older: kept, but newer ones say otherwise already; refused.
    reason
        Why it was refused, for people; empty otherwise.
    order_id
        The order that it is about, if it is about one.
    """

    result: Literal["applied", "repeated", "older", "refused"]
    reason: str = ""
    order_id: int | None = None


@dataclass(frozen=True)
class Taken:
    """What became of a received message: one outcome a change, in their order.

    Attributes
    ----------
    repeated
        It came before; the outcomes are those of that time.
    """

    outcomes: tuple[Outcome, ...]
    repeated: bool = False


class NotTakenError(Exception):
    """Nothing of it was kept, for now: the database is away. What sent it is to send it again."""


@dataclass
class _Waiting:
    received: Received
    digest: str
    taken: asyncio.Future[Taken]


class Orders:
    """Takes what is said of orders and patients. Many callers at once share a transaction.

    Parameters
    ----------
    database, outbox
        Of worklist.
    zones
        Gives the time zone of a site.
    clock
        The time in UTC.
    meeting
        Finds the studies of orders that came after them.
    """

    def __init__(self, database: Database, outbox: Outbox, zones: Zones, clock: Clock, meeting: Meeting) -> None:
        self._database = database
        self._outbox = outbox
        self._zones = zones
        self._clock = clock
        self._meeting = meeting
        self._waiting: deque[_Waiting] = deque()
        self._working: asyncio.Task[None] | None = None

    async def take(self, received: Received) -> Taken:
        """Keep a message, apply what it says, and tell it; return after the commit.

        A message counts as a whole: if one of its changes is refused, none is applied, and what was refused is kept as
        well. A message that came before, byte by byte under the same control identifier, changes nothing and gets the
        same answer.

        Raises
        ------
        NotTakenError
            The database is away.
        """
        # The column takes no more; what is longer is told apart by its digest.
        received = replace(received, control_id=received.control_id[:LONGEST].replace("\0", " "))
        one = _Waiting(received, hashlib.sha256(received.raw).hexdigest(), asyncio.get_running_loop().create_future())
        self._waiting.append(one)
        if self._working is None:
            self._working = asyncio.create_task(self._work())
            self._working.add_done_callback(self._worked)
        # Who waits may give up: what was begun is brought to an end all the same.
        return await asyncio.shield(one.taken)

    async def unmerge(self, merge_id: int, tenant: str, who: str, reason: str | None) -> bool:
        """Undo a merge: each identifier has again what was said under it. False: it is undone already, or unknown."""
        async with self._database.transaction() as tx:
            counters = await repository.lock(tx)
            merge = await repository.open_merge(tx, merge_id, tenant)
            if merge is None:
                return False
            ledger, numbered = await self._open(tx, counters, [merge.as_change])
            ledger.unmerge(merge.merged_id)
            ledger.settle()
            await self._save(tx, counters, ledger, numbered)
            await self._compare(tx, {merge.merged_id, merge.kept_id})
            await repository.close_merge(tx, merge_id, self._clock(), who, reason)
            await repository.give_back(tx, counters)
        return True

    def _worked(self, task: "asyncio.Task[None]") -> None:
        self._working = None
        if not task.cancelled() and task.exception() is not None:
            _LOG.error("orders could not be taken", error=type(task.exception()).__name__)
        if self._waiting:
            self._working = asyncio.create_task(self._work())
            self._working.add_done_callback(self._worked)

    async def _work(self) -> None:
        while self._waiting:
            group = [self._waiting.popleft() for _ in range(min(TOGETHER, len(self._waiting)))]
            try:
                results = await self._take(group)
            except Exception as error:  # noqa: BLE001 - judged below, and each of them hears of it
                await self._each_alone(group, error)
            except BaseException:
                for one in group:
                    one.taken.cancel()
                raise
            else:
                for one, taken in zip(group, results, strict=True):
                    _answer(one, taken)

    async def _each_alone(self, group: Sequence[_Waiting], error: Exception) -> None:
        """Nothing of the group stands: take each alone, so that what fails of itself holds up no other."""
        if _is_away(error) or len(group) == 1:
            for one in group:
                _fail(one, error)
            return
        for one in group:
            try:
                [taken] = await self._take([one])
            except Exception as alone:  # noqa: BLE001 - its sender hears of it
                _fail(one, alone)
            else:
                _answer(one, taken)

    async def _take(self, group: Sequence[_Waiting]) -> list[Taken]:
        async with self._database.transaction() as tx:
            counters = await repository.lock(tx)
            before = await repository.answered(tx, map(_key, group))
            # What could not be read may be read now: people have mended the mapping, and have it sent again.
            unread = {key for key, row in before.items() if not row.outcomes}
            answers = {key: _read(row.outcomes) for key, row in before.items() if row.outcomes}
            fresh = {_key(one): one for one in group if _key(one) not in answers}
            if fresh:
                said = {key: _named(one) for key, one in fresh.items()}
                changes = [change for those in said.values() for change in those if flaw(change) is None]
                ledger, numbered = await self._open(tx, counters, changes)
                ledger.performed |= await matching_rows.with_studies(tx, ledger.of_others(changes))
                rows, outcomes = _applied(ledger, said)
                answers |= outcomes
                written, gone = await self._save(tx, counters, ledger, numbered)
                await repository.save_changes(tx, rows)
                await repository.save_messages(tx, [_row(one, outcomes[key]) for key, one in fresh.items()], unread)
                await repository.give_back(tx, counters)
                await follow(tx, gone, self._clock())
                await claim(tx, written, self._clock())
        return [Taken(answers[_key(one)], repeated=fresh.get(_key(one)) is not one) for one in group]

    async def _open(
        self, tx: AsyncSession, counters: repository.Counters, changes: Sequence[Change]
    ) -> tuple[Ledger, dict[int, frozenset[Key]]]:
        patients, entries = await repository.load(tx, changes)
        numbered = {entry.id: frozenset(entry.numbers) for entry in entries}
        return Ledger(patients, entries, counters.next_row), numbered

    async def _save(
        self,
        tx: AsyncSession,
        counters: repository.Counters,
        ledger: Ledger,
        numbered: Mapping[int, frozenset[Key]],
    ) -> tuple[list[tuple[str, str, str]], set[int]]:
        """Write all of it.

        Returns
        -------
        list and set
            Tenant, Study Instance UID and accession number of each order that was written; items that were taken off.
        """
        now = self._clock()
        filing = file(ledger, numbered, Desk(counters.next_revision, counters.next_row, self._zones, now))
        new = {patient.id for patient in ledger.new_patients}
        changed = [ledger.patients[each] for each in sorted(new | ledger.changed_patients)]
        await repository.save_patients(tx, changed, ledger.new_patients, now)
        await repository.save_orders(tx, filing.new_orders, filing.old_orders)
        await repository.save_numbers(tx, filing.numbers, filing.without_numbers)
        await repository.move_changes(tx, filing.moves)
        moved = await self._meeting.moved(tx, filing.wholes)
        await repository.save_items(tx, filing.new_items, filing.old_items)
        await repository.save_merges(tx, [_merge_row(*one, now) for one in ledger.new_merges])
        for event, tenant, site in filing.events:
            await self._outbox.emit(tx, event, subject=event.study_instance_uid, tenant=tenant, site=site)
        for tenant in {tenant for _, tenant, _ in filing.events}:
            those = [event for event, whose, _ in filing.events if whose == tenant]
            uids, accessions = ({getattr(one, name) for one in those} for name in _NAMES)
            moved |= await self._meeting.placed(tx, tenant, sorted(uids), sorted(accessions))
        wholes = {each for those in filing.wholes.values() for each in those}
        heirs = filing.heirs | {ledger.entries[each].columns["patient_id"] for each in wholes}
        await self._compare(tx, heirs | {each for _, _, *both in ledger.new_merges for each in both})
        await tell(tx, self._outbox, moved, counters, now)
        written = (*filing.new_orders, *filing.old_orders)
        return [(row["tenant"], row["study_instance_uid"], row["accession"]) for row in written], filing.gone

    async def _compare(self, tx: AsyncSession, patient_ids: set[int]) -> None:
        """See anew what contradicts what, as patients were merged or parted, or orders went to another."""
        if patient_ids:
            await self._meeting.compare(tx, patient_ids)
            count = await compare(tx, patient_ids)
            if count:
                _LOG.warning(
                    "performed procedure steps name other patients than their orders by now",
                    count=count,
                    advice="compare modality and order: see `kivuko worklist steps`",
                )


def _applied(
    ledger: Ledger, said: Mapping[_Key, Sequence[Change]]
) -> tuple[list[dict[str, Any]], dict[_Key, tuple[Outcome, ...]]]:
    """Apply messages to a ledger, and settle it; give the rows of the journal, and what became of each change."""
    taken: dict[_Key, list[tuple[Change, int | None]]] = {}
    outcomes: dict[_Key, tuple[Outcome, ...]] = {}
    for key, changes in said.items():
        objections = ledger.objections(changes)
        if any(objections):
            why = "another part of the message is refused, and a message counts as a whole"
            outcomes[key] = tuple(Outcome("refused", reason or why) for reason in objections)
        else:
            taken[key] = [(change, ledger.take(change)) for change in changes]
    ledger.settle()
    rows = []
    for key, those in taken.items():
        made = []
        for change, order_id in those:
            whole = None if order_id is None else ledger.whole(order_id)
            late = isinstance(change, OrderChange) and whole is not None and ledger.is_older(whole, change)
            made.append(Outcome("older" if late else "applied", order_id=whole))
            rows.append(_journal(ledger, change, whole))
        outcomes[key] = tuple(made)
    return rows, outcomes


def _journal(ledger: Ledger, change: Change, order_id: int | None) -> dict[str, Any]:
    kinds = {OrderChange: "order", PatientChange: "patient", PatientMerge: "merge"}
    number = change.kept if isinstance(change, PatientMerge) else change.patient
    return {
        "tenant": change.tenant,
        "source": change.origin.source,
        "message": change.origin.message,
        "part": change.origin.part,
        "stamp": change.origin.stamp,
        "kind": kinds[type(change)],
        "order_id": order_id,
        "patient_id": ledger.patient(change.tenant, number).id,
        "body": body.written(change),
    }


def _merge_row(row_id: int, merge: PatientMerge, kept: int, merged: int, now: datetime) -> dict[str, Any]:
    return {
        "id": row_id,
        "tenant": merge.tenant,
        "kept_id": kept,
        "merged_id": merged,
        "source": merge.origin.source,
        "message": merge.origin.message,
        "merged_at": now,
    }


def _row(one: _Waiting, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    received = one.received
    reasons = [outcome.reason for outcome in outcomes if outcome.result == "refused"]
    return {
        "tenant": received.changes[0].tenant if received.changes else received.tenant,
        "source": received.source,
        "control_id": received.control_id,
        "digest": one.digest,
        "received_at": received.received_at,
        "raw": received.raw,
        "answer": "AE" if reasons or not outcomes else "AA",
        "said": "; ".join(dict.fromkeys(reasons)) or received.refusal,
        "outcomes": [vars(outcome) for outcome in outcomes],
        "warnings": list(received.warnings),
    }


def _named(one: _Waiting) -> list[Change]:
    """Give the changes the name of their message for ever: some senders use a control identifier more than once."""
    name = f"{one.received.control_id} {one.digest[:16]}"
    return [replace(change, origin=replace(change.origin, message=name)) for change in one.received.changes]


def _key(one: _Waiting) -> _Key:
    return one.received.source, one.received.control_id, one.digest


def _read(outcomes: Sequence[Mapping[str, Any]]) -> tuple[Outcome, ...]:
    return tuple(Outcome(**outcome) for outcome in outcomes)


def _is_away(error: Exception) -> bool:
    """Tell whether it was the database, and nothing in what was received."""
    away = (OSError, asyncpg.InterfaceError, PoolTimeoutError)
    state = str(getattr(getattr(error, "orig", error), "sqlstate", None) or "")
    return judge(error).ours or isinstance(error, away) or state in _WAITED_IN_VAIN


def _answer(one: _Waiting, taken: Taken) -> None:
    if not one.taken.done():
        one.taken.set_result(taken)


def _fail(one: _Waiting, error: Exception) -> None:
    if _is_away(error):
        error = NotTakenError("the database is away: send it again")
    _LOG.error("a message was not taken", source=one.received.source, error=type(error).__name__)
    if not one.taken.done():
        one.taken.set_exception(error)
