"""What a destination received, and from whom: what tests count by."""

import threading
from collections import Counter
from dataclasses import dataclass, field

from tests.support import dul


@dataclass(frozen=True)
class Received:
    """A dataset that came whole.

    Attributes
    ----------
    syntax
        Transfer syntax of its context.
    sha256, size
        Of the dataset's bytes as they came.
    association
        Number of its association, from 1.
    order
        Its place among all that came whole, from 1.
    status
        What it is answered with; None: nothing, or nothing that tells of it. Whoever has the answer finds it here.
    """

    sop_uid: str
    sop_class: str
    syntax: str
    sha256: str
    size: int
    association: int
    order: int
    message_id: int
    status: int | None

    @property
    def confirmed(self) -> bool:
        """Whether it was answered with success or a warning (PS3.4 table B.2-1)."""
        return self.status is not None and (self.status == 0 or self.status & 0xF000 == 0xB000)


@dataclass
class Met:
    """An association, or a connection that did not become one.

    Attributes
    ----------
    number
        From 1.
    asked, granted
        What was negotiated; None if it did not come to that.
    begun
        SOP Instance UIDs of its C-STORE-RQs in order, whether their datasets came whole or not.
    echoes
        C-ECHO-RQs.
    ended
        How it ended, in a few words; None while it lasts.
    """

    number: int
    asked: dul.Asked | None = None
    granted: dul.Granted | None = None
    begun: list[str] = field(default_factory=list)
    echoes: int = 0
    ended: str | None = None


class Record:
    """What came to one destination; threads add to it, tests read it at any time.

    Attributes
    ----------
    received
        What came whole, in order.
    met
        Associations and other connections, in order.
    violations
        What peers did against the Standard, in words.
    most
        Connections that were open at the same time.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.received: list[Received] = []
        self.met: list[Met] = []
        self.violations: list[str] = []
        self.most = 0

    def counts(self) -> Counter[str]:
        """Tell how often each SOP Instance UID came whole."""
        with self.lock:
            return Counter(each.sop_uid for each in self.received)

    def duplicates(self) -> dict[str, int]:
        """Tell how often those came whole that came more than once."""
        return {uid: count for uid, count in self.counts().items() if count > 1}

    def confirmed(self) -> set[str]:
        """Name the SOP Instance UIDs that were answered with success or a warning at least once."""
        with self.lock:
            return {each.sop_uid for each in self.received if each.confirmed}

    def digests(self) -> dict[str, set[str]]:
        """Give the SHA-256 of what came under each SOP Instance UID: more than one is a defect of the sender."""
        with self.lock:
            found: dict[str, set[str]] = {}
            for each in self.received:
                found.setdefault(each.sop_uid, set()).add(each.sha256)
            return found

    def ended(self) -> list[str | None]:
        """Tell how each connection ended, in order."""
        with self.lock:
            return [each.ended for each in self.met]

    def violated(self, association: int, what: str) -> None:
        """Note a violation."""
        with self.lock:
            self.violations.append(f"association {association}: {what}")
