"""What rules that matched ask for besides deliveries of their own: more haste, holds, tags, an end. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from contracts.definition import Definition
from contracts.routing import PRIORITIES, Priority, Trigger
from libs.definition.ruleset import Match
from services.rules.hold import Hold, Holding, longest
from services.rules.plan import Wish

#: Of two rules that give a tag different values the one with the later trigger wins: it knew more.
_LATEST_FIRST: Final[tuple[Trigger, ...]] = (
    *("timer", "procedure", "order", "amended", "study", "series", "instance"),
)
_RULES_AT_MOST: Final = 1_000_000


@dataclass(frozen=True)
class Emphasis:
    """What rules that deliver nothing themselves ask for all that is delivered.

    Attributes
    ----------
    priority
        Lane that it has at least; none if none asked.
    hold
        How long it is held at least.
    rules
        Names of the rules.
    """

    priority: Priority | None = None
    hold: Hold | None = None
    rules: tuple[str, ...] = ()

    def and_(self, other: "Emphasis") -> "Emphasis":
        """Make one of two."""
        lanes = [lane for lane in (self.priority, other.priority) if lane is not None]
        return Emphasis(
            priority=min(lanes, key=PRIORITIES.index, default=None),
            hold=longest(self.hold, other.hold),
            rules=tuple(dict.fromkeys((*self.rules, *other.rules))),
        )

    def of(self, wish: Wish) -> Wish:
        """Give a wish with it."""
        if not self.rules:
            return wish
        lanes = [wish.priority] if self.priority is None else [wish.priority, self.priority]
        return replace(
            wish,
            priority=min(lanes, key=PRIORITIES.index),
            hold=longest(wish.hold, self.hold),
            rules=tuple(dict.fromkeys((*wish.rules, *self.rules))),
        )


@dataclass(frozen=True)
class Tag:
    """A tag that a rule sets.

    Attributes
    ----------
    trigger
        Trigger of the rule.
    rank
        Of several rules that set it the one with the lowest rank wins, in whatever order they are looked at.
    """

    name: str
    value: str
    rule: str
    trigger: Trigger
    rank: int


def emphasis(matches: Iterable[Match], holding: Holding) -> Emphasis:
    """Gather what rules without destinations ask for."""
    found = Emphasis()
    for match in matches:
        if match.names or match.notify:
            continue
        hold, hastens = holding(match), match.priority in ("stat", "urgent")
        if hold is not None or hastens:
            found = found.and_(Emphasis(match.priority if hastens else None, hold, (match.rule,)))
    return found


def emphasized(wanted: Mapping[str, Wish], more: Emphasis) -> dict[str, Wish]:
    """Give wishes with what was asked for all of them."""
    return {destination: more.of(wish) for destination, wish in wanted.items()}


def ending(matches: Sequence[Match]) -> Match | None:
    """Give the rule that puts aside or discards what was looked at, if one does: it is the last that matched."""
    last = matches[-1] if matches else None
    return last if last is not None and (last.quarantine is not None or last.discard is not None) else None


def decides(matches: Iterable[Match]) -> bool:
    """Tell whether any rule says where it goes, or why nowhere."""
    return any(match.names or match.notify or match.quarantine or match.discard for match in matches)


def tags(matches: Iterable[Match], trigger: Trigger, definition: Definition) -> list[Tag]:
    """Give the tags that rules set; of several that set one the first in the definition wins."""
    places: dict[str, int] = {}
    found: dict[str, Tag] = {}
    for match in matches:
        if match.tags and not places:
            places = {rule.name: position for position, rule in enumerate(definition.rules)}
        for name, value in match.tags.items():
            rank = _LATEST_FIRST.index(trigger) * _RULES_AT_MOST + places[match.rule]
            if name not in found or rank < found[name].rank:
                found[name] = Tag(name, value, match.rule, trigger, rank)
    return list(found.values())


def effective(some: Iterable[Tag]) -> dict[str, Tag]:
    """Give the one of each name that counts, whatever came first."""
    found: dict[str, Tag] = {}
    for tag in some:
        if tag.name not in found or tag.rank < found[tag.name].rank:
            found[tag.name] = tag
    return found


def tags_read(some: Iterable[Tag], trigger: Trigger) -> dict[str, str]:
    """Give the tags that rules of a trigger read: what earlier triggers set.

    What their own trigger or a later one has set they never see: it depends on which versions were decided before.
    """
    own = _LATEST_FIRST.index(trigger)
    return {
        name: tag.value
        for name, tag in effective(one for one in some if _LATEST_FIRST.index(one.trigger) > own).items()
    }
