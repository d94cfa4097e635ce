"""Which entries are indexed together: those of one study and one association, as many as come in a short while.

Every batch costs an event, and every event a transaction in each service that hears it. So a batch waits a little for
what follows, longer while more is coming, longer still while much has been coming for a while, and never longer than a
bound. The first of an association goes soon: what is sent on need not wait until all of a short one is there.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from services.ingest.arrival import Entry

#: Entries a second, of all associations, up to which a batch waits for no more than `_SOON` seconds; it would gain
#: little. Of more than these it is worth to wait for many.
_BUSY: Final = 100
_SOON: Final = 0.1
#: Seconds that the first batch of an association waits for each that is sending: where many are, much comes for long.
_EACH: Final = 0.025


@dataclass
class Batch:
    """Entries of one study and one association, or one entry that was answered with a failure.

    Attributes
    ----------
    entries
        In order of arrival.
    attempt
        How often it has failed.
    """

    entries: list[Entry]
    attempt: int = 0


@dataclass
class _Group:
    since: float
    last: float
    #: How long its association had been sending when it began, in seconds.
    sent: float
    entries: list[Entry] = field(default_factory=list)


class Stride:
    """How many entries go into one transaction: few at first, more while that is soon done.

    A process that is killed again and again, however early, has something done each time; and one that has much to
    catch up with on a slow disk tells of it by and by.

    Parameters
    ----------
    first, most
        Entries of the first transaction, and of the largest.
    least
        What a slow one does not bring it below, once it was above: batches are not to be cut for ever.
    soon
        Seconds within which a transaction is soon done.
    """

    def __init__(self, *, first: int, least: int, most: int, soon: float) -> None:
        self.size = first
        self._least = least
        self._most = most
        self._soon = soon

    def took(self, entries: int, seconds: float) -> None:
        """A transaction is committed: all that led to it took so long."""
        if seconds > self._soon:
            self.size = max(min(self.size, self._least), self.size // 2)
        elif 2 * entries >= self.size:
            # One that was not even half full says nothing about a larger one.
            self.size = min(self._most, 2 * self.size)


class Gathering:
    """Gathers entries into batches. Times are seconds of any clock that does not go back.

    Parameters
    ----------
    size
        Most entries of a batch.
    linger
        Seconds without another entry after which a batch is ready; a lone entry waits for so long.
    longest
        Seconds after its first entry at which a batch is ready though more is coming, and much of it.
    """

    def __init__(self, *, size: int, linger: float, longest: float) -> None:
        self._size = size
        self._linger = linger
        self._longest = max(linger, longest)
        #: Entries of all groups.
        self._waiting = 0
        self._groups: dict[tuple[str, str, str], _Group] = {}
        #: When an association began to send, and when its last batch began; those that began last come last.
        self._sending: dict[tuple[str, str, str], tuple[float, float]] = {}
        self._ready: deque[Batch] = deque()

    def add(self, entry: Entry, now: float) -> None:
        """Take an entry."""
        if not entry.accepted:
            self._ready.append(Batch([entry]))
            return
        key = (*entry.study, entry.arrival.association_id)
        group = self._groups.get(key)
        if group is None:
            self._forget(now)
            first, _ = self._sending.pop(key, (now, now))
            self._sending[key] = (first, now)
            self._groups[key] = group = _Group(now, now, now - first)
        group.last = now
        group.entries.append(entry)
        self._waiting += 1
        if len(group.entries) >= self._size:
            self._close(key)

    def again(self, batch: Batch) -> None:
        """Take a batch back that failed, as it is."""
        self._ready.append(batch)

    def take(self, now: float, most: int) -> list[Batch]:
        """Give the batches that are ready, for one transaction: of no more than `most` entries, at least one of them.

        The first one is cut if it has more. One that failed before, or that was answered with a failure, comes alone
        and whole, so that it takes no other with it.
        """
        for key in [key for key, group in self._groups.items() if self._due(group) <= now]:
            self._close(key)
        taken: list[Batch] = []
        count = 0
        while self._ready:
            batch = self._ready[0]
            if taken and (_alone(batch) or _alone(taken[0]) or count + len(batch.entries) > most):
                break
            if len(batch.entries) > most and not _alone(batch):
                self._ready[0] = Batch(batch.entries[most:])
                return [Batch(batch.entries[:most])]
            taken.append(self._ready.popleft())
            count += len(batch.entries)
        return taken

    def next(self) -> float | None:
        """Tell when there may be something to take; None while nothing waits."""
        if self._ready:
            return float("-inf")
        return min(map(self._due, self._groups.values()), default=None)

    def _close(self, key: tuple[str, str, str]) -> None:
        entries = self._groups.pop(key).entries
        self._waiting -= len(entries)
        self._ready.append(Batch(entries))

    def _forget(self, now: float) -> None:
        while self._sending:
            key, (_, began) = next(iter(self._sending.items()))
            if now - began <= 2 * self._longest:
                return
            del self._sending[key]

    def _due(self, group: _Group) -> float:
        patience = min(self._waiting / _BUSY, group.sent + _EACH * len(self._groups))
        return min(group.last + self._linger, group.since + min(self._longest, max(self._linger, _SOON, patience)))


def _alone(batch: Batch) -> bool:
    return batch.attempt > 0 or not batch.entries[0].accepted
