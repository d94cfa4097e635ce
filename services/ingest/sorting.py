"""Which arrivals bring something new, which were there already, and which contradict what is kept."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from services.ingest.arrival import Entry


@dataclass(frozen=True)
class Kept:
    """What is kept under a SOP Instance UID.

    Attributes
    ----------
    content_hash
        Of its dataset.
    object_key
        Where it is.
    """

    content_hash: str
    object_key: str


@dataclass(frozen=True)
class Sorted:
    """The entries of a batch.

    Attributes
    ----------
    new
        Nothing is kept under their UID.
    duplicates
        The same content is kept, with what it is; it may be this very arrival, indexed before a crash.
    conflicts
        Another content is kept, with what it is.
    """

    new: list[Entry] = field(default_factory=list)
    duplicates: list[tuple[Entry, Kept]] = field(default_factory=list)
    conflicts: list[tuple[Entry, Kept]] = field(default_factory=list)


#: What is kept by tenant and SOP Instance UID.
Known = dict[tuple[str, str], Kept]


def sort_out(entries: Iterable[Entry], known: Known) -> Sorted:
    """Sort a batch; what is new goes into `known`, for the batches that are written together with it."""
    found = Sorted()
    for entry in entries:
        key = entry.arrival.tenant, entry.arrival.sop_instance_uid
        kept = known.get(key)
        if kept is None:
            known[key] = Kept(entry.content_hash, entry.object_key)
            found.new.append(entry)
        elif kept.content_hash == entry.content_hash:
            found.duplicates.append((entry, kept))
        else:
            found.conflicts.append((entry, kept))
    return found


def strays(duplicates: Iterable[tuple[Entry, Kept]]) -> list[str]:
    """List the keys under which duplicates may have left an object that no row names.

    An arrival whose own object is the one that is kept was indexed before: that object stays.
    """
    return [entry.object_key for entry, kept in duplicates if entry.object_key != kept.object_key]
