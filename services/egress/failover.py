"""Which destination gets what was to go to another one. Pure.

The design binds: a destination's de-identification can't be bypassed, failover included; and a study never goes back
to where it came from.
"""

from collections.abc import Callable, Iterator

from contracts.definition import Definition


def unfit(definition: Definition, key: str, to: str, source_node: str) -> str | None:
    """Tell why what was to go to `key` can't go to `to` instead, whether or not that can be reached; none if it can.

    Parameters
    ----------
    definition
        In force.
    key, to
        Destinations. `key` may have left the definition; nobody knows any more what it was to be changed by, then.
    source_node
        The node that sent the study.
    """
    mine, other = definition.destinations.get(key), definition.destinations.get(to)
    if to == key:
        return f"{to} is its own destination"
    if other is None or other.group is not None:
        return f"{to} is no destination of the network definition" if other is None else f"{to} is a group"
    if other.node is not None and other.node == source_node:
        return f"the study came from node {source_node} of destination {to}"
    if mine is None:
        return f"destination {key} is not in the network definition, so nobody knows whether a transform was to run"
    if mine.transform is not None and mine.transform != other.transform:
        return f"destination {to} has not the transform {mine.transform} of {key}: instances would leave untransformed"
    return None


def alternate(definition: Definition, key: str, source_node: str, in_reach: Callable[[str], bool]) -> str | None:
    """Give the destination that is to get what waits for one that is out of reach; none if there is none.

    It is the first that is in reach of its alternate, the alternate of that, and so on.
    """
    return next(
        (to for to in _alternates(definition, key) if unfit(definition, key, to, source_node) is None and in_reach(to)),
        None,
    )


def _alternates(definition: Definition, key: str) -> Iterator[str]:
    seen, at = {key}, definition.destinations.get(key)
    while at is not None and at.failover is not None and at.failover not in seen:
        seen.add(at.failover)
        yield at.failover
        at = definition.destinations.get(at.failover)
