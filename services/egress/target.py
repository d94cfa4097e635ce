"""The small interface behind which every kind of target is one file: who carries what is on a shelf to it."""

from typing import Protocol

from services.egress.calling import Ending


class Carrier(Protocol):
    """One visit to a target, in a thread of its own: what is on its shelf is delivered, until nothing more comes.

    It is made with the target, the shelf that it takes from, the objects that it reads, and a function that it tells
    each outcome. Of all kinds the same holds, and is tested in one place for all of them:

    - It takes one instance after the other, always the most urgent that is there, and tells each outcome once, as soon
      as it is known. It tells success only of what the target has on its side, for good.
    - What it did not begin stays on the shelf. Of what was under way when the target broke off it tells `later`.
    - What we hold damaged is told so, and is never at the target under its name.
    - A target that can't be reached is told of nothing: the ending says why, and what to do.
    """

    def run(self) -> Ending:
        """Deliver what is on the shelf; say how it ended."""
        ...

    def stop(self) -> None:
        """End after what is under way; from any thread."""
        ...

    def abort(self) -> None:
        """End now; from any thread."""
        ...
