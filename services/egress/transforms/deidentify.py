"""De-identification of a dataset by the basic profile of PS3.15 annex E and its options, at every depth.

What the table of the profile does not know is not passed on for that: private elements and what no dictionary knows
go, names lose their value, UIDs of instances are replaced wherever they stand, and a text that holds an identifier
which was removed elsewhere loses its value.
"""

import re
from datetime import date, timedelta
from typing import Final

from pydicom._uid_dict import UID_dictionary  # the public module has it without saying so
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from contracts.definition import Deidentify
from libs.dicom import dictionary
from services.egress.transforms import profile
from services.egress.transforms.descriptors import cleaned
from services.egress.transforms.edits import texts
from services.egress.transforms.errors import UntransformableError
from services.egress.transforms.profile import Action
from services.egress.transforms.pseudonym import Key
from services.egress.transforms.selection import is_sequence
from services.egress.transforms.traces import Traces, empty_traces

_PATIENT_ID: Final = 0x00100020
_PATIENT_NAME: Final = 0x00100010
_BIRTH_DATE: Final = 0x00100030
_DOCUMENT: Final = 0x00420011
_CONTENT: Final = 0x0040A730
#: Before it are groups of commands, file meta information and directories, which have no place in an instance.
_FIRST: Final = 0x00080000
#: (50xx,xxxx) curves and (60xx,xxxx) overlays; even groups.
_CURVES: Final = 0x5000
_OVERLAYS: Final = 0x6000
_OVERLAY_DATA: Final = 0x3000
_DUMMIES: Final = {
    "AS": "000Y",
    "DA": "19000101",
    "DS": "0",
    "DT": "19000101000000",
    "IS": "0",
    "PN": "ANONYMOUS",
    "TM": "000000",
    "UR": "http://removed.invalid",
}
_DUMMY: Final = "REMOVED"
_NUMBERS: Final = frozenset({"FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"})
_BYTES: Final = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_LONG_TEXTS: Final = frozenset({"LT", "ST", "UC", "UR", "UT"})
#: VRs of identifiers, besides names of people.
_IDENTIFY: Final = frozenset({"AE", "LO", "SH", "UC", "UR"})
_DATES: Final = frozenset({"DA", "DT", "TM"})
#: Of dates and times, PS3.5 section 6.2, without the dots that a date had once; times also with their colons of once.
_FORMS: Final = {
    "DA": re.compile(r"[0-9]{4}([0-9]{2}){0,2}"),
    "DT": re.compile(r"[0-9]{4}([0-9]{2}){0,5}(\.[0-9]{1,6})?([+-][0-9]{4})?"),
    "TM": re.compile(r"[0-9]{2}(:?[0-9]{2}(:?[0-9]{2}(\.[0-9]{1,6})?)?)?"),
}
#: Of what was done to dates, the later the less is left of them.
_TEMPORAL: Final = ("UNMODIFIED", "MODIFIED", "REMOVED")
_DEEPEST: Final = 64


def deidentify(dataset: Dataset, wanted: Deidentify, key: Key, *, blanked: bool) -> None:
    """De-identify a dataset, in place.

    Parameters
    ----------
    dataset
        The whole of it but for the pixel data.
    wanted
        Options.
    key
        Of the project.
    blanked
        Whether what is burned into its pixels is known, and removed.

    Raises
    ------
    UntransformableError
        It holds what can't be de-identified without a person.
    """
    _refuse(dataset, blanked=blanked)
    walk = _Walk(dataset, wanted, key)
    walk.whole()
    _describe(dataset, wanted, blanked=blanked)


def remap(dataset: Dataset, key: Key) -> None:
    """Replace the UIDs of instances, series, studies and whatever else is no class, at every depth, in place."""
    for tag in list(dataset.keys()):
        if is_sequence(dataset, int(tag)):
            for item in dataset[tag].value:
                remap(item, key)
        elif _vr(dataset, int(tag)) == "UI" and not _names_a_class(int(tag)):
            _replace_uids(dataset, int(tag), key)


def _refuse(dataset: Dataset, *, blanked: bool) -> None:
    if _DOCUMENT in dataset:
        raise UntransformableError(
            "it holds an encapsulated document, which cannot be de-identified: exclude such instances from the rule"
        )
    if str(dataset.get("BurnedInAnnotation", "")).strip() == "YES" and not blanked:
        raise UntransformableError(
            "it says that identifying text is burned into its pixels (0028,0301), and no `blank` of the transform is "
            "for its device: add one, or exclude such instances from the rule"
        )
    for group in range(_OVERLAYS, _OVERLAYS + 0x20, 2):
        if (group << 16 | 0x0010) in dataset and (group << 16 | _OVERLAY_DATA) not in dataset:
            raise UntransformableError(
                "an overlay is inside its pixel data, where it is not looked into: exclude such instances from the rule"
            )


