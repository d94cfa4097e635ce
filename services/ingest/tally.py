"""What is kept of a series, so that nobody has to count instances: sums that do not depend on order or batches."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from contracts.fact import Attributes
from contracts.instances import StoredInstance
from services.ingest.numbers import Ranges, join, ranges_of

#: What fits the column: largest value of the VR IS, PS3.5 section 6.2.
_LARGEST: Final = 2**31 - 1
#: Length of the column; a Code String has 16 characters at most, PS3.5 section 6.2.
_CODE: Final = 16


@dataclass(frozen=True)
class Tally:
    """A series, or the part of it that a batch brings.

    Attributes
    ----------
    modality
        (0008,0060), the first in the alphabet should its instances differ; None if none has one.
    count
        Number of instances.
    size
        Bytes of their objects.
    numbers
        Their instance numbers; None if these are of no use: missing, repeated, or of multi-frame instances.
    announced
        The largest number of instances that one of them says its series has.
    """

    modality: str | None = None
    count: int = 0
    size: int = 0
    numbers: Ranges | None = ()
    announced: int | None = None

    def __add__(self, other: "Tally") -> "Tally":
        """Count other instances of the same series in."""
        return Tally(
            modality=min((each for each in (self.modality, other.modality) if each), default=None),
            count=self.count + other.count,
            size=self.size + other.size,
            numbers=join(self.numbers, other.numbers),
            announced=largest(self.announced, other.announced),
        )


@dataclass(frozen=True)
class Brought:
    """What a batch brings to its study.

    Attributes
    ----------
    series
        Tally of each series by UID.
    announced
        The largest Number of Study Related Instances (0020,1208) in it.
    """

    series: Mapping[str, Tally]
    announced: int | None

    @property
    def count(self) -> int:
        """Number of instances."""
        return sum(each.count for each in self.series.values())

    @property
    def size(self) -> int:
        """Bytes of their objects."""
        return sum(each.size for each in self.series.values())

    def modalities(self, before: Iterable[str] = ()) -> list[str]:
        """List the modalities of these series and those that were there before, sorted."""
        return sorted({*before, *(each.modality for each in self.series.values() if each.modality)})


def of_batch(instances: Iterable[StoredInstance]) -> Brought:
    """Count a batch's new instances of one study by series; each must have all of its base attributes.

    Announced counts are Number of Series Related Instances (0020,1209), which archives put into what they pass on
    (PS3.4 section C.3.4), and In-concatenation Total Number (0020,9163), PS3.3 section C.7.6.16. Images in
    Acquisition (0020,1002) is not among them: an acquisition may fill several series, and a series have several.
    """
    parts: dict[str, list[StoredInstance]] = {}
    announced: int | None = None
    for each in instances:
        parts.setdefault(each.series_instance_uid, []).append(each)
        announced = largest(announced, _count(each.attributes, "NumberOfStudyRelatedInstances"))
    return Brought({uid: _tally(part) for uid, part in parts.items()}, announced)


def largest(*counts: int | None) -> int | None:
    """Give the largest of the counts that are known."""
    return max((each for each in counts if each is not None), default=None)


def _tally(instances: list[StoredInstance]) -> Tally:
    found = [each.attributes for each in instances]
    numbers = [number for each in found if (number := _number(each)) is not None]
    return Tally(
        modality=min((text for each in found if (text := str(each.get("Modality", ""))[:_CODE])), default=None),
        count=len(instances),
        size=sum(each.size for each in instances),
        numbers=ranges_of(numbers) if len(numbers) == len(instances) else None,
        announced=largest(
            *(_count(each, "NumberOfSeriesRelatedInstances") for each in found),
            *(_count(each, "InConcatenationTotalNumber") for each in found),
        ),
    )


def _number(attributes: Attributes) -> int | None:
    """Give an instance's number; a multi-frame instance is a series by itself, and its number says nothing."""
    number, frames = attributes.get("InstanceNumber"), attributes.get("NumberOfFrames", 1)
    return number if isinstance(number, int) and frames in (0, 1) else None


def _count(attributes: Attributes, keyword: str) -> int | None:
    value = attributes.get(keyword)
    return value if isinstance(value, int) and 0 < value <= _LARGEST else None
