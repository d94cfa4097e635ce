"""Which items of the worklist a performed step is: by what its Scheduled Step Attributes Sequence says. Pure.

PS3.4 section F.7.2.1.2: a step may be done for several scheduled ones, with one Study Instance UID for all of them
that the modality has made; it may have no scheduled one at all.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from services.worklist import step
from services.worklist.attributes import Attributes
from services.worklist.match import is_named

By = Literal["step", "study", "accession", "referenced"]


@dataclass(frozen=True)
class Reference:
    """One item of the Scheduled Step Attributes Sequence (0040,0270); empty where it says nothing."""

    study_instance_uid: str
    accession: str = ""
    step_id: str = ""
    referenced: tuple[str, ...] = ()


@dataclass(frozen=True)
class Candidate:
    """An item that it may be: what the modality was told of it.

    Attributes
    ----------
    patients
        All identifiers of its patient, each with its issuer: a modality may have been told one that was merged since.
    site
        Where its order was placed.
    cancelled
        It is not to be done: another one with the same name comes first.
    key
        What its order calls the step, which may be longer than what modalities are told, or empty.
    former_studies, former_accessions
        Of orders that turned out to be parts of its order: a modality may have been told these.
    """

    item_id: int
    study_instance_uid: str
    accession: str
    step_id: str
    patients: frozenset[tuple[str, str]]
    modality: str
    site: str
    cancelled: bool = False
    key: str = ""
    former_studies: frozenset[str] = frozenset()
    former_accessions: frozenset[str] = frozenset()

    def is_of_study(self, uid: str) -> bool:
        """Tell whether its order has, or had, this Study Instance UID."""
        return uid == self.study_instance_uid or uid in self.former_studies

    def is_of_accession(self, number: str) -> bool:
        """Tell whether its order has, or had, this accession number."""
        return bool(number) and (number == self.accession or number in self.former_accessions)


@dataclass(frozen=True)
class Performed:
    """What a performed step says of itself.

    Attributes
    ----------
    patient
        Patient ID (0010,0020) that the modality names; empty if it names none.
    issuer
        Issuer of Patient ID (0010,0021); empty if it names none, which is no other one.
    modality
        Modality (0008,0060).
    site
        Of the modality.
    """

    patient: str
    issuer: str
    modality: str
    site: str

    def is_of_another(self, patients: Collection[tuple[str, str]]) -> bool:
        """Tell whether it names another patient than the one with these identifiers."""
        return bool(self.patient) and bool(patients) and not is_named(self.patient, self.issuer, patients)


@dataclass(frozen=True)
class Link:
    """What was found.

    Attributes
    ----------
    item_id
        The item.
    by
        step: study and step agree; study: the study has no other; accession, or referenced (a study of the Referenced
        Study Sequence): the same where the modality has made a study of its own.
    contradicts
        The modality names another patient than the order does.
    """

    item_id: int
    by: By
    contradicts: bool = False


def references(attributes: Attributes) -> tuple[Reference, ...]:
    """Read the Scheduled Step Attributes Sequence."""
    return tuple(
        Reference(
            step.text(item, "StudyInstanceUID"),
            step.text(item, "AccessionNumber"),
            step.text(item, "ScheduledProcedureStepID"),
            tuple(
                dict.fromkeys(
                    uid
                    for each in step.items(item, "ReferencedStudySequence")
                    if (uid := step.text(each, "ReferencedSOPInstanceUID"))
                )
            ),
        )
        for item in step.items(attributes, "ScheduledStepAttributesSequence")
    )


def choose(reference: Reference, candidates: Sequence[Candidate], performed: Performed) -> Link | None:
    """Choose the item; none, if nothing or more than one fits: a wrong link closes another patient's item.

    A Study Instance UID is trusted by itself, as identifiers change when patients merge. An accession number alone is
    trusted for the order's patient, and where the modality names none for an order of its own site: others count by
    themselves, and reach the same numbers. The modality tells steps of one study apart that have no identifier.

    Parameters
    ----------
    reference
        What the performed step says.
    candidates
        Items of the tenant that have its study, a referenced one, or its accession number.
    """
    modality = performed.modality
    of_study = [each for each in candidates if each.is_of_study(reference.study_instance_uid)]
    found = _one(of_study, reference.step_id, modality)
    if found is not None:
        exact = bool(reference.step_id) and found.step_id == reference.step_id
        return Link(found.item_id, "step" if exact else "study", performed.is_of_another(found.patients))
    same_patient = [each for each in candidates if not performed.is_of_another(each.patients)]
    sure = [each for each in same_patient if performed.patient or each.site == performed.site]
    named = [each for each in sure if each.is_of_accession(reference.accession)]
    found = _one(named, reference.step_id, modality)
    if found is not None:
        return Link(found.item_id, "accession")
    grouped = [each for each in same_patient if any(map(each.is_of_study, reference.referenced))]
    found = _one(grouped, reference.step_id, modality)
    return None if found is None else Link(found.item_id, "referenced")


def follow(
    reference: Reference, key: str, by: By, candidates: Sequence[Candidate], performed: Performed
) -> Link | None:
    """Choose the item instead of one that was taken off, because its order became a part of another one.

    Parameters
    ----------
    key, by
        What the order called the step that was taken off, and how that was found.
    candidates
        As for `choose`, without what was taken off.
    """
    same = [each for each in candidates if each.key == key]
    if len(same) == 1:
        return Link(same[0].item_id, by, performed.is_of_another(same[0].patients))
    return choose(reference, candidates, performed)


def _one(candidates: Sequence[Candidate], step_id: str, modality: str) -> Candidate | None:
    """Give the one that has the step, else the only one, else the only one of the modality; cancelled ones last."""
    named = [each for each in candidates if step_id and each.step_id == step_id]
    if named:
        return _only(named)
    found = _only(candidates)
    if found is not None or step_id:
        return found
    return _only([each for each in candidates if each.modality == modality])


def _only(those: Sequence[Candidate]) -> Candidate | None:
    to_do = [each for each in those if not each.cancelled]
    for some in (to_do, those):
        if len(some) == 1:
            return some[0]
    return None
