"""What rules read of studies and was not recorded of them: from the header documents, while they are kept."""

from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncSession

from libs.storage.objects import ObjectMissingError, ObjectStore
from services.rules import chronicle, repository
from services.rules.chronicle import Record, Version
from services.rules.headers import HeadersDamagedError, fetch
from services.rules.history import Recorded
from services.rules.plan import Known, standing
from services.rules.reading import named
from services.rules.repository import Study


def missing(record: Record, wanted: frozenset[str]) -> frozenset[str]:
    """Give the attributes of which nobody looked whether a study has them."""
    return frozenset(
        key for version in record.versions for key in wanted - version.looked_for if key not in version.attributes
    )


async def recalled(
    tx: AsyncSession, objects: ObjectStore, one: Recorded, record: Record, wanted: frozenset[str]
) -> Record | None:
    """Record a study anew as if the rules of the time had read more; None: its headers are not kept any more.

    Parameters
    ----------
    tx, objects
        Where rows and header documents are.
    one, record
        The study, and what is recorded of it.
    wanted
        Attributes beyond those that events carry.

    Raises
    ------
    StoreUnavailableError
        The object store does not answer.
    """
    study = Study(one.study_id, one.tenant, one.study_instance_uid, one.site, False, one.expired_version)
    known = await repository.instances_of(tx, study)
    parts = [(version, _of(version, known)) for version in record.versions]
    if any(len(chosen) != version.count for version, chosen in parts):
        return None
    keywords = wanted.union(*(version.looked_for for version in record.versions))
    needed = {each.id: each for _, chosen in parts for each in chosen}
    try:
        more = fetch(objects, needed.values(), keywords)
    except (ObjectMissingError, HeadersDamagedError):
        return None
    made = Record((), {})
    for version, chosen in parts:
        new = chronicle.version(
            *(version.number, version.decided_at, version.network_version, version.last_arrival, version.source),
            *(version.attributes, chosen),
            named=lambda each: named(study, each),
            more=more,
            looked_for=keywords | version.looked_for,
            before=made,
            unhealthy=version.unhealthy,
            lifted=version.lifted,
        )
        made = chronicle.added(made, new, {})
    return replace(made, routes=record.routes)


def _of(version: Version, known: list[Known]) -> list[Known]:
    return standing(each for each in known if each.received_at <= version.last_arrival)
