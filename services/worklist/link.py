"""Which items of the worklist a performed step is: by what its Scheduled Step Attributes Sequence says. Pure.

PS3.4 section F.7.2.1.2: a step may be done for several scheduled ones, with one Study Instance UID for all of them
that the modality has made; it may have no scheduled one at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from services.worklist import step
from services.worklist.attributes import Attributes

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
    """An item that it may be: what the modality was told of it."""

    item_id: int
    study_instance_uid: str
    accession: str
    step_id: str
    patient: str
    modality: str


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


def choose(reference: Reference, candidates: Sequence[Candidate], patient: str, modality: str) -> Link | None:
    """Choose the item; none, if nothing or more than one fits: a wrong link closes another patient's item.

    Parameters
    ----------
    reference
        What the performed step says.
    candidates
        Items of the tenant that have its study, a referenced one, or its accession number.
    patient
        Patient ID (0010,0020) that the modality names; empty if it names none. An accession number alone is trusted
        for that patient only. A Study Instance UID is trusted by itself, as identifiers change when patients merge.
    modality
        Modality (0008,0060), which tells steps of one study apart that have no identifier.
    """
    of_study = [each for each in candidates if each.study_instance_uid == reference.study_instance_uid]
    found = _one(of_study, reference.step_id, modality)
    if found is not None:
        exact = bool(reference.step_id) and found.step_id == reference.step_id
        return Link(found.item_id, "step" if exact else "study", _differ(found.patient, patient))
    same_patient = [each for each in candidates if not _differ(each.patient, patient)]
    named = [each for each in same_patient if reference.accession and each.accession == reference.accession]
    found = _one(named, reference.step_id, modality)
    if found is not None:
        return Link(found.item_id, "accession")
    grouped = [each for each in same_patient if each.study_instance_uid in reference.referenced]
    found = _one(grouped, reference.step_id, modality)
    return None if found is None else Link(found.item_id, "referenced")


def _one(candidates: Sequence[Candidate], step_id: str, modality: str) -> Candidate | None:
    """Give the one that has the step, else the only one, else the only one of the modality."""
    for those in (
        [each for each in candidates if step_id and each.step_id == step_id],
        candidates,
        [each for each in candidates if not step_id and each.modality == modality],
    ):
        if len(those) == 1:
            return those[0]
    return None


def _differ(one: str, other: str) -> bool:
    return bool(one) and bool(other) and one != other
