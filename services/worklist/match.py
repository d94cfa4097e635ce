"""Which order a study belongs to. Pure."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

How = Literal["study-uid", "accession", "patient", "hand"]
#: How far from its scheduled start a study may be that is matched by its patient alone.
NEAR: Final = timedelta(hours=24)


@dataclass(frozen=True)
class Candidate:
    """An order that a study may belong to.

    Attributes
    ----------
    patients
        All identifiers of its patient, each with its issuer; empty where none is known.
    site
        Where it was placed.
    start
        Start by the clock of its site; none if none is known.
    taken
        Whether another study belongs to it already.
    over
        Whether it was cancelled.
    """

    order_id: int
    study_instance_uid: str
    accession: str
    patients: Collection[tuple[str, str]]
    site: str
    modalities: Collection[str]
    start: datetime | None
    taken: bool = False
    over: bool = False


@dataclass(frozen=True)
class Came:
    """A study as it came; `at`: when it was made or came, by the clock of its site."""

    study_instance_uid: str
    accession: str
    patient: str
    issuer: str
    site: str
    modality: str
    at: datetime


@dataclass(frozen=True)
class Found:
    """The order of a study, how it was found, and whether the two name different patients."""

    order_id: int
    how: How
    contradicts: bool


def is_named(patient: str, issuer: str, patients: Collection[tuple[str, str]]) -> bool:
    """Tell whether an identifier is one of these; an issuer that is not known is no other one."""
    return any(patient == value and (not issuer or not known or issuer == known) for value, known in patients)


def match(study: Came, candidates: Sequence[Candidate]) -> Found | None:
    """Find the order of a study: by its UID, else its accession number, else its patient.

    A UID counts though the patients differ, which people must then look at; so does an accession number, but of the
    same site: others count by themselves, and reach the same numbers. Of several orders with one accession number the
    patient's counts; if that does not decide, none. The patient alone counts only where exactly one order of the same
    modality, for which no study came, is scheduled within a day, and who it is, is plain: at the same site, or by the
    same issuer.
    """

    def its_patient(one: Candidate) -> bool:
        return is_named(study.patient, study.issuer, one.patients)

    with_number = [one for one in candidates if study.accession and one.accession == study.accession]
    for how, same in (
        ("study-uid", [one for one in candidates if one.study_instance_uid == study.study_instance_uid]),
        ("accession", [one for one in with_number if one.site == study.site or its_patient(one)]),
    ):
        its_own = [one for one in same if its_patient(one)] or same
        alive = [one for one in its_own if not one.over] or its_own
        if len(alive) == 1:
            contradicts = bool(study.patient) and not its_patient(alive[0])
            return Found(alive[0].order_id, "study-uid" if how == "study-uid" else "accession", contradicts)
    near = [
        one
        for one in candidates
        if its_patient(one)
        and (one.site == study.site or (study.patient, study.issuer or None) in one.patients)
        and study.modality in one.modalities
        and not one.taken
        and not one.over
        and one.start is not None
        and abs(one.start - study.at) <= NEAR
    ]
    # Another accession number says that it is another order's.
    if len(near) == 1 and study.patient and study.accession in ("", near[0].accession):
        return Found(near[0].order_id, "patient", contradicts=False)
    return None
