"""Connections on which nobody has been admitted yet: how many there may be, and which one goes when there are more."""

from collections import defaultdict


class Doorstep:
    """Bounds what may stand at the door without saying who it is; for one thread.

    The oldest goes, not the newest: who has something to say says it at once, and gets in however many stand about.

    Parameters
    ----------
    most
        In total.
    most_an_address
        From one address.
    """

    def __init__(self, most: int, most_an_address: int) -> None:
        self._most = most
        self._most_an_address = most_an_address
        # In the order in which they came.
        self._address: dict[int, str] = {}
        self._at: defaultdict[str, dict[int, None]] = defaultdict(dict)

    def enter(self, connection: int, address: str) -> int | None:
        """Take a connection; give the one that has to go for it."""
        leaves: int | None = None
        if len(self._at[address]) >= self._most_an_address:
            leaves = next(iter(self._at[address]))
        elif len(self._address) >= self._most:
            # Of whoever has most there.
            crowd = max(self._at, key=lambda each: len(self._at[each]))
            leaves = next(iter(self._at[crowd]))
        if leaves is not None:
            self.leave(leaves)
        self._address[connection] = address
        self._at[address][connection] = None
        return leaves

    def leave(self, connection: int) -> None:
        """Forget a connection that was admitted, or has ended; twice is once."""
        address = self._address.pop(connection, None)
        if address is not None:
            del self._at[address][connection]
            if not self._at[address]:
                del self._at[address]

    def __len__(self) -> int:
        return len(self._address)
