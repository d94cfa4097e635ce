"""What this replica has in hand: open associations and entries that are not indexed."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

#: Tenant and Study Instance UID.
Study = tuple[str, str]


@dataclass
class _Association:
    #: When it brought something of each study last.
    studies: dict[Study, datetime] = field(default_factory=dict)


class Work:
    """Counts work by study. Safe to use from many threads.

    Parameters
    ----------
    changed
        Called, from any thread, when a study is in hand for the first time, and when one is not any more.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._lock = threading.Lock()
        self._associations: dict[str, _Association] = {}
        self._entries: dict[str, tuple[Study, datetime]] = {}
        self._studies: Counter[Study] = Counter()
        self._broken: dict[Study, datetime] = {}

    def opened(self, association_id: str) -> None:
        """An association was accepted."""
        with self._lock:
            self._associations[association_id] = _Association()

    def closed(self, association_id: str, *, broken: bool = False) -> None:
        """An association has ended: by a release, or broken off by either side, the network or a limit of time."""
        with self._lock:
            association = self._associations.pop(association_id, _Association())
            self._studies.subtract(association.studies.keys())
            ended = self._tidied(association.studies)
            if broken:
                for study, at in association.studies.items():
                    self._broken[study] = max(at, self._broken.get(study, at))
        if ended:
            self._changed()

    def spooled(self, arrival_id: str, association_id: str, study: Study, at: datetime) -> None:
        """An entry is durable and not indexed yet; saying so twice is saying it once."""
        with self._lock:
            if arrival_id in self._entries:
                return
            new = self._studies[study] == 0
            self._entries[arrival_id] = (study, at)
            self._studies[study] += 1
            association = self._associations.get(association_id)
            if association is not None:
                if study not in association.studies:
                    self._studies[study] += 1
                association.studies[study] = max(at, association.studies.get(study, at))
        if new:
            self._changed()

    def indexed(self, arrival_id: str) -> None:
        """An entry is in the tables, or in the quarantine."""
        with self._lock:
            found = self._entries.pop(arrival_id, None)
            if found is not None:
                self._studies[found[0]] -= 1
            ended = found is not None and self._tidied({found[0]})
        if ended:
            self._changed()

    def has(self, study: Study) -> bool:
        """Tell whether an association that sent something of the study is open, or an entry of it unindexed."""
        with self._lock:
            return self._studies[study] > 0

    def broken(self) -> dict[Study, datetime]:
        """Give studies that are not in hand any more: when something of each arrived last on a broken association."""
        with self._lock:
            return {study: at for study, at in self._broken.items() if self._studies.get(study, 0) <= 0}

    def noted(self, broken: Mapping[Study, datetime]) -> None:
        """Forget what `broken` gave: it is written down."""
        with self._lock:
            for study, at in broken.items():
                if self._broken.get(study) == at:
                    del self._broken[study]

    def let_go(self, since: datetime) -> None:
        """Take studies away from associations that have brought nothing of them since a time.

        A sender may keep one association for ever; what it sent long ago is not held up by that.
        """
        with self._lock:
            over: set[Study] = set()
            for association in self._associations.values():
                idle = [study for study, at in association.studies.items() if at < since]
                for study in idle:
                    del association.studies[study]
                self._studies.subtract(idle)
                over.update(idle)
            ended = self._tidied(over)
        if ended:
            self._changed()

    def arrivals(self) -> set[str]:
        """List the entries that are not indexed."""
        with self._lock:
            return set(self._entries)

    def studies(self) -> list[Study]:
        """List the studies in hand."""
        with self._lock:
            return [study for study, count in self._studies.items() if count > 0]

    def depth(self) -> int:
        """Count the entries that are not indexed."""
        with self._lock:
            return len(self._entries)

    def associations(self) -> int:
        """Count the open associations."""
        with self._lock:
            return len(self._associations)

    def oldest(self) -> datetime | None:
        """Tell since when the oldest unindexed entry waits."""
        with self._lock:
            return min((at for _, at in self._entries.values()), default=None)

    def _tidied(self, touched: Iterable[Study]) -> bool:
        over = [study for study in touched if self._studies[study] <= 0]
        for study in over:
            del self._studies[study]
        return bool(over)
