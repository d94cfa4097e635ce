"""Which of a producer's numbers have not come. Producers count from 1 without gaps; events come in any order."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Arrivals:
    """What is known of one producer's numbers.

    Attributes
    ----------
    next_sequence
        One more than the highest number that came.
    missing
        Ranges below it that did not, both ends included, in ascending order.
    """

    next_sequence: int = 1
    missing: tuple[tuple[int, int], ...] = ()

    def arrived(self, sequence: int) -> "Arrivals":
        """Take one number in. One that came before changes nothing."""
        if sequence >= self.next_sequence:
            passed_over = ((self.next_sequence, sequence - 1),) if sequence > self.next_sequence else ()
            return Arrivals(sequence + 1, self.missing + passed_over)
        return Arrivals(
            self.next_sequence,
            tuple(part for gap in self.missing for part in _without(gap, sequence)),
        )


def _without(gap: tuple[int, int], sequence: int) -> tuple[tuple[int, int], ...]:
    first, last = gap
    if not first <= sequence <= last:
        return (gap,)
    return tuple(part for part in ((first, sequence - 1), (sequence + 1, last)) if part[0] <= part[1])
