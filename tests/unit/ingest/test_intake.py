"""What one C-STORE comes to when something under it fails: nothing is acknowledged, nothing stays, and it is said."""

import errno
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from libs.dimse import command as commands
from libs.dimse.negotiation import Context
from services.ingest import span
from services.ingest.disk import SpoolFullError
from services.ingest.intake import Arriving, Intake, Session
from services.ingest.pool import Incoming, Pool
from services.ingest.seal import Head, Seal
from tests.integration.ingest.peer import read
from tests.support import requestor
from tests.support.synthetic import CT_IMAGE_STORAGE, EXPLICIT_LITTLE_ENDIAN, make_ct

pytestmark = pytest.mark.unit
CONTEXT = Context(1, CT_IMAGE_STORAGE, EXPLICIT_LITTLE_ENDIAN)
SESSION = Session("A1", "default", "luba", "CT1", True, False, None, False, {"tenant": "default", "association": "A1"})


class Told:
    """Keeps what the supervisor would be told."""

    def __init__(self) -> None:
        self.arrivals: list[Mapping[str, Any]] = []
        self.answers: list[tuple[int, str | None]] = []
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def spooled(self, arrival: Mapping[str, Any]) -> None:
        self.arrivals.append(arrival)

    def answered(self, status: int, seconds: float, failure: str | None) -> None:
        assert seconds >= 0
        self.answers.append((status, failure))

    def log(self, level: str, event: str, **said: Any) -> None:
        self.lines.append((level, event, said))

    def hold(self, session: Session) -> None:
        assert session is SESSION


class Failing(Pool):
    """A pool whose files fail in a given place, once."""

    def __init__(self, folder: Path, where: str, error: Exception) -> None:
        super().__init__(folder, 0, "life")
        self.where = where
        self.error = error

    def take(self, head: Head) -> Incoming:
        file = super().take(head)
        where, self.where = self.where, ""
        error = self.error

        class Broken(Incoming):
            def write(self, fragment: memoryview) -> None:
                if where == "write":
                    raise error
                super().write(fragment)

            def reading(self) -> BinaryIO:
                if where == "reading":
                    raise error
                return super().reading()

            def seal(self, status: int, reason: str, detail: str, traceparent: str) -> Seal:
                if where == "seal":
                    raise error
                return super().seal(status, reason, detail, traceparent)

            def discard(self) -> None:
                super().discard()
                if where:
                    raise OSError(errno.EROFS, "read-only")

        file.__class__ = Broken
        return file


def intake(pool: Pool, told: Told) -> Intake:
    """Make what is tested."""
    return Intake(
        pool,
        told,
        span.naming(bytes),
        clock=lambda: datetime(2026, 1, 1, tzinfo=UTC),
        noise=bytes,
        uplink=None,
    )


def send(tested: Intake, path: Path) -> int | None:
    """Have a file taken; gives the status."""
    meta, dataset = read(path)
    request = commands.decode(requestor.command(meta.sop_class_uid, meta.sop_instance_uid, 1))
    sink = tested.begin(SESSION, CONTEXT, request)
    assert isinstance(sink, Arriving)
    sink.write(memoryview(dataset))
    return sink.finish().status


@pytest.mark.parametrize(
    ("where", "error", "failure"),
    [
        ("seal", ValueError("a defect"), "alarm"),
        ("seal", OSError(errno.EIO, "broken"), "spool"),
        ("seal", OSError(errno.ENOSPC, "full"), "full"),
        ("write", OSError(errno.EIO, "broken"), "spool"),
        ("write", OSError(errno.EDQUOT, "full"), "full"),
    ],
)
def test_whatever_fails_is_refused_and_told_and_the_next_one_is_taken(
    tmp_path: Path, where: str, error: Exception, failure: str
) -> None:
    folder = tmp_path / "receiver-0"
    folder.mkdir()
    told = Told()
    pool = Failing(folder, where, error)
    tested = intake(pool, told)
    assert send(tested, make_ct(tmp_path)) == 0xA700
    assert told.answers == [(0xA700, failure)]
    assert not told.arrivals
    ((level, event, said),) = told.lines
    assert level == "error"
    assert said["association"] == "A1"
    assert event.startswith("store refused")
    assert ("ValueError" in str(said)) is (failure == "alarm")
    assert not [path for path in folder.iterdir() if path.stat().st_size]

    assert send(tested, make_ct(tmp_path)) == 0
    assert len(told.arrivals) == 1
    pool.close()


@pytest.mark.parametrize(
    ("error", "failure"), [(OSError(errno.EIO, "broken"), "spool"), (SpoolFullError("full"), "full")]
)
def test_a_dataset_that_cannot_be_read_back_for_its_identifiers_is_refused(
    tmp_path: Path, error: Exception, failure: str
) -> None:
    told = Told()
    pool = Failing(tmp_path, "reading", error)
    tested = intake(pool, told)
    sink = tested.begin(SESSION, CONTEXT, commands.decode(requestor.command(CT_IMAGE_STORAGE, "1.2.3", 1)))
    assert isinstance(sink, Arriving)
    # An element that hides all others, for longer than identifiers are looked for.
    sink.write(memoryview(b"\x08\0\x05\0UT\0\0" + (1 << 20).to_bytes(4, "little") + bytes(300 << 10)))
    assert sink.finish().status == 0xA700
    assert told.answers == [(0xA700, failure)]
    assert not told.arrivals
    pool.close()
