"""Notes who the patients of studies are, and flags studies that contradict each other: `services.ingest.patient`."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Result, Row, func, select, union_all, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.definition import Definition
from contracts.fact import Attributes
from contracts.study import StudyFlagged
from libs.clock import Clock
from libs.messaging.outbox import Outbox
from libs.telemetry import log
from services.ingest import metric
from services.ingest.models import flags, patients, studies
from services.ingest.patient import SAID, Identity, Patient, contradictions, patient_of

_LOG = log.get(__name__)
#: A Patient ID that so many studies use is no patient's, such as 0 or UNKNOWN: more pairs would tell people nothing.
MOST_STUDIES: Final = 50
_MOST_COMPARED: Final = 4 * MOST_STUDIES
_REMEMBERED: Final = 50_000

#: Tenant, Study Instance UID, and a patient that it names.
Said = tuple[str, str, Patient]


class Flagging:
    """Compares the patients of what is indexed with those that are known.

    Parameters
    ----------
    definition
        Gives the network definition in force: the issuer of a node's Patient IDs stands there.
    """

    def __init__(self, outbox: Outbox, *, definition: Callable[[], Definition | None], clock: Clock) -> None:
        self._outbox = outbox
        self._definition = definition
        self._clock = clock
        self._noted: OrderedDict[Said, None] = OrderedDict()

    async def note(
        self, tx: AsyncSession, study: tuple[str, str], source: tuple[str, str], attributes: Iterable[Attributes]
    ) -> list[Said]:
        """Note the patients of instances, and flag what they contradict, in the transaction that indexes them.

        Parameters
        ----------
        study
            Tenant and Study Instance UID.
        source
            Site and node that sent them.
        attributes
            Base attributes of each instance.

        Returns
        -------
        list
            What to `remember` once the transaction is committed.
        """
        issuer = self._issuer(source[1])
        # Nearly always all instances say the same of their patient, which takes long to bring into the compared form.
        said = {tuple(str(each.get(keyword, "")) for keyword in SAID): each for each in attributes}
        found = {patient_of(each, issuer) for each in said.values()} - {None}
        new = sorted(patient for patient in found if patient and (*study, patient) not in self._noted)
        if not new:
            return []
        study_id = await tx.scalar(
            select(studies.c.id).where(studies.c.tenant == study[0], studies.c.study_uid == study[1])
        )
        if study_id is None:
            raise RuntimeError("a study vanished while it was indexed")
        for identity in sorted({patient.identity for patient in new}):
            mine = [patient for patient in new if patient.identity == identity]
            await self._compare(tx, study, source[0], int(study_id), mine)
        return [(*study, patient) for patient in new]

    def remember(self, said: Iterable[Said]) -> None:
        """What was noted is committed: it need not be looked up for a while."""
        for each in said:
            self._noted[each] = None
        while len(self._noted) > _REMEMBERED:
            self._noted.popitem(last=False)

    def _issuer(self, node: str) -> str | None:
        definition = self._definition()
        known = None if definition is None else definition.nodes.get(node)
        return None if known is None else known.issuer

    async def _compare(
        self, tx: AsyncSession, study: tuple[str, str], site: str, study_id: int, mine: Sequence[Patient]
    ) -> None:
        tenant, identity, now = study[0], mine[0].identity, self._clock()
        await _alone(tx, tenant, identity)
        rows = [
            {
                "tenant": tenant,
                "issuer": identity.issuer,
                "patient_id": identity.patient_id,
                "name_key": patient.name_key,
                "birth_date": patient.birth_date,
                "study_id": study_id,
                "seen_at": now,
            }
            for patient in mine
        ]
        noted = _absent(tx, patients).values(rows).returning(patients.c.name_key, patients.c.birth_date)
        added = await tx.execute(noted)
        new = [Patient(identity, row.name_key, row.birth_date) for row in added]
        if not new:
            return
        known = {row for patient in new for row in await _others(tx, tenant, patient)}
        ids = {row.study_uid: row.study_id for row in known}
        against = contradictions(
            study[1], new, [(row.study_uid, Patient(identity, row.name_key, row.birth_date)) for row in known]
        )
        if len(against) > MOST_STUDIES:
            _LOG.warning("Patient ID of no one patient, not compared further", study_uid=study[1], tenant=tenant)
            return
        for other, fields in sorted(against.items()):
            await self._flag(tx, (tenant, study[1], study_id), other, fields, site, now)
            if other != study[1]:
                await self._flag(tx, (tenant, other, ids[other]), study[1], fields, site, now)

    async def _flag(
        self,
        tx: AsyncSession,
        study: tuple[str, str, int],
        other: str,
        fields: Sequence[str],
        site: str,
        now: datetime,
    ) -> None:
        tenant, study_uid, study_id = study
        row = {
            "study_id": study_id,
            "kind": "patient-conflict",
            "fields": list(fields),
            "other_study_uid": other,
            "raised_at": now,
        }
        added = await tx.scalars(_absent(tx, flags).values(row).returning(flags.c.id))
        if added.first() is None:
            mine = (flags.c.study_id == study_id, flags.c.kind == row["kind"], flags.c.other_study_uid == other)
            before = (await tx.execute(select(flags.c.id, flags.c.fields).where(*mine))).one()
            fields = sorted({*before.fields, *fields})
            if fields == before.fields:
                return
            # Something else differs too: who cleared it did not know.
            await tx.execute(
                update(flags).where(flags.c.id == before.id).values(fields=fields, cleared_at=None, cleared_by=None)
            )
        event = StudyFlagged(
            study_instance_uid=study_uid,
            kind="patient-conflict",
            fields=tuple(fields),
            other_study_instance_uid=other,
        )
        await self._outbox.emit(tx, event, subject=study_uid, tenant=tenant, site=site)
        metric.FLAGS.labels(kind="patient-conflict").inc()
        _LOG.warning("study flagged", study_uid=study_uid, tenant=tenant, kind="patient-conflict")


async def _others(tx: AsyncSession, tenant: str, patient: Patient) -> list[Row[Any]]:
    """Give whoever has the same identity and another name or birth date, as ranges of the index on them.

    A Patient ID may stand in any number of studies; those that say the same are passed over without being read.
    """
    mine = (
        patients.c.tenant == tenant,
        patients.c.issuer == patient.identity.issuer,
        patients.c.patient_id == patient.identity.patient_id,
    )
    same_name = patients.c.name_key == patient.name_key
    ranges = (
        (patients.c.name_key < patient.name_key,),
        (patients.c.name_key > patient.name_key,),
        (same_name, patients.c.birth_date < patient.birth_date),
        (same_name, patients.c.birth_date > patient.birth_date),
    )
    found = union_all(
        *(
            select(patients.c.study_id, patients.c.name_key, patients.c.birth_date).where(*mine, *each)
            for each in ranges
        )
    ).subquery()
    rows: Result[Any] = await tx.execute(
        select(found.c.study_id, studies.c.study_uid, found.c.name_key, found.c.birth_date)
        .join(studies, studies.c.id == found.c.study_id)
        .limit(_MOST_COMPARED)
    )
    return list(rows)


async def _alone(tx: AsyncSession, tenant: str, identity: Identity) -> None:
    """Let no other replica compare the same Patient ID until the transaction ends: neither would see the other's."""
    if tx.get_bind().dialect.name == "postgresql":
        key = f"{tenant}\n{identity.issuer}\n{identity.patient_id}"
        await tx.execute(select(func.pg_advisory_xact_lock(func.hashtext(key))))


def _absent(tx: AsyncSession, table: Any) -> Any:
    dialect = postgresql if tx.get_bind().dialect.name == "postgresql" else sqlite
    return dialect.insert(table).on_conflict_do_nothing()