class _Walk:
    def __init__(self, dataset: Dataset, wanted: Deidentify, key: Key) -> None:
        options = frozenset(wanted.options)
        self._dataset = dataset
        self._key = key
        self._actions = profile.actions(options)
        self._cleans = "clean-descriptors" in options
        self._keeps_uids = "retain-uids" in options
        self._keep = frozenset(word.lower() for word in wanted.keep_words)
        self._patient = _first(dataset, "PatientID"), _first(dataset, "IssuerOfPatientID")
        days = {"shift-dates": key.days(*self._patient), "retain-dates": 0}
        self._shift = next((timedelta(by) for option, by in days.items() if option in options), None)
        self._traces = Traces()

    def whole(self) -> None:
        """See to the dataset."""
        # All that identifies is known before the first text is cleaned of it.
        self._collect(self._dataset, 0)
        self._level(self._dataset)
        empty_traces(self._dataset, self._traces)

    def _collect(self, dataset: Dataset, depth: int) -> None:
        if depth > _DEEPEST:
            raise UntransformableError("its sequences are nested too deeply")
        for tag in map(int, list(dataset.keys())):
            vr = _vr(dataset, tag)
            if is_sequence(dataset, tag):
                for item in dataset[tag].value:
                    self._collect(item, depth + 1)
            elif vr == "PN" or tag == _BIRTH_DATE or (vr in _IDENTIFY and self._actions.get(tag) in ("X", "Z", "D")):
                self._traces.add(vr, texts(dataset[tag]))

    def _level(self, dataset: Dataset) -> None:
        for tag in map(int, list(dataset.keys())):
            if _goes(tag):
                del dataset[tag]
                continue
            action = self._actions.get(tag)
            if action is None:
                self._unlisted(dataset, tag)
            else:
                self._listed(dataset, tag, action)

    def _listed(self, dataset: Dataset, tag: int, action: Action) -> None:
        vr = _vr(dataset, tag)
        if tag in (_PATIENT_ID, _PATIENT_NAME):
            patient, issuer = self._patient
            dataset.add_new(tag, vr, self._key.text("patient", issuer, patient) if patient else None)
        elif action == "X":
            del dataset[tag]
        elif is_sequence(dataset, tag):
            self._listed_sequence(dataset, tag, action)
        elif action == "Z":
            dataset.add_new(tag, vr, None)
        elif action == "D":
            dataset.add_new(tag, vr, _dummy(vr))
        elif action == "U":
            _replace_uids(dataset, tag, self._key)
        elif action == "C":
            self._clean(dataset, tag, vr)

    def _listed_sequence(self, dataset: Dataset, tag: int, action: Action) -> None:
        if action in "ZD" and tag != _CONTENT:
            # A dummy in place of an item would have to have the attributes that its place demands: none is there.
            dataset[tag].value = Sequence()
            return
        for item in dataset[tag].value:
            self._level(item)
            if tag == _CONTENT and action == "D":
                _dummies(item)

    def _unlisted(self, dataset: Dataset, tag: int) -> None:
        vr = _vr(dataset, tag)
        if is_sequence(dataset, tag):
            for item in dataset[tag].value:
                self._level(item)
        elif dictionary.keyword_of(tag) == "" or vr == "UN":
            del dataset[tag]
        elif vr in ("AE", "PN"):
            dataset.add_new(tag, vr, None)
        elif vr == "UI" and not self._keeps_uids and not _names_a_class(tag):
            _replace_uids(dataset, tag, self._key)
        elif vr in _DATES or vr in _LONG_TEXTS:
            self._clean(dataset, tag, vr)

    def _clean(self, dataset: Dataset, tag: int, vr: str) -> None:
        if vr in _DATES:
            shifted = [_shifted(vr, value, self._shift) for value in texts(dataset[tag])]
            dataset.add_new(tag, vr, shifted if len(shifted) != 1 else shifted[0])
        elif self._cleans and vr in ("LO", "LT", "SH", "ST", "UC", "UT", "CS"):
            new = [cleaned(value, self._traces, self._keep) for value in texts(dataset[tag])]
            if profile.basic().get(tag) == "D":
                new = [value or _DUMMY for value in new]
            dataset.add_new(tag, vr, new if len(new) != 1 else new[0])
        else:
            dataset.add_new(tag, vr, None)


