"""What can be known to be wrong with a transform before it sees an instance."""

from collections.abc import Iterable, Iterator
from typing import Final

from pydicom.datadict import dictionary_VM, keyword_dict

from contracts.definition import Replacement, Transform
from libs.definition.address import Address, AddressError, address
from libs.definition.document import Path, Problem
from libs.definition.draft import Draft
from libs.definition.fitting import SETTABLE, TEXT, misfit, values_of
from libs.definition.pattern import PatternError, check, compiled
from libs.definition.wording import alike

#: Elements that say what an instance is, or how it is written: another value would make another instance of it.
_FIXED: Final = frozenset(
    {
        *("SOPClassUID", "TransferSyntaxUID", "SpecificCharacterSet", "Rows", "Columns", "BitsAllocated", "BitsStored"),
        *("HighBit", "PixelRepresentation", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"),
        "NumberOfFrames",
    }
)
#: UIDs that only `uids: remap` can change consistently, wherever they stand.
_IDENTITIES: Final = frozenset({"SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"})
_PIXELS: Final = 0x7FE00000


def transform_problems(draft: Draft) -> Iterator[Problem]:
    """Find what is wrong with the transforms of a definition."""
    for key, transform in draft.definition.transforms.items():
        yield from _Check(draft, ("transforms", key), transform).all()


class _Check:
    def __init__(self, draft: Draft, path: Path, transform: Transform) -> None:
        self._draft = draft
        self._path = path
        self._transform = transform

    def all(self) -> Iterator[Problem]:
        transform = self._transform
        for target, source in transform.copy_.items():
            yield from self._address(target, ("copy", target), SETTABLE, key=True)
            yield from self._address(source, ("copy", target), SETTABLE)
        for target, replacement in transform.regex.items():
            yield from self._address(target, ("regex", target), TEXT, key=True)
            yield from self._pattern(target, replacement)
        for target, mapping in transform.map.items():
            yield from self._address(target, ("map", target), SETTABLE, key=True)
            for old, new in mapping.values.items():
                yield from self._fits(target, new, ("map", target, "values", old))
        for target in transform.prefix:
            yield from self._address(target, ("prefix", target), TEXT, key=True)
        yield from self._listed("hash", transform.hash, frozenset({*TEXT, "UI"}))
        for target, text in transform.set.items():
            yield from self._address(target, ("set", target), SETTABLE, key=True, needs_vr=True)
            yield from self._fits(target, text, ("set", target))
        yield from self._listed("remove", transform.remove, None)

    def _pattern(self, target: str, replacement: Replacement) -> Iterator[Problem]:
        try:
            compiled(replacement.find)
        except PatternError as error:
            yield self._problem(("regex", target, "find"), str(error))
            return
        try:
            check(replacement.find, replacement.replace)
        except PatternError as error:
            yield self._problem(("regex", target, "replace"), str(error))

    def _listed(self, field: str, targets: Iterable[str], allowed: frozenset[str] | None) -> Iterator[Problem]:
        for position, target in enumerate(targets):
            yield from self._address(target, (field, position), allowed)

    def _address(
        self,
        text: str,
        place: Path,
        allowed: frozenset[str] | None,
        *,
        key: bool = False,
        needs_vr: bool = False,
    ) -> Iterator[Problem]:
        try:
            found = address(text)
        except AddressError as error:
            hint = alike(error.word, map(str, keyword_dict)) if error.word else ""
            if error.word and not hint:
                hint = "use a keyword of DICOM PS3.6, such as PatientID"
            yield self._problem(place, str(error), hint, key=key)
            return
        yield from self._unsuited(found, place, allowed, key=key)
        if needs_vr and not found.last.vr:
            hint = f"write such as {text}:LO"
            yield self._problem(place, "no dictionary knows this private element", hint, key=key)

    def _unsuited(self, found: Address, place: Path, allowed: frozenset[str] | None, *, key: bool) -> Iterator[Problem]:
        last = found.last
        keyword = found.text.rpartition(".")[2].partition("[")[0] if last.creator is None else ""
        # Inside a sequence it is what is said of another instance.
        if keyword in _FIXED and len(found.steps) == 1:
            yield self._problem(place, f"{keyword} can't be changed: it says what the instance is", key=key)
        elif keyword in _IDENTITIES and len(found.steps) == 1:
            hint = "write `uids: remap`"
            yield self._problem(place, f"{keyword} is changed together with all that refers to it", hint, key=key)
        elif last.tag >= _PIXELS and last.creator is None:
            yield self._problem(place, f"{found.text} is no part of the header", key=key)
        elif allowed is not None and last.vr and not set(last.vr.split(" or ")) & allowed:
            what = "text" if allowed == TEXT else "text or number"
            yield self._problem(place, f"{found.text} holds no {what}: its VR is {last.vr}", key=key)

    def _fits(self, target: str, text: str, place: Path) -> Iterator[Problem]:
        try:
            last = address(target).last
        except AddressError:
            return
        vrs = [vr for vr in last.vr.split(" or ") if vr in SETTABLE]
        if not vrs:
            return
        values = values_of(vrs[0], text)
        whys = [misfit(vr, values) for vr in vrs]
        if all(whys):
            yield self._problem(place, f"the value does not fit {target}: {whys[0]}")
        elif last.creator is None and len(values) > 1 and dictionary_VM(last.tag) == "1":
            yield self._problem(place, f"{target} has one value only, and a backslash separates values")

    def _problem(self, place: Path, message: str, hint: str = "", *, key: bool = False) -> Problem:
        return self._draft.document.problem((*self._path, *place), message, hint, key=key)
