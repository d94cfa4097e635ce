"""What people may correct in a quarantined dataset, and whether a value can stand there. Pure."""

import re
import unicodedata
from collections.abc import Mapping
from datetime import date
from typing import Final, Literal

from pydicom.datadict import dictionary_VR, tag_for_keyword

from libs.dicom import uid

#: Reason for the Attribute Modification (0400,0565), PS3.3 section C.12.1: a value was wrong; or it was right where it
#: came from and is another here, as a Patient ID of another hospital.
Modification = Literal["CORRECT", "COERCE"]
#: Whose word counts where a C-STORE command and its dataset name different instances.
Trust = Literal["dataset", "command"]

#: Identifiers of PS3.3 sections C.7.1, C.7.2, C.7.3 and C.12.1, and what may be left empty there.
CORRECTABLE: Final[Mapping[str, bool]] = {
    "SOPClassUID": False,
    "SOPInstanceUID": False,
    "AccessionNumber": True,
    "PatientName": True,
    "PatientID": True,
    "IssuerOfPatientID": True,
    "PatientBirthDate": True,
    "PatientSex": True,
    "StudyInstanceUID": False,
    "SeriesInstanceUID": False,
    "StudyID": True,
}
_LONGEST: Final = {"CS": 16, "LO": 64, "PN": 64, "SH": 16}
_SEXES: Final = frozenset({"M", "F", "O"})
_GROUPS: Final = 3
_COMPONENTS: Final = 5


class CorrectionError(Exception):
    """A value can't be set. The text names the attribute and says what would do, without the value."""

    safe_to_log = True


def checked(corrections: Mapping[str, str]) -> dict[int, str]:
    """Check corrections, by DICOM keyword; give them by tag.

    Raises
    ------
    CorrectionError
        An attribute is none that may be corrected, or its value breaks PS3.5 section 6.2.
    """
    values: dict[int, str] = {}
    for keyword, given in corrections.items():
        if keyword not in CORRECTABLE:
            raise CorrectionError(f"{_named(keyword)} can't be corrected: {', '.join(CORRECTABLE)} can")
        tag = tag_for_keyword(keyword)
        if tag is None:
            raise CorrectionError(f"{keyword} is not in the data dictionary")
        value = unicodedata.normalize("NFC", given.strip(" "))
        problem = _problem(dictionary_VR(tag), value, may_be_empty=CORRECTABLE[keyword])
        if keyword == "PatientSex" and value and value not in _SEXES:
            problem = "has to be M, F or O"
        if problem:
            raise CorrectionError(f"{keyword} {problem}")
        values[tag] = value
    return values


def _problem(vr: str, value: str, *, may_be_empty: bool) -> str | None:
    if not value:
        return None if may_be_empty else "can't be empty"
    if vr == "UI":
        return None if uid.is_valid(value) else "is not a valid UID: digits and dots, at most 64 characters"
    if vr == "DA":
        return None if _is_date(value) else "is not a date: write YYYYMMDD"
    if "\\" in value or any(unicodedata.category(character) == "Cc" for character in value):
        return "holds a backslash or a control character"
    longest = max(len(group) for group in value.split("=")) if vr == "PN" else len(value)
    if vr == "PN" and not _is_name(value):
        return "is not a name: write FAMILY^GIVEN^MIDDLE^PREFIX^SUFFIX"
    return f"is too long: {_LONGEST[vr]} characters at most" if longest > _LONGEST[vr] else None


def _is_name(value: str) -> bool:
    groups = value.split("=")
    return len(groups) <= _GROUPS and all(len(group.split("^")) <= _COMPONENTS for group in groups)


def _is_date(value: str) -> bool:
    if not re.fullmatch(r"[0-9]{8}", value):
        return False
    try:
        date(int(value[:4]), int(value[4:6]), int(value[6:]))
    except ValueError:
        return False
    return True


def _named(keyword: str) -> str:
    # What is no keyword could be anything, such as a value in the wrong place.
    return keyword if re.fullmatch(r"[A-Z][A-Za-z0-9]{1,63}", keyword) and tag_for_keyword(keyword) else "that"