def _goes(tag: int) -> bool:
    """Tell whether an element goes whatever it is: private, of a curve or overlay, of a group that belongs elsewhere.

    So do group lengths, retired, which would be wrong now.
    """
    group = tag >> 16
    drawn = _CURVES <= group < _CURVES + 0x20 or _OVERLAYS <= group < _OVERLAYS + 0x20
    return drawn or group % 2 == 1 or tag < _FIRST or not tag & 0xFFFF


def _vr(dataset: Dataset, tag: int) -> str:
    element = dataset.get_item(tag)
    vr = getattr(element, "VR", None)
    if vr in (None, "UN"):
        return str(dataset[tag].VR) if tag & 0x10000 == 0 else "UN"
    return str(vr)


def _first(dataset: Dataset, keyword: str) -> str:
    found = _all(dataset, keyword)
    return found[0] if found else ""


def _all(dataset: Dataset, keyword: str) -> list[str]:
    found = texts(dataset[keyword]) if keyword in dataset else []
    return [value.strip() for value in found if value.strip()]


def _replace_uids(dataset: Dataset, tag: int, key: Key) -> None:
    new = [uid if not uid or uid in UID_dictionary else key.uid(uid) for uid in texts(dataset[tag])]
    dataset.add_new(tag, "UI", new if len(new) != 1 else new[0])


def _names_a_class(tag: int) -> bool:
    keyword = dictionary.keyword_of(tag)
    return "ClassUID" in keyword or keyword.endswith(("TransferSyntaxUID", "CodingSchemeUID", "MappingResourceUID"))


def _shifted(vr: str, value: str, by: timedelta | None) -> str:
    """Give a date or time so much later, the time of the day as it was; a dummy without a shift."""
    if by is None:
        return _DUMMIES[vr] if value else ""
    text = value.strip().replace(".", "") if vr == "DA" else value.strip()
    if not text:
        return text
    if not _FORMS[vr].fullmatch(text):
        # It may say anything.
        return _DUMMIES[vr]
    if vr == "TM":
        return text
    try:
        moved = date(int(text[:4]), int(text[4:6] or 1), int(text[6:8] or 1)) + by
    except (ValueError, OverflowError):
        return _DUMMIES[vr]
    whole = f"{moved:%Y%m%d}" if moved.year >= 1000 else f"{moved.year:04}{moved:%m%d}"  # noqa: PLR2004 (%Y does not pad)
    return whole[: len(text[:8])] + text[8:]


def _dummy(vr: str) -> object:
    if vr in _NUMBERS:
        return 0
    return b"\0\0" if vr in _BYTES else _DUMMIES.get(vr, _DUMMY)


def _dummies(item: Dataset) -> None:
    """Replace what a content item of a report says, and keep what it is: PS3.3 table C.17.3-7."""
    for tag in map(int, list(item.keys())):
        if is_sequence(item, tag):
            # Concept names, codes and relations stay, as do the places of references.
            continue
        vr = _vr(item, tag)
        if vr in ("LO", "LT", "PN", "ST", "UC", "UT"):
            item.add_new(tag, vr, _dummy(vr))


def _describe(dataset: Dataset, wanted: Deidentify, *, blanked: bool) -> None:
    """Say that it was de-identified, and how: PS3.15 sections E.1.1, E.2, E.3 and PS3.3 section C.7.1.1.

    What was said of earlier times stays: several values and items tell of successive ones.
    """
    dataset.PatientIdentityRemoved = "YES"
    codes = [profile.BASIC, *(profile.CODES[option] for option in sorted(set(wanted.options)))]
    if blanked:
        codes.append(profile.CLEAN_PIXELS)
        dataset.BurnedInAnnotation = "NO"
    methods = [*_all(dataset, "DeidentificationMethod"), "Kivuko", *(meaning[:64] for _, meaning in codes)]
    dataset.DeidentificationMethod = list(dict.fromkeys(methods))
    there = list(dataset.get("DeidentificationMethodCodeSequence") or ())
    known = {(str(item.get("CodeValue", "")), str(item.get("CodingSchemeDesignator", ""))) for item in there}
    new = [_code(value, meaning) for value, meaning in codes if (value, "DCM") not in known]
    dataset.DeidentificationMethodCodeSequence = Sequence([*there, *new])
    kinds = {"shift-dates": "MODIFIED", "retain-dates": "UNMODIFIED"}
    done = next((word for option, word in kinds.items() if option in wanted.options), "REMOVED")
    before = [word for word in _all(dataset, "LongitudinalTemporalInformationModified") if word in _TEMPORAL]
    dataset.LongitudinalTemporalInformationModified = max([done, *before], key=_TEMPORAL.index)


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue = value
    item.CodingSchemeDesignator = "DCM"
    item.CodeMeaning = meaning
    return item
