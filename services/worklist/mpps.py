"""Performed procedure steps of modalities: N-CREATE, N-SET and N-GET. PS3.4 sections F.7 and F.8.

==========  ==============================================================================================
status      when
==========  ==============================================================================================
0000        it is on stable storage, with what follows from it: items, events, forwards
0001        N-GET: some attributes that were asked for are not kept
0105        N-SET names what it may not set, or what N-CREATE has not named (`mpps.strict`)
0106        a status other than IN PROGRESS at N-CREATE; a date, time, UID or status that is none
0107        N-SET would change what it may not: that stays as it was, the rest is taken
0110        the bytes are no dataset; the database is away; with Error ID A710, the step has its final state
0111        N-CREATE of a UID that is there: also the same content again, from a modality that saw no answer
0112        N-SET and N-GET of a UID that is not there
0117        a SOP Instance UID that is none
0120, 0121  what is vital is missing, or has no value (with `mpps.strict`: whatever the table asks for)
==========  ==============================================================================================
"""

import asyncio
import concurrent.futures
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime, tzinfo
from typing import Any, Final
from zoneinfo import ZoneInfo

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.definition import Definition
from contracts.fact import Fact, Source
from contracts.procedure import PerformedSeries, ProcedureCompleted, ProcedureDiscontinued, ProcedureStarted
from libs.clock import Clock
from libs.dicom import dictionary
from libs.messaging.listen import DATABASE_AWAY
from libs.messaging.outbox import Outbox
from libs.snapshot import NetworkView
from libs.storage.database import Database
from libs.telemetry import log
from services.worklist import dataset, link, metric, repository, step, step_rows
from services.worklist.attributes import Attributes
from services.worklist.caller import Caller, Done
from services.worklist.step import Accepted, Refused, State

_LOG = log.get(__name__)
#: Seconds in which an answer must be there. What commits later is answered as a duplicate when it comes again.
_PATIENCE: Final = 30.0
#: Lapses that are kept of a step, each once.
_MOST_LAPSES: Final = 50
_LONGEST_PATIENT: Final = 255
_AWAY: Final = "the database can't be reached now: send it again"


