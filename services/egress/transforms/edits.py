"""Values of a dataset changed as a transform says. What does not fit its element is an error, never cut off."""

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Final

from pydicom.charset import convert_encodings, decode_bytes, encode_string
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from contracts.definition import Mapping, Replacement, Transform
from libs.definition.address import Address, Step, address
from libs.definition.fitting import SETTABLE, TEXT, misfit, values_of
from libs.definition.pattern import PatternError, substitute
from services.egress.transforms.errors import UntransformableError
from services.egress.transforms.pseudonym import Key, Keys
from services.egress.transforms.selection import Place, places, vr_of

_INTEGERS: Final = frozenset({"SL", "SS", "SV", "UL", "US", "UV"})
_FLOATS: Final = frozenset({"FD", "FL"})
_BY_CHARACTER_SET: Final = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
_PIXELS: Final = 0x7FE00000
#: A hash keeps this much of a value that may be longer.
_HASH_LENGTH: Final = 16
Change = Callable[[str], str]


class Edits:
    """What a transform does to the values of one dataset.

    Parameters
    ----------
    dataset
        Changed in place.
    transform
        What is to be done.
    keys
        Of projects.

    Attributes
    ----------
    before
        Elements of the whole dataset that were changed and may be noted, as they were, by tag; none where there was
        no element.
    secret
        Tags whose values were removed or hashed: nobody may note what they were.
    hidden
        The same as they are addressed, whether or not the dataset has them: notes of earlier changes may.
    """

    def __init__(self, dataset: Dataset, transform: Transform, keys: Keys) -> None:
        self._dataset = dataset
        self._transform = transform
        self._keys = keys
        self._encodings = _encodings(dataset)
        self.before: dict[int, DataElement | None] = {}
        self.secret: set[int] = set()
        self.hidden: list[Step] = []

    def apply(self) -> None:
        """Change what is to be changed. Raises UntransformableError."""
        transform = self._transform
        for target, source in transform.copy_.items():
            self._copy(address(target), address(source))
        for target, replacement in transform.regex.items():
            self._change("regex", target, _replacing(target, replacement))
        for target, mapping in transform.map.items():
            self._change("map", target, _mapping(target, mapping), empty_too=True)
        for target, text in transform.prefix.items():
            self._change("prefix", target, _prefixing(text))
        for target in transform.hash:
            self._change("hash", target, _hashing(address(target), self._keys[str(transform.project)]), secret=True)
        for target, text in transform.set.items():
            self._set(address(target), text)
        for target in transform.remove:
            self._remove(address(target))

    def _copy(self, target: Address, source: Address) -> None:
        found = next((place for place in places(self._dataset, source) if place.tag in place.dataset), None)
        if found is None:
            return
        values = texts(found.dataset[found.tag])
        for place in list(places(self._dataset, target, create=True)):
            self._note(place)
            self._put("copy", target, place, values)

    def _change(self, what: str, target: str, change: Change, *, empty_too: bool = False, secret: bool = False) -> None:
        where = address(target)
        if secret:
            self.hidden.append(where.last)
        for place in list(places(self._dataset, where)):
            if place.tag not in place.dataset:
                continue
            old = texts(place.dataset[place.tag])
            if secret:
                self.secret.add(place.tag)
            new = [change(value) if value or empty_too else value for value in old]
            if new != old:
                self._note(place)
                self._put(what, where, place, new)

    def _set(self, target: Address, text: str) -> None:
        for place in list(places(self._dataset, target, create=True)):
            vr = vr_of(place.dataset, place.tag, target.last.vr)
            values = values_of(vr, text)
            if place.tag in place.dataset and texts(place.dataset[place.tag]) == values:
                continue
            self._note(place)
            self._put("set", target, place, values)

    def _remove(self, target: Address) -> None:
        self.hidden.append(target.last)
        for place in list(places(self._dataset, target)):
            self.secret.add(place.tag)
            if place.tag in place.dataset:
                del place.dataset[place.tag]

    def _note(self, place: Place) -> None:
        """Keep the element of the whole dataset as it is before its first change."""
        if place.root not in self.before:
            there = place.root in self._dataset
            self.before[place.root] = copy.deepcopy(self._dataset[place.root]) if there else None

    def _put(self, what: str, target: Address, place: Place, values: Sequence[str]) -> None:
        vr = vr_of(place.dataset, place.tag, target.last.vr)
        if place.tag >= _PIXELS or vr not in SETTABLE:
            raise UntransformableError(f"{what} {target.text}: the element is no text or number (its VR is {vr})")
        why = misfit(vr, values)
        if why is None and vr in _BY_CHARACTER_SET and not all(map(self._encodable, values)):
            why = "the dataset's character set (0008,0005) has not all characters of the new value"
        if why is not None:
            raise UntransformableError(f"{what} {target.text}: {why}")
        place.dataset.add_new(place.tag, vr, typed(vr, values))

    def _encodable(self, value: str) -> bool:
        if value.isascii():
            return True
        parts = value.replace("=", "^").split("^")
        return all(decode_bytes(encode_string(part, self._encodings), self._encodings, set()) == part for part in parts)


def texts(element: DataElement) -> list[str]:
    """Give the values of an element as texts; of one that holds no values, nothing."""
    value = element.value
    if value is None or element.VR == "SQ" or isinstance(value, bytes):
        return []
    return [_text(each) for each in value] if isinstance(value, MultiValue | list) else [_text(value)]


def typed(vr: str, values: Sequence[str]) -> Any:
    """Give texts that fit a VR as pydicom holds them."""
    if vr in _INTEGERS or vr in _FLOATS:
        number = int if vr in _INTEGERS else float
        numbers: list[Any] = [number(value) for value in values if value]
        return numbers[0] if len(numbers) == 1 else numbers or None
    return values[0] if len(values) == 1 else list(values)


def _text(value: Any) -> str:
    # Of a number, as it was written; of a name of a person these are its bytes.
    original = getattr(value, "original_string", None)
    return original if isinstance(original, str) else str(value)


def _replacing(target: str, replacement: Replacement) -> Change:
    def change(value: str) -> str:
        try:
            return substitute(replacement.find, replacement.replace, value)
        except PatternError as error:
            raise UntransformableError(f"regex {target}: {error}") from error

    return change


def _mapping(target: str, mapping: Mapping) -> Change:
    def change(value: str) -> str:
        known = mapping.values.get(value.strip())
        if known is not None:
            return known
        if mapping.otherwise == "refuse":
            raise UntransformableError(f"map {target}: the value is none of those that the transform lists")
        return value if mapping.otherwise == "keep" else ""

    return change


def _prefixing(text: str) -> Change:
    # Done once is done: an instance that comes back changed is not changed again.
    return lambda value: value if value.startswith(text) else text + value


def _hashing(target: Address, key: Key) -> Change:
    def change(value: str) -> str:
        name = f"{target.last.creator or ''}{target.last.tag:08x}"
        return key.uid(value) if target.last.vr == "UI" else key.text(f"hash {name}", value, length=_HASH_LENGTH)

    return change


def _encodings(dataset: Dataset) -> list[str]:
    named = dataset.get("SpecificCharacterSet") or ""
    with warnings.catch_warnings():
        # A warning may quote a value.
        warnings.simplefilter("ignore")
        try:
            return list(convert_encodings(named))
        except (LookupError, ValueError, TypeError):
            return ["iso8859"]


#: VRs that `prefix`, `regex`, `map` and `hash` work on.
CHANGEABLE: Final = TEXT
