"""Every name that the code gives to a log line or a span is one that is let through."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from libs.telemetry.allowed import LOG_KEYS, SPAN_KEYS

ROOT = Path(__file__).parents[3]
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
FILES = sorted(path for room in ("libs", "services") for path in (ROOT / room).rglob("*.py"))


def calls(path: Path) -> Iterator[tuple[ast.Call, str, str]]:
    """Give each call of a method with the name of what it is called on, and its own."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node, ast.unparse(node.func.value), node.func.attr


@pytest.mark.unit
@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_log_calls(path: Path) -> None:
    for call, on, name in calls(path):
        if name in LEVELS and on.lower().lstrip("_").split(".")[-1] in ("log", "logger"):
            given = {keyword.arg for keyword in call.keywords if keyword.arg is not None}
            assert given <= LOG_KEYS | {"exc_info"}, (
                f"{path}:{call.lineno}: add to libs/telemetry/allowed.py or leave out"
            )
            either = [call.args[0].body, call.args[0].orelse] if isinstance(call.args[0], ast.IfExp) else [call.args[0]]
            assert all(isinstance(event, ast.Constant) for event in either), (
                f"{path}:{call.lineno}: the event is a constant; values have keys"
            )


@pytest.mark.unit
@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_span_attributes(path: Path) -> None:
    for call, _, name in calls(path):
        if name == "set_attribute" and isinstance(call.args[0], ast.Constant):
            given = {call.args[0].value}
        else:
            given = {
                key.value
                for keyword in call.keywords
                if keyword.arg == "attributes" and isinstance(keyword.value, ast.Dict)
                for key in keyword.value.keys
                if isinstance(key, ast.Constant)
            }
        assert given <= SPAN_KEYS, f"{path}:{call.lineno}: add to libs/telemetry/allowed.py or leave out"


@pytest.mark.unit
def test_the_search_finds_calls() -> None:
    found = [(on, name) for path in FILES for _, on, name in calls(path)]
    assert sum(name in LEVELS and on in ("_LOG", "_log") for on, name in found) > 10
    assert sum(name == "set_attribute" for _, name in found) > 2
