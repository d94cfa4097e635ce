"""What is to be delivered: rules that matched become wishes by destination, and wishes become requests. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby
from typing import Any, Final

from contracts.delivery import DeliveryHold, DeliveryItem, DeliveryRequested
from contracts.fact import Attributes, AttributeValue, Source
from contracts.manifest import set_hash
from contracts.partner import partner_destination, partner_of
from contracts.routing import PRIORITIES, Priority
from libs.definition.ruleset import Match
from services.rules.hold import Hold, Holding, longest

#: Most items of one request.
MOST_ITEMS: Final = 500
NOTHING: Final[Mapping[Any, Any]] = {}
#: What transforms say, as in the definition: by name, and version of the definition.
Documents = Mapping[tuple[str, int], dict[str, Any]]
#: Tells whether a destination is the node that an instance came from.
Returns = Callable[[str, str], bool]
#: Tells whether a partner may ever get what a site sent.
MayHave = Callable[[str, str], bool]


@dataclass(frozen=True)
class Known:
    """An instance as rules keep it.

    Attributes
    ----------
    id
        Row of the table.
    item
        What a request says of it.
    series_instance_uid
        Its series.
    received_at
        When it was durable, UTC.
    source
        Where it came from first.
    attributes
        Base attributes by DICOM keyword.
    headers_key
        Object with the full headers of its batch.
    aside
        The rule that put it aside or discarded it when it came, if one did: no other trigger delivers it.
    """

    id: int
    item: DeliveryItem
    series_instance_uid: str
    received_at: datetime
    source: Source
    attributes: Attributes
    headers_key: str
    aside: str | None = None

    @property
    def identity(self) -> tuple[str, str]:
        """SOP Instance UID and content hash."""
        return self.item.sop_instance_uid, self.item.content_hash


@dataclass(frozen=True)
class Wish:
    """How an instance is to go to one destination: the higher priority wins, and with it its transform and hold.

    `under` is the version of the definition that asked for it last; none: the one in force.
    """

    priority: Priority
    transform: str | None
    rules: tuple[str, ...]
    hold: Hold | None = None
    under: int | None = None

    def merged(self, other: "Wish") -> "Wish":
        """Make one wish of two.

        Of equal priorities the one with a transform counts, and the longer hold: they are there for a reason.
        """
        first = min((self, other), key=lambda wish: (PRIORITIES.index(wish.priority), wish.transform is None))
        rules = tuple(dict.fromkeys((*self.rules, *other.rules)))
        hold = longest(self.hold, other.hold) if self.priority == other.priority else first.hold
        return Wish(first.priority, first.transform, rules, hold)


@dataclass(frozen=True)
class Requested:
    """A wish for an instance that is, or is about to be, on record."""

    instance: Known
    destination: str
    wish: Wish


def _no_hold(_match: Match) -> None:
    return None


def wishes(matches: Iterable[Match], holding: Holding = _no_hold) -> tuple[dict[str, Wish], list[str]]:
    """Make the wishes of the rules that matched.

    Parameters
    ----------
    matches
        The rules.
    holding
        Tells until when a rule holds what it delivers.

    Returns
    -------
    tuple[dict[str, Wish], list[str]]
        By destination, of which a partner that is to be told is one; and what people should know of rules that
        contradict each other.
    """
    found: dict[str, Wish] = {}
    notes = []
    for match in matches:
        for destination in (*match.destinations, *map(partner_destination, match.notify)):
            new = Wish(match.priority, match.transform, (match.rule,), holding(match))
            before = found.get(destination)
            found[destination] = new if before is None else before.merged(new)
            if before is not None and before.transform != new.transform:
                chosen = found[destination].transform or "no transform"
                notes.append(f"rules name destination `{destination}` with different transforms: {chosen} is used")
    return found, notes


def without_loops(
    instances: Sequence[Known], wanted: Mapping[str, Wish], returns: Returns
) -> tuple[list[Requested], list[str]]:
    """Give each instance's requests, except back to the node that it came from.

    What came round between sites is requested: egress knows which of it a destination has.

    Returns
    -------
    tuple[list[Requested], list[str]]
        The requests; and which destinations don't get all of the instances.
    """
    made, notes = [], []
    for destination, wish in wanted.items():
        going = [one for one in instances if not returns(destination, one.source.node)]
        made += [Requested(one, destination, wish) for one in going]
        if len(going) < len(instances):
            notes.append(f"destination `{destination}` doesn't get back what came from its own node")
        if any(one.item.came_round for one in going):
            notes.append(f"destination `{destination}` doesn't get again what it has of what came round")
    return made, notes


def within_sites(made: Sequence[Requested], may_have: MayHave) -> tuple[list[Requested], list[str]]:
    """Leave out what a partner may not get: what sites sent that are not among its own.

    Returns
    -------
    tuple[list[Requested], list[str]]
        The other requests; and which partners don't hear of all of the instances.
    """
    going, without = [], set()
    for one in made:
        partner = partner_of(one.destination)
        if partner is None or may_have(partner, one.instance.source.site):
            going.append(one)
        else:
            without.add(partner)
    return going, [f"partner `{partner}` may not get what other sites than its own sent" for partner in sorted(without)]


def gathered(going: Iterable[Requested]) -> list[Requested]:
    """Make one of several wishes for one instance at one destination."""
    by_key: dict[tuple[int, str], Requested] = {}
    for one in going:
        key = (one.instance.id, one.destination)
        first = by_key.get(key)
        by_key[key] = one if first is None else replace(first, wish=first.wish.merged(one.wish))
    return list(by_key.values())


def united(before: Sequence[Requested], going: Sequence[Requested]) -> tuple[list[Requested], list[str]]:
    """Unite what was requested with what is wished for now. A transform once requested stands: it may be sent already.

    Returns
    -------
    tuple[list[Requested], list[str]]
        Each instance once for a destination; and for which destinations a transform would have changed.
    """
    by_key = {(one.instance.id, one.destination): one for one in before}
    changed = set()
    for one in going:
        key = (one.instance.id, one.destination)
        first = by_key.get(key)
        if first is None:
            by_key[key] = one
            continue
        if first.wish.transform != one.wish.transform:
            changed.add(one.destination)
        # What is asked for again is to be as it is asked for now; another transform is not.
        under = one.wish.under if first.wish.transform == one.wish.transform else first.wish.under
        wish = replace(first.wish.merged(one.wish), transform=first.wish.transform, under=under)
        by_key[key] = replace(first, wish=wish)
    notes = [
        f"destination `{destination}` was requested with another transform before, which stands for those instances"
        for destination in sorted(changed)
    ]
    return list(by_key.values()), notes


def of_version(known: Sequence[Known], count: int, content_hash: str, last_arrival: datetime) -> list[Known] | None:
    """Find the instances of a study version among those that are known.

    Later instances may be known already: then those that had arrived by the version's last arrival are tried. Of an
    instance with several contents the one that was received last counts, as other content may make a new version.

    Returns
    -------
    list[Known] | None
        Exactly the version's instances, or none while some are missing.
    """
    for candidates in (standing(known), standing(one for one in known if one.received_at <= last_arrival)):
        if len(candidates) == count and set_hash(one.identity for one in candidates) == content_hash:
            return candidates
    return None


def standing(known: Iterable[Known]) -> list[Known]:
    """Leave out the contents that another one took the place of."""
    last: dict[str, Known] = {}
    for one in sorted(known, key=lambda one: (one.received_at, one.item.content_hash)):
        last[one.item.sop_instance_uid] = one
    return sorted(last.values(), key=lambda one: one.id)


def requests(
    study_instance_uid: str,
    network_version: int,
    made: Sequence[Requested],
    closing: int | None = None,
    had: Mapping[str, Mapping[str, str]] = NOTHING,
    documents: Documents = NOTHING,
) -> list[DeliveryRequested]:
    """Write requests as events, at most 500 items each.

    Parameters
    ----------
    study_instance_uid
        The study.
    network_version
        Version of the definition that decided.
    made
        What is requested; when closing, everything that each destination gets of the study.
    closing
        Version of the study, if the last request to each destination says how many instances it gets.
    had
        What a destination got of the study before its copy expired, which it keeps: content hash by SOP Instance UID.
    documents
        What transforms say.
    """
    events = []
    by_destination = sorted(made, key=lambda one: one.destination)
    for destination, group in groupby(by_destination, key=lambda one: one.destination):
        ordered = sorted(
            group,
            key=lambda one: (
                one.wish.transform or "",
                one.wish.under or network_version,
                one.instance.received_at,
                one.instance.identity,
            ),
        )
        whole = ordered[0].wish
        for one in ordered[1:]:
            whole = whole.merged(one.wish)
        source_node = min(
            ordered, key=lambda one: (one.instance.received_at, one.instance.identity)
        ).instance.source.node
        whole_set = [one.instance.identity for one in ordered]
        requested = {sop_uid for sop_uid, _ in whole_set}
        whole_set += [pair for pair in had.get(destination, NOTHING).items() if pair[0] not in requested]
        chunks = [
            (transform, under, part)
            for (transform, under), alike in groupby(
                ordered, key=lambda one: (one.wish.transform, one.wish.under or network_version)
            )
            for part in _parts(list(alike))
        ]
        for position, (transform, under, part) in enumerate(chunks, start=1):
            closes = closing is not None and position == len(chunks)
            events.append(
                DeliveryRequested(
                    study_instance_uid=study_instance_uid,
                    destination=destination,
                    priority=whole.priority,
                    network_version=network_version,
                    rules=whole.rules,
                    source_node=source_node,
                    transform=transform,
                    transform_document=None if transform is None else documents.get((transform, under)),
                    decided_under=None if under == network_version else under,
                    items=tuple(one.instance.item for one in part),
                    hold=None if whole.hold is None else DeliveryHold(rule=whole.hold.rule, until=whole.hold.until),
                    study_version=closing if closes else None,
                    expected_count=len(whole_set) if closes else None,
                    expected_hash=set_hash(whole_set) if closes else None,
                )
            )
    return events


def _parts(ordered: list[Requested]) -> list[list[Requested]]:
    return [ordered[start : start + MOST_ITEMS] for start in range(0, len(ordered), MOST_ITEMS)]


def aggregate(values: Iterable[AttributeValue]) -> AttributeValue | None:
    """Make a study's value of its instances' values, in any order: of lists the union, else the smallest."""
    lists: set[str | int | float] = set()
    scalars: set[str | int | float] = set()
    for value in values:
        if isinstance(value, list):
            lists.update(value)
        else:
            scalars.add(value)
    if lists:
        return sorted(lists | scalars, key=_rank)  # type: ignore[return-value]  # values of one attribute are of one type
    return min(scalars, key=_rank, default=None)


def _rank(value: str | float) -> tuple[bool, float, str]:
    """Order numbers before texts, as a damaged header may give either."""
    return (True, 0, value) if isinstance(value, str) else (False, value, "")