class Steps:
    """The provider. `create`, `set` and `get` from the threads of associations.

    Parameters
    ----------
    loop
        Event loop that the database belongs to.
    forwarded
        Called in it when there is something to forward.
    """

    def __init__(
        self,
        database: Database,
        outbox: Outbox,
        network: NetworkView,
        clock: Clock,
        *,
        loop: asyncio.AbstractEventLoop,
        forwarded: Callable[[], None] = lambda: None,
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._network = network
        self._clock = clock
        self._loop = loop
        self._forwarded = forwarded

    def create(self, caller: Caller, sop_instance_uid: str, data: bytes, syntax: str) -> Done:
        """Answer an N-CREATE, PS3.4 section F.7.2.1."""
        return self._answered("N-CREATE", caller, sop_instance_uid, syntax, data, self._create)

    def set(self, caller: Caller, sop_instance_uid: str, data: bytes, syntax: str) -> Done:
        """Answer an N-SET, PS3.4 section F.7.2.2."""
        return self._answered("N-SET", caller, sop_instance_uid, syntax, data, self._set)

    def get(self, caller: Caller, sop_instance_uid: str, attributes: tuple[int, ...], syntax: str) -> Done:
        """Answer an N-GET, PS3.4 section F.8.2."""

        async def look(*_: object) -> tuple[Attributes, int] | Refused:
            async with self._database.reading() as tx:
                row = await step_rows.find(tx, caller.tenant, sop_instance_uid)
            if row is None:
                return Refused(step.NO_SUCH_SOP_INSTANCE, "no step with this SOP Instance UID is known")
            kept = as_attributes(row.attributes)
            named, unknown = dataset.named(kept, attributes)
            return step.retrieve(kept, named, unknown=unknown)

        return self._waited("N-GET", caller, sop_instance_uid, syntax, look())

    def _answered(
        self,
        operation: str,
        caller: Caller,
        uid: str,
        syntax: str,
        data: bytes,
        work: Callable[[Caller, str, Attributes, bytes, str], Coroutine[Any, Any, Accepted | Refused]],
    ) -> Done:
        if not step.is_uid(uid):
            refused = Refused(step.INVALID_OBJECT_INSTANCE, "the SOP Instance UID is none")
            return self._refuse(operation, caller, "", syntax, refused)
        try:
            said = dataset.decode(data, syntax)
        except dataset.UnreadableError as error:
            return self._refuse(operation, caller, uid, syntax, Refused(step.PROCESSING_FAILURE, str(error)))
        return self._waited(operation, caller, uid, syntax, work(caller, uid, said, data, syntax), said)

    def _waited(
        self,
        operation: str,
        caller: Caller,
        uid: str,
        syntax: str,
        work: Coroutine[Any, Any, Accepted | Refused | tuple[Attributes, int]],
        said: Attributes | None = None,
    ) -> Done:
        waiting = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            answer = waiting.result(_PATIENCE)
        except (TimeoutError, concurrent.futures.CancelledError, *DATABASE_AWAY) as error:
            waiting.cancel()
            metric.FAILURES.labels(kind="mpps").inc()
            _LOG.error(
                "performed procedure step not taken: the modality was told to send it again",
                kind=operation,
                node=caller.node,
                reason=type(error).__name__,
            )
            return self._refuse(operation, caller, uid, syntax, Refused(step.PROCESSING_FAILURE, _AWAY))
        if isinstance(answer, Refused):
            return self._refuse(operation, caller, uid, syntax, answer, said)
        metric.STEPS.labels(kind=operation, outcome="taken").inc()
        if isinstance(answer, Accepted):
            return self._accept(operation, caller, uid, answer)
        attributes, status = answer
        return Done(status, dataset.encode(attributes, syntax))

    def _accept(self, operation: str, caller: Caller, uid: str, answer: Accepted) -> Done:
        _LOG.info(
            "performed procedure step created" if operation == "N-CREATE" else "performed procedure step changed",
            sop_instance_uid=uid,
            node=caller.node,
            tenant=caller.tenant,
            state=answer.state,
        )
        if not answer.left_out:
            return Done(answer.status)
        return Done(answer.status, comment=_named(answer.left_out), attributes=_tags(answer.left_out))

    def _refuse(
        self, operation: str, caller: Caller, uid: str, syntax: str, refused: Refused, said: Attributes | None = None
    ) -> Done:
        known = {"kind": operation, "sop_instance_uid": uid, "node": caller.node, "tenant": caller.tenant}
        if refused.repeated:
            metric.STEPS.labels(kind=operation, outcome="repeated").inc()
            _LOG.info(
                "performed procedure step said again what is known: its modality has probably seen no answer", **known
            )
        else:
            metric.STEPS.labels(kind=operation, outcome="refused").inc()
            _LOG.warning(
                "performed procedure step refused", status=f"{refused.status:04X}", reason=refused.comment, **known
            )
        wrong = {keyword: said[keyword] for keyword in refused.keywords if said is not None and keyword in said}
        lists_values = refused.status in (step.INVALID_ATTRIBUTE_VALUE, step.MISSING_ATTRIBUTE_VALUE)
        return Done(
            refused.status,
            dataset.encode(wrong, syntax) if wrong and lists_values else None,
            refused.comment,
            refused.error_id,
            _tags(refused.keywords),
        )

    async def _create(self, caller: Caller, uid: str, said: Attributes, data: bytes, syntax: str) -> Accepted | Refused:
        definition = self._definition()
        now = self._clock()
        async with self._database.transaction() as tx:
            # First, as by all that write items: no two wait for each other.
            await repository.lock(tx)
            row = await step_rows.find(tx, caller.tenant, uid)
            if row is not None:
                return await self._known(tx, row, said)
            answer = step.create(said, strict=definition.mpps.strict)
            if isinstance(answer, Refused):
                return answer
            mpps_id = await step_rows.insert(
                tx,
                {
                    **_columns(answer, _zone(definition, caller.site), now),
                    "tenant": caller.tenant,
                    "site": caller.site,
                    "node": caller.node,
                    "sop_instance_uid": uid,
                    "lapses": _sentences(answer),
                    "repeated": 0,
                    "created_at": now,
                },
            )
            await step_rows.keep_message(tx, mpps_id, caller.calling_aet, now, syntax, data)
            references = link.references(answer.attributes)
            candidates = await step_rows.candidates(tx, caller.tenant, references)
            patient, issuer = step.text(said, "PatientID"), step.text(said, "IssuerOfPatientID")
            performed = link.Performed(patient, issuer, step.text(said, "Modality"), caller.site)
            links = [link.choose(each, candidates, performed) for each in references]
            await step_rows.keep_references(tx, mpps_id, references, links)
            await self._follow(tx, mpps_id, now)
            await step_rows.forward(tx, mpps_id, forwarded_to(definition, caller.node, caller.tenant), now)
            await self._tell(tx, caller, uid, answer, _zone(definition, caller.site))
        self._forwarded()
        if any(found is not None and found.contradicts for found in links):
            _LOG.warning(
                "performed procedure step names another patient than its order",
                sop_instance_uid=uid,
                node=caller.node,
                tenant=caller.tenant,
                advice="compare modality and order: see `kivuko worklist steps`",
            )
        return answer

    async def _known(self, tx: AsyncSession, row: Row[Any], said: Attributes) -> Refused:
        """Answer an N-CREATE of a UID that is there."""
        first = await step_rows.message(tx, row.id, 0)
        refused = step.create(said, {})
        again = first is not None and dataset.decode(first.dataset, first.transfer_syntax_uid) == said
        if again:
            await step_rows.note_repeated(tx, row.id)
        return Refused(refused.status, refused.comment if isinstance(refused, Refused) else "", repeated=again)

    async def _set(self, caller: Caller, uid: str, said: Attributes, data: bytes, syntax: str) -> Accepted | Refused:
        definition = self._definition()
        now = self._clock()
        async with self._database.transaction() as tx:
            await repository.lock(tx)
            row = await step_rows.find(tx, caller.tenant, uid)
            if row is None:
                return Refused(step.NO_SUCH_SOP_INSTANCE, "no step with this SOP Instance UID was created")
            answer = step.change(as_attributes(row.attributes), said, strict=definition.mpps.strict)
            if isinstance(answer, Refused):
                if answer.repeated:
                    await step_rows.note_repeated(tx, row.id)
                return answer
            zone = _zone(definition, row.site)
            values = _columns(answer, zone, now)
            values["lapses"] = list(dict.fromkeys((*row.lapses, *_sentences(answer))))[:_MOST_LAPSES]
            await step_rows.change(tx, row.id, values)
            await step_rows.keep_message(tx, row.id, caller.calling_aet, now, syntax, data)
            await step_rows.more_to_forward(tx, row.id, now)
            if answer.state != "in-progress":
                await self._follow(tx, row.id, now)
                await self._tell(tx, caller, uid, answer, zone)
        self._forwarded()
        return answer

    async def _follow(self, tx: AsyncSession, mpps_id: int, now: datetime) -> None:
        """Let the items that a step is follow it."""
        of_step = await step_rows.items_of(tx, mpps_id)
        if of_step:
            await step_rows.mark(tx, await step_rows.effects(tx, of_step), now)

    async def _tell(self, tx: AsyncSession, caller: Caller, uid: str, answer: Accepted, zone: tzinfo) -> None:
        for study_uid, event in events(uid, answer, zone, _source(caller)):
            await self._outbox.emit(tx, event, subject=study_uid, tenant=caller.tenant, site=caller.site)

    def _definition(self) -> Definition:
        snapshot = self._network.current
        if snapshot is None:
            raise RuntimeError("an association was admitted without a network definition")
        return snapshot.definition


def as_attributes(document: Any) -> Attributes:
    """Read attributes as the database keeps them: tuples have become lists there."""
    return {
        keyword: tuple(value if isinstance(value, str) else as_attributes(value) for value in values)
        for keyword, values in document.items()
    }


def events(uid: str, answer: Accepted, zone: tzinfo, source: Source) -> list[tuple[str, Fact]]:
    """Say what has become of a step, once for each study that it names.

    Numbers are given for a single study only: which series belongs to which of several is not said.
    """
    attributes = answer.attributes
    studies = step.studies(attributes)
    made = step.series(attributes)
    accessions: dict[str, str] = {}
    for reference in link.references(attributes):
        accessions.setdefault(reference.study_instance_uid, reference.accession)
    kinds: dict[State, type[Fact]] = {
        "in-progress": ProcedureStarted,
        "completed": ProcedureCompleted,
        "discontinued": ProcedureDiscontinued,
    }
    told: list[tuple[str, Fact]] = []
    for study_uid in studies:
        facts: dict[str, Any] = {
            "mpps_instance_uid": uid,
            "study_instance_uid": study_uid,
            "accession_number": accessions[study_uid] or None,
            "station_aet": step.text(attributes, "PerformedStationAETitle"),
            "modality": step.text(attributes, "Modality"),
            "source": source,
            "started_at": step.moment(attributes, "Start", zone),
        }
        if answer.state != "in-progress":
            facts["ended_at"] = step.moment(attributes, "End", zone)
            if len(studies) == 1:
                facts["instance_count"] = sum(each.instances for each in made)
                facts["series"] = tuple(
                    PerformedSeries(series_instance_uid=each.series_instance_uid, instance_count=each.instances)
                    for each in made
                )
        if answer.state == "discontinued":
            facts["wrong_entry"] = step.wrong_entry(attributes)
        told.append((study_uid, kinds[answer.state].model_validate(facts)))
    return told


def forwarded_to(definition: Definition, node: str, tenant: str) -> tuple[str, ...]:
    """Name the nodes that get the steps of a node: of its own tenant only, and never itself."""
    forward = (key for key in definition.mpps.forward if key in definition.nodes)
    return tuple(key for key in forward if key != node and definition.tenant_of(key) == tenant)


def _columns(answer: Accepted, zone: tzinfo, now: datetime) -> dict[str, Any]:
    attributes = answer.attributes
    return {
        "state": answer.state,
        "station_aet": step.text(attributes, "PerformedStationAETitle"),
        "modality": step.text(attributes, "Modality"),
        "patient": step.text(attributes, "PatientID")[:_LONGEST_PATIENT],
        "attributes": attributes,
        "started_at": step.moment(attributes, "Start", zone),
        "ended_at": None if answer.state == "in-progress" else step.moment(attributes, "End", zone),
        "instance_count": sum(each.instances for each in step.series(attributes)),
        "wrong_entry": step.wrong_entry(attributes),
        "changed_at": now,
    }


def _sentences(answer: Accepted) -> list[str]:
    return [str(lapse) for lapse in answer.lapses][:_MOST_LAPSES]


def _zone(definition: Definition, site: str) -> ZoneInfo:
    known = definition.sites.get(site)
    return ZoneInfo((known.timezone if known is not None else None) or definition.timezone)


def _source(caller: Caller) -> Source:
    return Source(
        site=caller.site,
        node=caller.node,
        calling_aet=caller.calling_aet,
        called_aet=caller.called_aet,
        address=caller.address,
    )


def _named(keywords: Sequence[str]) -> str:
    return f"not changed: {', '.join(keywords)}"


def _tags(keywords: Sequence[str]) -> tuple[int, ...]:
    found = dictionary.tags_of(frozenset(keywords))
    return tuple(sorted(found[keyword] for keyword in keywords if keyword in found))
