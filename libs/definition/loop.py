"""What refers to itself in the end."""

from collections.abc import Mapping


def loops(graph: Mapping[str, tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Find a loop through each start that is in one; each loop once, from its first member in the graph's order."""
    found: dict[frozenset[str], tuple[str, ...]] = {}
    for start in graph:
        trail = _way_back(graph, start)
        if trail and not any(start in loop for loop in found):
            found[frozenset(trail)] = trail
    return list(found.values())


def _way_back(graph: Mapping[str, tuple[str, ...]], start: str) -> tuple[str, ...]:
    trails: list[tuple[str, ...]] = [(start,)]
    seen: set[str] = set()
    for trail in trails:
        for after in graph.get(trail[-1], ()):
            if after == start:
                return trail
            if after not in seen:
                seen.add(after)
                trails.append((*trail, after))
    return ()
