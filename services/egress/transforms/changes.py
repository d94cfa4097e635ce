"""What a transform has changed of a dataset: each element before and after, for people who try it."""

from collections.abc import Iterator

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from libs.dicom import dictionary
from services.egress.transforms.edits import texts
from services.egress.transforms.job import Change

#: Characters of a value that are shown.
_LONGEST = 200


def changes(before: Dataset, after: Dataset, where: str = "") -> Iterator[Change]:
    """Give the elements that differ, in the order of their tags, sequences item by item."""
    for tag in sorted({int(each) for each in (*before.keys(), *after.keys())}):
        old, new = _element(before, tag), _element(after, tag)
        name = (
            dictionary.keyword_of(tag)
            if not tag & 0x10000
            else str(next(each.name for each in (old, new) if each is not None))
        )
        here = f"{where}({tag >> 16:04x},{tag & 0xFFFF:04x})"
        if "SQ" in {each.VR for each in (old, new) if each is not None}:
            one, two = _items(old), _items(new)
            for number in range(max(len(one), len(two))):
                first = one[number] if number < len(one) else Dataset()
                second = two[number] if number < len(two) else Dataset()
                yield from changes(first, second, f"{here}[{number}].")
            if (old is None) != (new is None) and not (one or two):
                yield Change(here, name, _shown(old), _shown(new))
        elif old != new:
            yield Change(here, name, _shown(old), _shown(new))


def _element(dataset: Dataset, tag: int) -> DataElement | None:
    return dataset[tag] if tag in dataset else None  # noqa: SIM401 (`get` gives a value for a number)


def _items(element: DataElement | None) -> list[Dataset]:
    value = getattr(element, "value", None)
    return list(value) if isinstance(value, Sequence) else []


def _shown(element: DataElement | None) -> str | None:
    if element is None:
        return None
    value = element.value
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    said = "" if value is None or isinstance(value, Sequence) else "\\".join(texts(element))
    return said if len(said) <= _LONGEST else said[:_LONGEST] + "..."
