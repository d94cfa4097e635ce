"""How much at once: associations, instances a second. Pure, not threaded.

Back-pressure instead of collapse: who comes too often is put off by a transient rejection or a later answer.
Connections on which nobody has been admitted yet are bounded in `doorstep`.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Final

from libs.dimse.admission import Limits, Refusal

#: PS3.8 section 9.3.4, source 3 (presentation): local limit exceeded. Come again later.
_LOCAL_LIMIT: Final = 2
#: A node may be ahead of its rate by what it is owed in this time, in seconds.
_BURST: Final = 1.0


class Associations:
    """Associations that are open.

    Parameters
    ----------
    most
        How many there may be in total.
    most_an_address
        And from one address; None: no limit of its own, as many nodes can share one behind a router.
    """

    def __init__(self, most: int, most_an_address: int | None = None) -> None:
        self._most = most
        self._most_an_address = most_an_address
        self._open: dict[str, tuple[str, str]] = {}
        self._of: Counter[str] = Counter()
        self._at: Counter[str] = Counter()

    def open(self, association: str, node: str, address: str, limits: Limits) -> Refusal | None:
        """Count an association in, or say why there is no place for it."""
        if len(self._open) >= self._most:
            return _too_many(f"{self._most} associations are open, which is the most of this receiver")
        if limits.associations is not None and self._of[node] >= limits.associations:
            return _too_many(
                f"the node {node} has {self._of[node]} associations open, which is its limit "
                "(`limits: associations` in the network definition)"
            )
        if self._most_an_address is not None and self._at[address] >= self._most_an_address:
            return _too_many(f"{self._at[address]} associations are open from this address, which is the most")
        self._open[association] = node, address
        self._of[node] += 1
        self._at[address] += 1
        return None

    def close(self, association: str) -> str | None:
        """Count an association out and give its node; nothing for one that is not counted in."""
        found = self._open.pop(association, None)
        if found is None:
            return None
        node, address = found
        for counter, key in ((self._of, node), (self._at, address)):
            counter[key] -= 1
            if not counter[key]:
                del counter[key]
        return node

    def node(self, association: str) -> str | None:
        """Give the node of an open association."""
        found = self._open.get(association)
        return None if found is None else found[0]

    def of(self, node: str) -> int:
        """Tell how many a node has open."""
        return self._of[node]

    def __len__(self) -> int:
        return len(self._open)


def _too_many(what: str) -> Refusal:
    return Refusal(f"{what}; the sender comes again later", permanent=False, diagnostic=_LOCAL_LIMIT, source=3)


@dataclass
class Pace:
    """A token bucket as the time at which it will be full again (the generic cell rate algorithm, ITU-T I.371).

    Attributes
    ----------
    due
        Time at which everything that was taken is paid for, in seconds of the clock of `take`.
    """

    due: float = float("-inf")

    def take(self, rate: float, now: float) -> float:
        """Take one instance and give how many seconds its answer has to wait.

        In any span of T seconds no more than `rate * T + max(rate, 1)` answers are due.

        Parameters
        ----------
        rate
            Instances a second; it may change from one to the next.
        now
            Seconds of a clock that never goes back.
        """
        self.due = max(self.due, now) + 1 / rate
        return max(0.0, self.due - now - max(_BURST, 1 / rate))
