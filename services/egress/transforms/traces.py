"""What identifies somebody in a dataset, and where it stands once more."""

import re
from collections.abc import Iterable
from typing import Final

from pydicom.datadict import keyword_dict
from pydicom.dataset import Dataset

from services.egress.transforms.edits import texts

#: A shorter value is found everywhere and tells nothing.
_SHORTEST: Final = 4
_SHORTEST_NAME: Final = 3
_WORD: Final = re.compile(r"[^\W_]+")
#: Scripts that write words without spaces, and names with few characters: Han, kana, Hangul.
_DENSE: Final = re.compile("[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]")
_SHORTEST_DENSE: Final = 2


class Traces:
    """Values that must not be in what is given out.

    Attributes
    ----------
    words
        Words of names of people, in lower case.
    values
        Identifiers as a whole, in lower case.
    """

    def __init__(self) -> None:
        self.words: set[str] = set()
        self.values: set[str] = set()
        self._found: re.Pattern[str] | None = None

    def add(self, vr: str, found: Iterable[str]) -> None:
        """Note the values of an element that is removed or replaced."""
        for text in found:
            value = text.strip().lower()
            if vr == "PN":
                self.words |= {word for word in _WORD.findall(value) if _tells(word)}
            if len(value) >= _SHORTEST and any(character.isalnum() for character in value):
                self.values.add(value)
        self._found = None

    def within(self, text: str) -> bool:
        """Tell whether a text holds one of them as a word or as a whole."""
        if not self.words and not self.values:
            return False
        if self._found is None:
            known = sorted(self.words | self.values, key=len, reverse=True)
            dense = "|".join(re.escape(each) for each in known if _DENSE.search(each))
            spaced = "|".join(re.escape(each) for each in known if not _DENSE.search(each))
            parts = [rf"(?<![^\W_])(?:{spaced})(?![^\W_])"] if spaced else []
            self._found = re.compile("|".join([*parts, dense] if dense else parts))
        return self._found.search(text.lower()) is not None


def _tells(word: str) -> bool:
    shortest = _SHORTEST_DENSE if _DENSE.search(word) else _SHORTEST_NAME
    return len(word) >= shortest and not word.isdecimal()


#: VRs whose values are looked through: free text, and what people put names and numbers into.
LOOKED_THROUGH: Final = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})


#: Coded words without which nobody can read the rest: they have the values that the Standard lists, and no others.
_ESSENTIAL: Final = frozenset(
    keyword_dict[keyword]
    for keyword in ("SpecificCharacterSet", "Modality", "PhotometricInterpretation", "ValueType", "RelationshipType")
)


def empty_traces(dataset: Dataset, traces: Traces) -> None:
    """Take the value of every element that holds what was removed elsewhere, at any depth."""
    for tag in list(dataset.keys()):
        element = dataset[tag]
        if element.VR == "SQ":
            for item in element.value:
                empty_traces(item, traces)
        elif element.VR in LOOKED_THROUGH and tag not in _ESSENTIAL:
            found = texts(element)
            left = ["" if traces.within(value) else value for value in found]
            if left != found:
                element.value = left if len(left) > 1 else None
