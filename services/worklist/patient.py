"""What is known of a patient: of each attribute the newest that was said, in whatever order it came. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from typing import Final, TypeAlias

from services.worklist.attributes import Attributes
from services.worklist.change import Number, Origin

#: The place of a change among all others: when its source wrote it, then what tells it from those of the same time.
Place: TypeAlias = tuple[str, str, str, int]
#: Attributes with the place of the change that said each.
Said: TypeAlias = Mapping[str, tuple[Place, "tuple[str | Attributes, ...]"]]

#: What tells who it is; it comes from the identifier that is kept, never from one that was merged into it.
IDENTIFIERS: Final = frozenset(
    (
        "PatientID",
        "IssuerOfPatientID",
        "IssuerOfPatientIDQualifiersSequence",
        "OtherPatientIDs",
        "OtherPatientIDsSequence",
        "TypeOfPatientID",
    )
)
#: What is the same whichever of the patient's orders says it. All else, such as weight, allergies or the visit, an
#: order says for itself alone; a message about the patient says it for all.
SHARED: Final = IDENTIFIERS | {
    "PatientName",
    "PatientBirthDate",
    "PatientBirthTime",
    "PatientSex",
    "PatientBirthName",
    "PatientMotherBirthName",
    "OtherPatientNames",
    "PatientAddress",
    "PatientTelephoneNumbers",
    "PatientTelecomInformation",
    "PatientPrimaryLanguageCodeSequence",
    "PatientReligiousPreference",
    "EthnicGroup",
    "EthnicGroupCodeSequence",
    "CountryOfResidence",
    "RegionOfResidence",
    "MilitaryRank",
    "BranchOfService",
}


def place(origin: Origin) -> Place:
    """Give the place of a change among all others."""
    stamp = origin.stamp.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
    return (stamp, origin.source, origin.message, origin.part)


def with_said(known: Said, at: Place, attributes: Attributes) -> Said:
    """Add what one change says. Taking in the same changes in any order, and any of them twice, gives the same."""
    newer = {
        keyword: (at, values)
        for keyword, values in attributes.items()
        if keyword not in known or known[keyword][0] < at
    }
    return {**known, **newer} if newer else known


def newest(all_said: Iterable[Said]) -> Said:
    """Give of each attribute the newest."""
    found: dict[str, tuple[Place, tuple[str | Attributes, ...]]] = {}
    for said in all_said:
        for keyword, (at, values) in said.items():
            if keyword not in found or found[keyword][0] < at:
                found[keyword] = (at, values)
    return found


@dataclass(frozen=True)
class Person:
    """A patient with all identifiers that were merged into the one that is kept.

    Attributes
    ----------
    number
        The identifier that is kept.
    own
        What was said under it.
    merged
        What was said under each of the others.
    """

    number: Number
    own: Said = field(default_factory=dict)
    merged: tuple[Said, ...] = ()


def attributes_for(person: Person, own: Said) -> Attributes:
    """Give the patient's attributes for one order.

    Parameters
    ----------
    person
        The patient. What was said under the identifier that is kept counts before what was said under merged ones.
    own
        What the order says of the patient besides.
    """
    others = {keyword: one for keyword, one in newest(person.merged).items() if keyword not in person.own}
    shared = {
        keyword: values
        for keyword, (_, values) in {**others, **person.own}.items()
        if keyword in SHARED and (keyword not in IDENTIFIERS or keyword in person.own)
    }
    free = newest((person.own, own, *person.merged))
    for_order = {keyword: values for keyword, (_, values) in free.items() if keyword not in SHARED}
    number: dict[str, tuple[str, ...]] = {"PatientID": (person.number.value,)}
    if person.number.issuer or "IssuerOfPatientID" not in shared:
        number["IssuerOfPatientID"] = (person.number.issuer,) if person.number.issuer else ()
    return {**for_order, **shared, **number}
