"""Addresses of elements in a transform: by keyword, through sequences, and private ones by creator and element.

| address | what it means |
| --- | --- |
| `PatientID` | the element of the dataset itself |
| `RequestAttributesSequence.AccessionNumber` | that of every item of the sequence |
| `RequestAttributesSequence[0].AccessionNumber` | that of its first item |
| `*.OperatorsName` | the element wherever it is, in the dataset and in every sequence |
| `(0029,10,SIEMENS CSA HEADER)` | private: group, element and creator, PS3.5 section 7.8 |
| `(0029,10,ACME 1.1):LO` | the same with its VR, where the element isn't there yet and no dictionary knows it |
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from pydicom.datadict import dictionary_VR, keyword_dict, private_dictionary_VR

_STEP: Final = re.compile(
    r"(?:(?P<keyword>[A-Z][A-Za-z0-9]*)"
    r"|\((?P<group>[0-9A-Fa-f]{4}),(?P<element>[0-9A-Fa-f]{2}),(?P<creator>[^()\\]{1,64})\)(?::(?P<vr>[A-Z]{2}))?)"
    r"(?:\[(?P<item>[0-9]{1,4})\])?(?P<more>\.|$)"
)
_ANYWHERE: Final = "*."
_DEEPEST: Final = 8
_VRS: Final = "AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV"


class AddressError(ValueError):
    """A text that is no address of an element; the message says what is wrong, `word` the keyword that is unknown."""

    def __init__(self, message: str, word: str = "") -> None:
        super().__init__(message)
        self.word = word


@dataclass(frozen=True)
class Step:
    """One element of an address.

    Attributes
    ----------
    tag
        Of a public element; of a private one its group and, of the element, the last two digits.
    creator
        Private creator; none for a public element.
    vr
        Value representation as the address or a dictionary says; empty if neither does, several as in `US or SS`.
    item
        Which item of a sequence, from 0; none: all of them.
    """

    tag: int
    creator: str | None
    vr: str
    item: int | None = None


@dataclass(frozen=True)
class Address:
    """Where elements are.

    Attributes
    ----------
    text
        As it is written in the definition.
    steps
        Sequences that lead to the element, and it itself.
    anywhere
        Whether the first step is looked for at every depth.
    """

    text: str
    steps: tuple[Step, ...]
    anywhere: bool = False

    @property
    def last(self) -> Step:
        """The element itself."""
        return self.steps[-1]


@lru_cache(maxsize=4096)
def address(text: str) -> Address:
    """Read an address. Raises AddressError."""
    anywhere = text.startswith(_ANYWHERE)
    at = len(_ANYWHERE) if anywhere else 0
    steps: list[Step] = []
    more = True
    while more:
        found = _STEP.match(text, at)
        if found is None:
            raise AddressError(
                f"{text!r} is no address of an element: write a keyword such as PatientID, "
                "SequenceKeyword[0].Keyword, or (gggg,ee,CREATOR) for a private one"
            )
        if len(steps) == _DEEPEST:
            raise AddressError(f"an address has at most {_DEEPEST} steps")
        steps.append(_step(found))
        at, more = found.end(), found["more"] == "."
    for step in steps[:-1]:
        if step.vr not in ("SQ", "") or (step.creator is None and step.vr != "SQ"):
            raise AddressError(f"in {text!r} stands something before a dot that is no sequence")
    if steps[-1].item is not None:
        raise AddressError(f"{text!r} ends with an item of a sequence: name an element in it, after a dot")
    return Address(text, tuple(steps), anywhere)


def _step(found: "re.Match[str]") -> Step:
    item = None if found["item"] is None else int(found["item"])
    if found["keyword"]:
        tag = keyword_dict.get(found["keyword"])
        if tag is None:
            raise AddressError(f"{found['keyword']} is not a DICOM keyword", found["keyword"])
        return Step(tag, None, dictionary_VR(tag), item)
    group, element = int(found["group"], 16), int(found["element"], 16)
    if group % 2 == 0:
        raise AddressError(f"group {found['group']} is even, so it is not private: write the element's keyword")
    creator = found["creator"].strip()
    vr = found["vr"] or _private_vr(group << 16 | 0x1000 | element, creator)
    if vr and vr not in _VRS.split():
        raise AddressError(f"{vr} is not a value representation")
    return Step(group << 16 | element, creator, vr, item)


def _private_vr(tag: int, creator: str) -> str:
    try:
        return str(private_dictionary_VR(tag, creator))
    except KeyError:
        return ""
