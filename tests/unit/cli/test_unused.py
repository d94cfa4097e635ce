"""What an apply says of rules that have not matched for long, from what the service rules answers."""

import json
from datetime import timedelta
from typing import Any

import httpx
import pytest

from libs.clock import utc_now
from services.cli.client import Client
from services.cli.network import unused_rules

TEXT = json.dumps(
    {
        "kivuko": 1,
        "name": "Clinic",
        "sites": {"luba": {"name": "Clinic"}},
        "nodes": {"PACS": {"site": "luba", "host": "127.0.0.1", "port": 11200}},
        "destinations": {"archive": {"node": "PACS"}},
        "rules": [{"name": name, "trigger": "study", "deliver": "archive"} for name in ("old", "used", "new")],
    }
)


def asked(answer: Any) -> list[dict[str, Any]] | None:
    http = httpx.Client(transport=httpx.MockTransport(answer), base_url="http://kivuko")
    return unused_rules(Client(http, "here", json_output=True), TEXT, "clinic.yaml")


def view(name: str, since: int, matched: int | None) -> dict[str, Any]:
    """Give a rule as the service shows it, with days that are past."""
    now = utc_now()
    last = None if matched is None else (now - timedelta(days=matched)).isoformat()
    return {"rule": {"name": name}, "since": (now - timedelta(days=since)).isoformat(), "last_matched": last}


def test_rules_that_have_not_matched_for_long_are_named_with_their_line() -> None:
    rules = [view("old", 200, 91), view("used", 200, 89), view("gone", 200, None)]
    found = asked(lambda _: httpx.Response(200, json={"rules": rules}))
    assert found is not None
    assert [(one["kind"], one["level"], one["path"]) for one in found] == [("unused", "note", "rules[0].name")]


def test_a_release_that_does_not_say_when_leaves_nothing_to_say() -> None:
    assert asked(lambda _: httpx.Response(200, json={"rules": [{"rule": {"name": "old"}}]})) == []


def away(_: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("away")


@pytest.mark.parametrize(
    "answer",
    [
        away,
        lambda _: httpx.Response(403, json={}),
        lambda _: httpx.Response(409, json={}),
        lambda _: httpx.Response(200, text="not JSON"),
        lambda _: httpx.Response(200, json=["strange"]),
    ],
)
def test_without_an_answer_it_is_not_known(answer: Any) -> None:
    assert asked(answer) is None
