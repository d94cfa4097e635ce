"""The definition in force in one process: a lower version never replaces a higher one, and people hear of it."""

import io
import json
from pathlib import Path

import pytest

from contracts.definition import Definition, Snapshot
from libs.snapshot import NetworkView
from libs.telemetry import log

pytestmark = pytest.mark.unit
DEFINITION = Definition.model_validate({"kivuko": 1, "name": "test", "sites": {"a": {"name": "A"}}})


def snapshot(version: int, digit: str = "0") -> Snapshot:
    return Snapshot(version=version, document_hash=digit * 64, definition=DEFINITION)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (snapshot(7), False),
        (snapshot(7, "1"), True),  # made anew, and applied as often
        (snapshot(3), True),  # restored from a backup
        (None, True),  # made anew
    ],
)
async def test_a_source_that_went_back_is_told_and_not_followed(
    tmp_path: Path, found: Snapshot | None, told: bool
) -> None:
    given: list[Snapshot | None] = [snapshot(7)]

    async def fetch() -> Snapshot | None:
        return given[-1]

    assert await NetworkView(fetch, tmp_path / "snapshot.json").refresh()
    lines = io.StringIO()
    log.configure(stream=lines)
    try:
        view = NetworkView(fetch, tmp_path / "snapshot.json")
        given.append(found)
        assert not await view.refresh()
    finally:
        log.configure()
    assert view.current == snapshot(7)
    assert [json.loads(line)["level"] for line in lines.getvalue().splitlines()] == (["error"] if told else [])


@pytest.mark.parametrize("kept", [b"", b"\0" * 4096, b'{"version": 7', b'{"version": 7, "from": "a newer release"}'])
async def test_a_kept_snapshot_that_can_not_be_read_is_fetched_again(tmp_path: Path, kept: bytes) -> None:
    async def fetch() -> Snapshot:
        return snapshot(7)

    (tmp_path / "snapshot.json").write_bytes(kept)
    (tmp_path / "snapshot.part").write_bytes(b"half")
    view = NetworkView(fetch, tmp_path / "snapshot.json")
    assert view.current is None
    assert await view.refresh()
    assert NetworkView(fetch, tmp_path / "snapshot.json").current == snapshot(7)
