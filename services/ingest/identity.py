"""Whether a dataset is what its C-STORE command says: the check before the answer. PS3.7 section 9.1.1, PS3.4 B.2.3."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from libs.dicom import uid

if TYPE_CHECKING:
    # Receivers check identities, and do without the library that contracts are written in.
    from contracts.instances import QuarantineReason


class Identity(Protocol):
    """The identifiers of a dataset, read alone or with all of its header; as they stand there."""

    @property
    def sop_class_uid(self) -> str:
        """(0008,0016)."""
        ...

    @property
    def sop_instance_uid(self) -> str:
        """(0008,0018)."""
        ...

    @property
    def study_instance_uid(self) -> str:
        """(0020,000D)."""
        ...

    @property
    def series_instance_uid(self) -> str:
        """(0020,000E)."""
        ...


SUCCESS = 0x0000
#: PS3.7 section C.5: Affected SOP Instance UID is not a UID.
INVALID_SOP_INSTANCE = 0x0117
SOP_CLASS_NOT_SUPPORTED = 0x0122
NOT_AUTHORIZED = 0x0124
UNRECOGNIZED_OPERATION = 0x0211
#: PS3.4 table B.2-1.
OUT_OF_RESOURCES = 0xA700
MISMATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000
_NAMES = (
    "SOP Class UID (0008,0016)",
    "SOP Instance UID (0008,0018)",
    "Study Instance UID (0020,000D)",
    "Series Instance UID (0020,000E)",
)


@dataclass(frozen=True)
class Objection:
    """Why an object is not taken into a study.

    Attributes
    ----------
    status
        Status of the C-STORE response.
    reason
        Fixed word for the quarantine.
    detail
        Sentence for people, without values from the dataset.
    """

    status: int
    reason: "QuarantineReason"
    detail: str


def unreadable(detail: str) -> Objection:
    """Object to bytes that are no dataset."""
    return Objection(CANNOT_UNDERSTAND, "unreadable-dataset", detail)


def check(sop_class_uid: str, sop_instance_uid: str, header: Identity) -> Objection | None:
    """Compare a dataset's identifiers with the Affected SOP Class and Instance UID of its command.

    Returns
    -------
    Objection or None
        0x0117 the command's instance UID is malformed; 0xA900 class or instance differ; 0xC000 an identifier is
        missing or malformed in the dataset. None if the dataset can be taken.
    """
    uids = (header.sop_class_uid, header.sop_instance_uid, header.study_instance_uid, header.series_instance_uid)
    if uids[:2] == (sop_class_uid, sop_instance_uid) and all(map(uid.is_valid, uids)):
        return None
    if not uid.is_valid(sop_instance_uid) or not uid.is_valid(sop_class_uid):
        return _mismatch(INVALID_SOP_INSTANCE, "the command's SOP Class or Instance UID is not a valid UID")
    found = dict(zip(_NAMES, uids, strict=True))
    if not any(found.values()):
        return unreadable("the dataset holds none of the identifiers that every composite object has")
    absent = [name for name, value in found.items() if not value]
    malformed = [name for name, value in found.items() if not uid.is_valid(value)]
    if absent:
        return _mismatch(CANNOT_UNDERSTAND, f"the dataset has no {absent[0]}")
    if malformed:
        return _mismatch(CANNOT_UNDERSTAND, f"the dataset's {malformed[0]} is not a valid UID")
    return _mismatch(MISMATCH, f"the dataset's {_NAMES[uids[0] == sop_class_uid]} is not the command's")


def _mismatch(status: int, detail: str) -> Objection:
    return Objection(status, "identity-mismatch", detail)
