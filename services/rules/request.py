"""Requests written as events: what each destination is to get of a study. Pure."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Final

from contracts.delivery import DeliveryHold, DeliveryRequested
from contracts.manifest import set_hash
from services.rules.plan import Requested

#: Most items of one request.
MOST_ITEMS: Final = 500
NOTHING: Final[Mapping[Any, Any]] = {}
#: What transforms say, as in the definition: by name, and version of the definition.
Documents = Mapping[tuple[str, int], dict[str, Any]]


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
