"""What the Standard wants said of a changed instance: PS3.3 sections C.12.1.1.4, C.12.1.1.5 and C.12.1.1.9."""

import copy
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from libs.definition.address import Step
from libs.dicom.uid import IMPLEMENTATION_VERSION_NAME
from services.egress.transforms.selection import nested, tag_of

_SYSTEM: Final = "Kivuko"
#: CID 7005: code value and meaning, coding scheme DCM.
_MODIFYING: Final = ("109103", "Modifying Equipment")
_DEIDENTIFYING: Final = ("109104", "De-identifying Equipment")
_ORIGINALS: Final = "OriginalAttributesSequence"


def note_originals(dataset: Dataset, before: Mapping[int, DataElement | None], at: datetime) -> None:
    """Add an item to the Original Attributes Sequence (0400,0561): what attributes were before they were coerced."""
    changed = Dataset()
    for tag in sorted(before):
        element = before[tag]
        if element is None:
            # It was not there: an element without a value says so.
            vr = str(dataset[tag].VR)
            changed.add_new(tag, vr, Sequence() if vr == "SQ" else None)
        else:
            changed.add(element)
            if tag & 0x10000:
                _name_creator(dataset, changed, tag)
    item = Dataset()
    item.ModifiedAttributesSequence = Sequence([changed])
    item.AttributeModificationDateTime = f"{at:%Y%m%d%H%M%S.%f}+0000"
    item.ModifyingSystem = _SYSTEM
    item.SourceOfPreviousValues = ""
    item.ReasonForTheAttributeModification = "COERCE"
    _append(dataset, _ORIGINALS, item)


def forget(dataset: Dataset, hidden: Iterable[Step]) -> None:
    """Take elements out of what is noted of earlier changes: what is removed or hashed must not stand there."""
    steps = set(hidden)
    if not steps or _ORIGINALS not in dataset:
        return
    for item in dataset[_ORIGINALS].value:
        for each in nested(item):
            # Each dataset has its own numbers for private elements.
            for tag in [tag_of(each, step) for step in steps]:
                if tag is not None and tag in each:
                    del each[tag]


def note_equipment(dataset: Dataset, what: Iterable[str], at: datetime | None, *, deidentified: bool) -> None:
    """Add an item to the Contributing Equipment Sequence (0018,A001).

    Parameters
    ----------
    what
        Kinds of changes that were made, for the description.
    at
        When; none where the time itself could tell something.
    """
    code, meaning = _DEIDENTIFYING if deidentified else _MODIFYING
    purpose = Dataset()
    purpose.CodeValue = code
    purpose.CodingSchemeDesignator = "DCM"
    purpose.CodeMeaning = meaning
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = Sequence([purpose])
    item.Manufacturer = _SYSTEM
    item.ManufacturerModelName = _SYSTEM
    item.SoftwareVersions = IMPLEMENTATION_VERSION_NAME
    if at is not None:
        item.ContributionDateTime = f"{at:%Y%m%d%H%M%S.%f}+0000"
    item.ContributionDescription = "Changed on the way: " + ", ".join(what)
    _append(dataset, "ContributingEquipmentSequence", item)


def _append(dataset: Dataset, keyword: str, item: Dataset) -> None:
    known = list(dataset[keyword].value or ()) if keyword in dataset else []
    setattr(dataset, keyword, Sequence([*known, item]))


def _name_creator(dataset: Dataset, changed: Dataset, tag: int) -> None:
    creator = (tag & 0xFFFF0000) | (tag >> 8 & 0xFF)
    if creator in dataset:
        changed.add(copy.deepcopy(dataset[creator]))
