"""What is said of the files of DICOM TLS while they run out."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from libs.dimse.tls import CertificateError, Files
from services.ingest import metric
from services.ingest.renewal import Renewal
from tests.support.authority import Authority

pytestmark = pytest.mark.unit


def days_left(kind: str) -> float:
    return metric.TLS_DAYS.labels(kind=kind)._value.get()  # type: ignore[no-any-return]  # of no type there


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Give what was logged since the last call."""
    return [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]


def test_it_is_told_daily_and_louder_as_the_end_comes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    authority = Authority(tmp_path)
    ours = authority.issue("kivuko", days=40)
    now = datetime.now(UTC)
    watch = Renewal(Files(ours.certificate, ours.key, authority.certificate), "bcp195", lambda: now)
    told: list[tuple[int, str, str]] = []
    start = now
    for hours in range(0, 42 * 24, 6):
        now = start + timedelta(hours=hours)
        watch.look()
        told += [(hours // 24, line["level"], line["event"]) for line in lines(capsys)]
    levels = {day: level for day, level, _ in told}
    assert sorted(levels) == list(range(min(levels), 42))
    assert min(levels) in (10, 11)
    assert [level for _, level in sorted(levels.items())] == sorted(levels.values(), reverse=True)
    assert set(levels.values()) == {"warning", "error"}
    assert sum(level == "error" for level in levels.values()) in (8, 9)
    assert "has ended" in told[-1][2]
    assert -3 < days_left("certificate") < 0
    assert days_left("authority") > 3000


def test_files_that_do_not_fit_at_the_start_are_an_error(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    ours, other = authority.issue("kivuko"), authority.issue("kivuko")
    with pytest.raises(CertificateError, match="belong together"):
        Renewal(Files(ours.certificate, other.key, authority.certificate), "bcp195", lambda: datetime.now(UTC))


def test_files_that_do_not_fit_later_are_an_alarm_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    authority = Authority(tmp_path)
    ours = authority.issue("kivuko")
    watch = Renewal(Files(ours.certificate, ours.key, authority.certificate), "bcp195", lambda: datetime.now(UTC))
    ours.key.write_text("no key")
    lines(capsys)
    watch.look()
    watch.look()
    assert [(line["level"], "stay in force" in line["event"]) for line in lines(capsys)] == [("error", True)]
