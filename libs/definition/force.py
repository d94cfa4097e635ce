"""What a definition may say already, and this release does not carry out yet: kept, and said so."""

from collections.abc import Iterator
from typing import Final

from contracts.definition import Definition, Destination, May

_HELD: Final = "deliveries to it are held, and sent by a release that carries it out"
_NOT_ANSWERED: Final[tuple[May, ...]] = ("commit", "find", "move", "get")
#: How many sites or nodes a sentence names.
_NAMED: Final = 5


def not_in_force(definition: Definition) -> list[str]:
    """Say which parts are kept but not carried out by this release, one sentence each, in the order of the document.

    What would send more than the operator wants (no transform, no TLS) is never left out: it holds the delivery.
    """
    said = list(_sites_and_nodes(definition))
    for key, destination in definition.destinations.items():
        said += _destination(key, destination)
        said += _unheard(definition, key, destination)
        said += _failover(definition, key, destination)
    for rule in definition.rules:
        if rule.transform is not None and rule.notify:
            said.append(
                f"rule {rule.name}: the transform {rule.transform} is not in force for the partners that it notifies; "
                "what they are to be told is held, never told untransformed"
            )
    said += [
        f"partners.{key} is told by deployments with RabbitMQ only; elsewhere what it is to be told is held"
        for key in definition.partners
    ]
    said += [f"service-levels: {level.name} is not in force; it is not measured" for level in definition.service_levels]
    return said


def _sites_and_nodes(definition: Definition) -> Iterator[str]:
    nodes = {key: node for key, node in definition.nodes.items() if not node.retired}
    for asked in _NOT_ANSWERED:
        those = [key for key, node in nodes.items() if asked in node.may]
        yield from _of_many("nodes", f"may: {asked}", those, "no such request is answered")


def _of_many(section: str, part: str, keys: list[str], missing: str) -> Iterator[str]:
    """Say it once for all of them: a country has thousands of nodes."""
    if keys:
        more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
        yield f"{section}: {part} is not in force; {missing} ({', '.join(keys[:_NAMED])}{more})"


def _destination(key: str, destination: Destination) -> Iterator[str]:
    where = f"destinations.{key}"
    if destination.stow is not None:
        yield f"{where}: stow is not in force; {_HELD}"
    if destination.s3 is not None:
        yield f"{where}: s3 is not in force; {_HELD}"
    yield from _comfort(key, destination)


def _unheard(definition: Definition, key: str, destination: Destination) -> Iterator[str]:
    node = definition.nodes.get(destination.node or "")
    if destination.confirm == "commit" and node is not None and not node.commit:
        yield (
            f"destinations.{key}: confirm: commit is in force only for what node {destination.node} reports on the "
            "association on which it is asked; with commit: true it may report on one of its own, as most do"
        )


def _failover(definition: Definition, key: str, destination: Destination) -> Iterator[str]:
    other = definition.destinations.get(destination.failover or "")
    if other is not None and destination.transform is not None and other.transform != destination.transform:
        yield (
            f"destinations.{key}: failover to {destination.failover} never takes place, for that has not the transform "
            f"{destination.transform}; studies wait for {key}"
        )


def _comfort(key: str, destination: Destination) -> Iterator[str]:
    where = f"destinations.{key}"
    if destination.skip_existing:
        yield f"{where}: skip-existing is not in force; everything is sent"
