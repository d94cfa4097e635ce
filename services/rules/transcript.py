"""A record of a study as JSON, as it stands in the table. Pure."""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from contracts.fact import Source
from services.rules.chronicle import Kind, Record, Version
from services.rules.route import Route


def as_json(record: Record) -> dict[str, Any]:
    """Write a record: attributes that all kinds of a version share stand there once."""
    return {
        "versions": [_version_json(each) for each in record.versions],
        "routes": {
            destination: {
                "priority": route.priority,
                "transforms": list(route.transforms),
                "hours": [[at, *both] for at, both in sorted(route.hours.items())],
                **({"held": True} if route.held else {}),
            }
            for destination, route in record.routes.items()
        },
    }


def from_json(data: Mapping[str, Any]) -> Record:
    """Read what `as_json` wrote."""
    return Record(
        tuple(map(_version_of, data["versions"])),
        {
            destination: Route(
                route["priority"],
                tuple(route["transforms"]),
                {at: (count, size) for at, count, size in route["hours"]},
                route.get("held", False),
            )
            for destination, route in data["routes"].items()
        },
    )


def _version_json(each: Version) -> dict[str, Any]:
    first = each.kinds[0].attributes if each.kinds else {}
    shared = {
        keyword: value
        for keyword, value in first.items()
        if all(keyword in kind.attributes and kind.attributes[keyword] == value for kind in each.kinds)
    }
    return {
        "number": each.number,
        "decided_at": each.decided_at.astimezone(UTC).isoformat(),
        "network_version": each.network_version,
        "last_arrival": each.last_arrival.astimezone(UTC).isoformat(),
        "source": each.source.model_dump(mode="json"),
        "study": each.attributes,
        "shared": shared,
        "kinds": [
            {
                "since": kind.since,
                "own": {key: value for key, value in kind.attributes.items() if key not in shared},
                "arrivals": [list(one) for one in kind.arrivals],
                **({} if kind.source == each.source else {"source": kind.source.model_dump(mode="json")}),
            }
            for kind in each.kinds
        ],
        "left": each.left,
        "looked_for": sorted(each.looked_for),
        **({} if each.unhealthy is None else {"unhealthy": sorted(each.unhealthy)}),
        **({"lifted": sorted(each.lifted)} if each.lifted else {}),
        **({"order": dict(each.order)} if each.order else {}),
    }


def _version_of(data: Mapping[str, Any]) -> Version:
    source = _source(data["source"])
    shared = data["shared"]
    return Version(
        number=data["number"],
        decided_at=datetime.fromisoformat(data["decided_at"]),
        network_version=data["network_version"],
        last_arrival=datetime.fromisoformat(data["last_arrival"]),
        source=source,
        attributes=data["study"],
        kinds=tuple(
            Kind(
                source if "source" not in kind else _source(kind["source"]),
                kind["since"],
                {**shared, **kind["own"]},
                tuple(map(tuple, kind["arrivals"])),
            )
            for kind in data["kinds"]
        ),
        left=data["left"],
        looked_for=frozenset(data["looked_for"]),
        unhealthy=frozenset(data["unhealthy"]) if "unhealthy" in data else None,
        lifted=frozenset(data.get("lifted", ())),
        order=data.get("order", {}),
    )


def _source(data: Mapping[str, Any]) -> Source:
    return _same_source(tuple(data.items()))


@lru_cache(maxsize=4096)
def _same_source(items: tuple[tuple[str, Any], ...]) -> Source:
    """Give one object for equal sources: a network has few, and its history names them a million times."""
    return Source.model_validate(dict(items))
