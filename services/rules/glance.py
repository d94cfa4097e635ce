"""What the rules of one trigger said of a version of a study, while it is decided."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from contracts.fact import Attributes
from libs.definition.ruleset import Match
from services.rules.action import ending
from services.rules.occasion import Occasion
from services.rules.plan import Known
from services.rules.tally import Tally


@dataclass
class Glance:
    """All that was looked at by one trigger.

    Attributes
    ----------
    lifted, unhealthy
        Rules that did not count, and destinations that were not healthy.
    tally
        For the record.
    matches, seen
        Rules that matched, once for each occasion; and what was read, by the name of the object.
    ended
        What rules put aside or discarded, by rule.
    """

    lifted: frozenset[str]
    unhealthy: frozenset[str]
    tally: Tally = field(default_factory=Tally)
    matches: list[Match] = field(default_factory=list)
    seen: list[dict[str, Attributes]] = field(default_factory=list)
    ended: dict[str, tuple[Match, list[Known]]] = field(default_factory=dict)

    def take(self, matches: Sequence[Match], look: Occasion, read: dict[str, Attributes]) -> None:
        """Take the result of one occasion in."""
        self.matches += matches
        self.seen.append(read)
        end = ending(matches)
        if end is not None:
            self.ended.setdefault(end.rule, (end, []))[1].extend(look.instances)
