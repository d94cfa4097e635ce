"""A message that no service could read: listed, shown, handed over once more."""

import json

import pytest

from tests.integration.cli.conftest import UNREADABLE, Cli
from tests.support.process import wait_until

pytestmark = pytest.mark.integration


def dead(cli: Cli, *more: str) -> list[dict[str, object]]:
    """List the dead letters."""
    done = cli("dead", "list", "--json", *more)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, object]] = json.loads(done.stdout)["dead_letters"]
    return found


def test_a_dead_letter_is_listed_shown_and_replayed(cli: Cli) -> None:
    # The routing key brings the message to whoever takes completed studies: rules, and audit, which takes everything.
    wait_until(lambda: {str(one["key"]) for one in dead(cli)} >= {"rules/1", "audit/1"}, "the message to be given up")
    table = cli("dead", "list").stdout
    assert "rules/1" in table
    assert "not readable" in table

    shown = json.loads(cli("dead", "show", "rules/1").stdout)
    assert shown["queue"] == "rules.study.completed.v1"
    assert shown["encoding"] == "base64"
    assert shown["reason"]
    assert UNREADABLE.decode("latin-1") not in table

    missing = cli("dead", "show", "rules/99")
    assert missing.returncode == 1
    assert "There is no dead letter 99" in missing.stderr
    assert cli("dead", "replay", "rules/1", "rules/99").returncode == 1

    assert "1 handed over once more" in cli("dead", "replay", "rules/1").stdout
    wait_until(lambda: "rules/2" in {one["key"] for one in dead(cli)}, "it to come back, for nothing was mended")
    assert "rules/1" not in {one["key"] for one in dead(cli)}
    assert "rules/1" in {one["key"] for one in dead(cli, "--all")}
    assert json.loads(cli("dead", "replay", "--all", "--json").stdout)["replayed"] >= 2
