"""Whether the parts of a definition fit each other: each name that is used is there, and nothing runs in a loop."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import cache
from typing import Final
from zoneinfo import available_timezones

from pydantic import TypeAdapter, ValidationError

from contracts.definition import Destination, Node
from contracts.fact import AeTitle
from libs.definition.calendar import CalendarError, is_country, parse_days
from libs.definition.clash import clashes
from libs.definition.document import Path, Problem
from libs.definition.draft import Draft
from libs.definition.hl7 import hl7_problems
from libs.definition.loop import loops
from libs.definition.mappings import DEFAULT
from libs.definition.transforms import transform_problems
from libs.definition.wording import alike

_AE_TITLE: Final[TypeAdapter[str]] = TypeAdapter(AeTitle)
_ONE: Final = {
    "sites": "site",
    "nodes": "node",
    "destinations": "destination",
    "transforms": "transform",
    "partners": "partner",
    "hl7-mappings": "mapping",
}


def misfits(draft: Draft) -> Iterator[Problem]:
    """Find everything in which the parts of a definition do not fit each other."""
    for check in (_zone, _calendars, _nodes, _callers, _destinations, _loops, _transforms, _rules, _tests, _others):
        yield from check(draft)


def _missing(draft: Draft, section: str, name: str, path: Path) -> Iterator[Problem]:
    if not draft.has(section, name):
        hint = alike(name, draft.names.get(section, ())) or f"declare it under `{section}`"
        yield draft.document.problem(path, f"no {_ONE[section]} is called {name}", hint)


def _zone(draft: Draft) -> Iterator[Problem]:
    zones: dict[Path, str | None] = {("timezone",): draft.definition.timezone}
    zones |= {("sites", key, "timezone"): site.timezone for key, site in draft.definition.sites.items()}
    for path, zone in zones.items():
        if zone is not None and zone not in _zones():
            hint = alike(zone, _zones()) or "write an IANA name such as Africa/Malabo"
            yield draft.document.problem(path, f"{zone} is not a known time zone", hint)


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


def _calendars(draft: Draft) -> Iterator[Problem]:
    for key, calendar in draft.definition.calendars.items():
        if calendar.holidays is not None and not is_country(calendar.holidays):
            yield draft.document.problem(
                ("calendars", key, "holidays"),
                f"the public holidays of {calendar.holidays} are not known",
                "write the two letters of an ISO 3166 country, such as GQ, or leave holidays out",
            )
        try:
            parse_days(calendar.days)
        except CalendarError as error:
            yield draft.document.problem(("calendars", key, "days"), str(error))


def _nodes(draft: Draft) -> Iterator[Problem]:
    for key, node in draft.definition.nodes.items():
        path = ("nodes", key)
        yield from _missing(draft, "sites", node.site, (*path, "site"))
        yield from _titles(draft, key, node)
        if node.port is not None and node.host is None:
            hint = "add host, or remove port"
            yield draft.document.problem((*path, "port"), "a port without a host cannot be called", hint)
        if node.may and not node.from_ and node.host is None:
            message = "the node may ask things of us, but there is no address to recognise it by"
            yield draft.document.problem((*path, "may"), message, "add host, or from with its network")
        yield from _worklist(draft, key, node)
        if node.hl7 is not None and node.hl7.mapping != DEFAULT:
            yield from _missing(draft, "hl7-mappings", node.hl7.mapping, (*path, "hl7", "mapping"))


def _worklist(draft: Draft, key: str, node: Node) -> Iterator[Problem]:
    path = ("nodes", key, "worklist")
    if "worklist" in node.model_fields_set and "worklist" not in node.may:
        message = "the node sees nothing of the worklist, because it may not ask for it"
        yield draft.document.problem(path, message, "add worklist to its may, or remove this")
    sites = draft.definition.sites
    for position, name in enumerate(node.worklist.sites):
        if name == "all":
            continue
        at = (*path, "sites", position)
        yield from _missing(draft, "sites", name, at)
        if name in sites and node.site in sites and sites[name].tenant != sites[node.site].tenant:
            message = f"the site {name} belongs to another tenant: nothing is shared between tenants"
            yield draft.document.problem(at, message, f"name sites of {sites[node.site].tenant}")


def _titles(draft: Draft, key: str, node: Node) -> Iterator[Problem]:
    ours = draft.definition.aets
    if node.called is not None and node.called not in ours:
        message = f"{node.called} is not an AE title that we answer to ({', '.join(ours)})"
        hint = alike(node.called, ours) or "add it to aets"
        yield draft.document.problem(("nodes", key, "called"), message, hint)
    only_hl7 = node.hl7 is not None and node.port is None and not node.may
    if node.aet is None and not only_hl7 and not _fits_title(key):
        message = "the key is no AE title, because it is longer than 16 characters"
        yield draft.document.problem(("nodes", key), message, "add aet with the AE title of the node", key=True)


def _fits_title(key: str) -> bool:
    try:
        _AE_TITLE.validate_python(key)
    except ValidationError:
        return False
    return True


def _callers(draft: Draft) -> Iterator[Problem]:
    for first, second in clashes(draft.definition.nodes):
        line, _ = draft.document.key_at(("nodes", first))
        yield draft.document.problem(
            ("nodes", second),
            f"clashes with {first} (line {line}): same AE title {draft.definition.aet_of(second)}, "
            "overlapping addresses, and nothing that they call tells them apart",
            "give them different AE titles, addresses (host or from), or AE titles to call (called)",
            key=True,
        )


def _destinations(draft: Draft) -> Iterator[Problem]:
    for key, destination in draft.definition.destinations.items():
        path = ("destinations", key)
        if destination.node is not None:
            yield from _missing(draft, "nodes", destination.node, (*path, "node"))
            yield from _uncallable(draft, destination.node, (*path, "node"))
        for position, member in enumerate(destination.group or ()):
            yield from _missing(draft, "destinations", member, (*path, "group", position))
        if destination.failover is not None:
            yield from _missing(draft, "destinations", destination.failover, (*path, "failover"))
        if destination.transform is not None:
            yield from _missing(draft, "transforms", destination.transform, (*path, "transform"))


def _uncallable(
    draft: Draft,
    key: str,
    path: Path,
    hint: str = "send to another node, or remove the destination and what names it",
) -> Iterator[Problem]:
    node = draft.definition.nodes.get(key)
    if node is None:
        return
    if node.retired:
        yield draft.document.problem(path, f"the node {key} is retired and is not called", hint)
    elif node.port is None:
        message = f"the node {key} has no port, so it cannot be called"
        yield draft.document.problem(path, message, f"add host and port to nodes.{key}")


def _loops(draft: Draft) -> Iterator[Problem]:
    def by(field: str, following: Callable[[Destination], Iterable[str]]) -> Iterator[Problem]:
        graph = {key: tuple(following(destination)) for key, destination in draft.definition.destinations.items()}
        for loop in loops(graph):
            message = f"runs in a loop: {' -> '.join((*loop, loop[0]))}"
            yield draft.document.problem(("destinations", loop[0], field), message, "break it at one of them")

    yield from by("group", lambda destination: destination.group or ())
    yield from by("failover", lambda destination: filter(None, [destination.failover]))


def _transforms(draft: Draft) -> Iterator[Problem]:
    yield from transform_problems(draft)
    yield from hl7_problems(draft)


def _rules(draft: Draft) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for position, rule in enumerate(draft.definition.rules):
        path = draft.path("rules", position)
        if rule.name in first:
            message = f"a rule called {rule.name} is in line {first[rule.name]} already"
            yield draft.document.problem((*path, "name"), message, "give each rule a name of its own")
        first.setdefault(rule.name, draft.document.value_at((*path, "name"))[0])
        for field, section, names in (
            ("deliver", "destinations", rule.deliver),
            ("notify", "partners", rule.notify),
            ("transform", "transforms", (rule.transform,) if rule.transform else ()),
        ):
            for at, name in enumerate(names):
                yield from _missing(draft, section, name, (*path, field, at))


def _tests(draft: Draft) -> Iterator[Problem]:
    for position, test in enumerate(draft.definition.tests):
        path = draft.path("tests", position)
        for at, name in enumerate(test.delivers):
            yield from _missing(draft, "destinations", name, (*path, "delivers", at))
        for key, section in (("site", "sites"), ("node", "nodes")):
            if key in test.source:
                yield from _missing(draft, section, test.source[key], (*path, "source", key))
        if test.at is not None and not _is_local_time(test.at):
            message = f"{test.at} is not a local date and time"
            yield draft.document.problem((*path, "at"), message, 'write such as "2026-11-20T10:00"')


def _is_local_time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is None and "T" in text
    except ValueError:
        return False


def _others(draft: Draft) -> Iterator[Problem]:
    definition = draft.definition
    for at, node in enumerate(definition.mpps.forward):
        yield from _missing(draft, "nodes", node, ("mpps", "forward", at))
        hint = "name another node, or leave it out"
        yield from _uncallable(draft, node, ("mpps", "forward", at), hint)
    for key, partner in definition.partners.items():
        for at, site in enumerate(partner.sites):
            yield from _missing(draft, "sites", site, ("partners", key, "sites", at))
    for key, mapping in definition.hl7_mappings.items():
        if mapping.extends not in (None, DEFAULT):
            yield from _missing(draft, "hl7-mappings", str(mapping.extends), ("hl7-mappings", key, "extends"))
    graph = {key: tuple(filter(None, [mapping.extends])) for key, mapping in definition.hl7_mappings.items()}
    for loop in loops(graph):
        message = f"runs in a loop: {' -> '.join((*loop, loop[0]))}"
        yield draft.document.problem(("hl7-mappings", loop[0], "extends"), message, "break it at one of them")
    counted = Counter(level.name for level in definition.service_levels)
    for position, level in enumerate(definition.service_levels):
        if counted[level.name] > 1:
            path = draft.path("service-levels", position, "name")
            yield draft.document.problem(
                path, f"{counted[level.name]} service levels are called {level.name}", "rename one"
            )
