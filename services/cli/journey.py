"""What became of a study, told from its timeline."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

Entry = dict[str, Any]


@dataclass(frozen=True)
class Journey:
    """What became of one study at one destination."""

    study: str
    instances: int
    rule: str
    destination: str
    seconds: float


def finished(entries: Sequence[Entry]) -> bool:
    """Tell whether the study is complete, decided, and at each destination that was asked for."""
    types = [entry["event"] for entry in entries]
    if "study.completed.v1" not in types:
        return False
    asked = {e["details"]["destination"] for e in entries if e["event"] == "delivery.requested.v1"}
    done = {e["details"]["destination"] for e in entries if e["event"] == "delivery.completed.v1"}
    study_decided = any(e["event"] == "routing.decided.v1" and e["details"]["trigger"] == "study" for e in entries)
    return study_decided and asked == done


def journeys(uid: str, entries: Sequence[Entry]) -> list[Journey]:
    """Give what became of the study at each destination that has it."""
    rules: dict[str, list[str]] = {}
    for entry in entries:
        if entry["event"] == "delivery.requested.v1":
            known = rules.setdefault(entry["details"]["destination"], [])
            known += [rule for rule in entry["details"]["rules"] if rule not in known]
    completed = [entry for entry in entries if entry["event"] == "delivery.completed.v1"]
    return [
        Journey(
            study=uid,
            instances=entry["details"]["instance_count"],
            rule=", ".join(rules[entry["details"]["destination"]]),
            destination=entry["details"]["destination"],
            seconds=_seconds(entries, entry["details"]),
        )
        for entry in completed
    ]


def _seconds(entries: Sequence[Entry], completed: dict[str, Any]) -> float:
    arrived = min(datetime.fromisoformat(entry["time"]) for entry in entries)
    return (datetime.fromisoformat(completed["completed_at"]) - arrived).total_seconds()
