"""Who a Patient ID belongs to, as studies say it; and whether two of them contradict each other. Pure.

A Patient ID means something only together with who issued it (PS3.3 section C.2.2). What is the same by that and
differs in name or birth date is flagged for people, never merged.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from contracts.fact import Attributes

#: Family, given and middle name, prefix, suffix: PS3.5 section 6.2.1.1.
_COMPONENTS: Final = 5
#: A title says nothing of who someone is; `Jr.` does.
_PREFIX: Final = 3
_LONGEST_ID: Final = 64
#: Attributes that say who someone is: where they are the same, `patient_of` is.
SAID: Final = ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate")


@dataclass(frozen=True, order=True)
class Identity:
    """What makes a Patient ID mean one person: its tenant's issuer, and the ID itself."""

    issuer: str
    patient_id: str


@dataclass(frozen=True, order=True)
class Patient:
    """Who a study says its patient is.

    Attributes
    ----------
    identity
        Issuer and Patient ID.
    name_key
        Patient's Name (0010,0010) in the form that is compared: see `name_key`. Empty if there is none.
    birth_date
        Patient's Birth Date (0010,0030) as DA. Empty if there is none.
    """

    identity: Identity
    name_key: str
    birth_date: str


def patient_of(attributes: Attributes, issuer: str | None) -> Patient | None:
    """Say who an instance's patient is; None without a Patient ID.

    Parameters
    ----------
    attributes
        Base attributes of the instance by DICOM keyword.
    issuer
        Issuer of the Patient IDs that its node sends, for a dataset that names none in (0010,0021).
    """
    patient_id = _text(attributes, "PatientID")[:_LONGEST_ID]
    if not patient_id:
        return None
    said = _text(attributes, "IssuerOfPatientID") or (issuer or "").strip()
    # PS3.5 section 6.2: versions before 3.0 wrote 1970.01.01.
    birth_date = _text(attributes, "PatientBirthDate").replace(".", "")
    return Patient(
        Identity(said[:_LONGEST_ID], patient_id),
        name_key(_text(attributes, "PatientName")),
        birth_date if re.fullmatch(r"[0-9]{8}", birth_date) else "",
    )


def name_key(name: str) -> str:
    """Bring a person's name into the form that is compared.

    Alphabetic, ideographic and phonetic groups stay apart, as do the components of each; what differs by case,
    spaces, composition of characters (NFC) or delimiters at the end is the same. A prefix is left out.
    """
    groups = []
    for group in name.split("="):
        components = [_folded(each) for each in group.split("^")[:_COMPONENTS]]
        if len(components) > _PREFIX:
            components[_PREFIX] = ""
        groups.append("^".join(components).rstrip("^"))
    return "=".join(groups).rstrip("=")


def differing(one: Patient, other: Patient) -> tuple[str, ...]:
    """Name the attributes in which two patients with one identity differ; what one does not say differs from nothing.

    Returns
    -------
    tuple of str
        DICOM keywords; empty where they can be the same person, or have different identities.
    """
    if one.identity != other.identity:
        return ()
    fields = []
    if _names_differ(one.name_key, other.name_key):
        fields.append("PatientName")
    if one.birth_date and other.birth_date and one.birth_date != other.birth_date:
        fields.append("PatientBirthDate")
    return tuple(fields)


def contradictions(
    study: str, patients: Iterable[Patient], known: Iterable[tuple[str, Patient]]
) -> dict[str, tuple[str, ...]]:
    """Find the studies that a study contradicts; the same whatever the order of anything.

    Parameters
    ----------
    study, patients
        A study, and the patients that it names now.
    known
        Studies and the patients that they name, all of the same tenant; the study itself may be among them.

    Returns
    -------
    dict
        By study, the DICOM keywords that differ. A study that contradicts itself is there too.
    """
    found: dict[str, set[str]] = {}
    named = list(patients)
    for other, its in (*known, *((study, patient) for patient in named)):
        for patient in named:
            fields = differing(patient, its)
            if fields:
                found.setdefault(other, set()).update(fields)
    return {other: tuple(sorted(fields)) for other, fields in found.items()}


def _names_differ(one: str, other: str) -> bool:
    for group, another in zip(one.split("="), other.split("="), strict=False):
        for component, its in zip(group.split("^"), another.split("^"), strict=False):
            if component and its and component != its:
                return True
    return False


def _folded(text: str) -> str:
    # Folding can take characters apart again, so it is composed once more.
    return unicodedata.normalize("NFC", " ".join(unicodedata.normalize("NFC", text).casefold().split()))


def _text(attributes: Attributes, keyword: str) -> str:
    value = attributes.get(keyword, "")
    return value.strip() if isinstance(value, str) else ""
