"""The elements of a dataset that an address means."""

from collections.abc import Iterator
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from libs.definition.address import Address, Step
from libs.dicom import dictionary


@dataclass(frozen=True)
class Place:
    """Where an element is, or could be.

    Attributes
    ----------
    dataset
        That holds it.
    tag
        Of the element.
    root
        Tag of the element of the whole dataset in which it is.
    """

    dataset: Dataset
    tag: int
    root: int


def places(dataset: Dataset, address: Address, *, create: bool = False) -> Iterator[Place]:
    """Find where an address leads, whether or not there is an element; `create`: make the way where it names an item.

    A private element whose creator the dataset does not name is nowhere, unless `create` names it.
    """
    starts = [(dataset, None), *(_nested(dataset) if address.anywhere else ())]
    for start, root in starts:
        yield from _follow(start, address.steps, root, create=create)


def vr_of(dataset: Dataset, tag: int, said: str) -> str:
    """Tell the VR of an element: its own, or as an address or the dictionary says; of several the one that fits."""
    if tag in dataset:
        return str(dataset[tag].VR)
    if " or " in said:
        signed = dataset.get("PixelRepresentation") == 1
        return "SS" if signed and "SS" in said else said.split(" or ", 1)[0]
    return said


def nested(dataset: Dataset) -> Iterator[Dataset]:
    """Give the datasets in all sequences of a dataset, at any depth."""
    return (each for each, _ in _nested(dataset))


def _nested(dataset: Dataset, root: int | None = None) -> Iterator[tuple[Dataset, int]]:
    for tag in list(dataset.keys()):
        if is_sequence(dataset, int(tag)):
            top = int(tag) if root is None else root
            for item in dataset[tag].value:
                yield item, top
                yield from _nested(item, top)


def is_sequence(dataset: Dataset, tag: int) -> bool:
    """Tell whether an element is a sequence, without reading its value if it isn't."""
    element = dataset.get_item(tag)
    vr = getattr(element, "VR", "")
    if vr in (None, "UN"):
        # It doesn't say itself, or nobody knew it who wrote it; what a private dictionary knows, pydicom knows.
        return dataset[tag].VR == "SQ" if tag & 0x10000 or dictionary.known_vr(tag) == "SQ" else False
    return bool(vr == "SQ")


def _follow(dataset: Dataset, steps: tuple[Step, ...], root: int | None, *, create: bool) -> Iterator[Place]:
    step, rest = steps[0], steps[1:]
    tag = tag_of(dataset, step, create=create)
    if tag is None:
        return
    top = tag if root is None else root
    if not rest:
        yield Place(dataset, tag, top)
        return
    if create and step.item == 0 and not (tag in dataset and is_sequence(dataset, tag) and dataset[tag].value):
        dataset.add_new(tag, "SQ", Sequence([Dataset()]))
    if tag not in dataset or not is_sequence(dataset, tag):
        return
    items = dataset[tag].value
    if create and step.item == len(items):
        items.append(Dataset())
    for number, item in enumerate(items):
        if step.item in (None, number):
            yield from _follow(item, rest, top, create=create)


def tag_of(dataset: Dataset, step: Step, *, create: bool = False) -> int | None:
    """Give the tag that a step has in a dataset; none for a private one whose creator it does not name."""
    if step.creator is None:
        return step.tag
    group, element = step.tag >> 16, step.tag & 0xFF
    try:
        block = dataset.private_block(group, step.creator, create=create)
    except KeyError:
        return None
    return int(block.get_tag(element))
