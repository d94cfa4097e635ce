"""Log lines: what stands in them, and what never does."""

import io
import json
import logging
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libs.storage.objects import StoreUnavailableError
from libs.telemetry import log, metric, trace
from libs.telemetry.allowed import LOG_KEYS, LONGEST

pytestmark = pytest.mark.unit
#: Text that could be a person's: longer than anything that a line holds by itself, so that finding it means a leak.
PERSONAL = st.text(st.characters(categories=["Lu", "Ll", "Nd"]), min_size=6, max_size=40).map("~{}~".format)


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What was written, with the process's hooks put back afterwards."""
    kept = (logging.root.handlers[:], logging.root.level, logging.raiseExceptions, warnings.showwarning)
    hooks = (sys.excepthook, sys.unraisablehook, threading.excepthook)
    stream = io.StringIO()
    log.configure("debug", stream=stream)
    yield stream
    log.configure("info")
    logging.root.handlers[:], level, logging.raiseExceptions, warnings.showwarning = kept
    logging.root.setLevel(level)
    sys.excepthook, sys.unraisablehook, threading.excepthook = hooks


def parsed(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def said(stream: io.StringIO) -> str:
    """Give all that the lines say, with nothing hidden behind an escape."""
    return json.dumps(parsed(stream), ensure_ascii=False)


def test_a_line(lines: io.StringIO) -> None:
    with trace.tracer("services.ingest.scp").start_as_current_span("store") as span:
        log.get("services.ingest.scp").info("study completed", study_uid="1.2.3", instances=3, sites=["a"])
    (line,) = parsed(lines)
    assert datetime.fromisoformat(str(line.pop("time"))).tzinfo == UTC
    context = span.get_span_context()
    if context.is_valid:
        assert line.pop("trace_id") == f"{context.trace_id:032x}"
        assert line.pop("span_id") == f"{context.span_id:016x}"
    assert line == {
        "level": "info",
        "service": "ingest",
        "logger": "services.ingest.scp",
        "event": "study completed",
        "study_uid": "1.2.3",
        "instances": 3,
        "dropped": 1,
    }


def test_what_is_less_severe_is_left_out(lines: io.StringIO) -> None:
    log.configure("warning", stream=lines)
    logger = log.get("x")
    logger.info("no")
    logger.warning("yes")
    assert [line["event"] for line in parsed(lines)] == ["yes"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(key=st.text(min_size=1).filter(lambda key: key not in LOG_KEYS | {"exc_info", "origin"}), value=PERSONAL)
def test_values_under_unknown_keys_never_get_out(lines: io.StringIO, key: str, value: str) -> None:
    lines.seek(0)
    lines.truncate()
    log.get("services.ingest").warning("received", **{key: value, "count": 1})
    (line,) = parsed(lines)
    assert value not in said(lines)
    assert line["dropped"] == 1
    assert line["count"] == 1


class _Person:
    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(value=PERSONAL, key=st.sampled_from(sorted(LOG_KEYS - {"event", "level", "time", "logger", "dropped"})))
def test_what_is_not_a_plain_value_never_gets_out(lines: io.StringIO, key: str, value: str) -> None:
    lines.seek(0)
    lines.truncate()
    logger = log.get("services.ingest")
    named = Enum("named", {"MEMBER": f"{value}^{value}"})
    for given_ in (
        _Person(value),
        ValueError(value),
        {"name": value},
        [_Person(value)],
        value.encode(),
        Path(value),
        named.MEMBER,
        f"{value}^{value}",
        f"input_value='{value}'",
        f"{value}\n{value}",
        value + "x" * LONGEST,
    ):
        logger.warning("received", **{key: given_})
    assert value not in said(lines)
    assert len(parsed(lines)) == 11


def _failed(value: str) -> LookupError:
    with pytest.raises(LookupError) as raised:
        _look_up(value)
    return raised.value


def _look_up(value: str) -> None:
    try:
        dict[str, str]()[value]
    except KeyError as error:
        raise LookupError(value) from error


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(value=PERSONAL)
def test_texts_of_exceptions_never_get_out(lines: io.StringIO, value: str) -> None:
    lines.seek(0)
    lines.truncate()
    error = _failed(value)
    log.get("a").error("failed", exc_info=error)
    logging.getLogger("pynetdicom").error("failed for %s", value, exc_info=error)
    logging.getLogger("asyncio").error(f"Task exception: {error!r}")  # noqa: G004 - as libraries do
    logging.getLogger("faststream").error(error)
    sys.excepthook(LookupError, error, error.__traceback__)
    assert value not in said(lines)
    first = parsed(lines)[0]
    assert first["error"] == "LookupError"
    assert first["cause"] == ["KeyError"]
    assert "_look_up" in str(first["where"])
    assert len(parsed(lines)) == 5


def test_groups_of_exceptions_are_told_by_type(lines: io.StringIO) -> None:
    log.get("a").error("failed", exc_info=ExceptionGroup("DOE", [ValueError("DOE"), OSError("DOE")]))
    assert "DOE" not in lines.getvalue()
    assert parsed(lines)[0]["cause"] == ["ValueError", "OSError"]


def test_texts_that_their_type_vouches_for_are_kept(lines: io.StringIO) -> None:
    log.get("a").error("not stored", exc_info=StoreUnavailableError("no connection: is it running?"))
    assert parsed(lines)[0]["message"] == "no connection: is it running?"


def test_messages_of_libraries(lines: io.StringIO) -> None:
    logging.getLogger("uvicorn.error").warning("Invalid %s", "DOE")
    logging.getLogger("asyncio").warning("Bad DOE")
    logging.getLogger("asyncio").info("Bad DOE")
    logging.getLogger("sqlalchemy.engine").info("INSERT DOE")
    known, unknown = parsed(lines)
    assert known["event"] == "Invalid %s"
    assert known["logger"] == "uvicorn.error"
    assert unknown["event"] == "message of a library"
    assert "test_log.py" in str(unknown["where"])
    assert "DOE" not in lines.getvalue()


def test_what_we_report_ourselves_is_not_told_twice(lines: io.StringIO) -> None:
    logging.getLogger("pynetdicom.transport").error("unable to connect to DOE")
    assert not lines.getvalue()
    logging.getLogger("pynetdicom.transport").critical("Bad DOE")
    logging.getLogger("pynetdicom.events").error(ValueError("DOE"), exc_info=ValueError("DOE"))
    _, failed = parsed(lines)
    assert failed["error"] == "ValueError"
    assert "DOE" not in lines.getvalue()


def test_what_python_prints_by_itself(lines: io.StringIO) -> None:
    def fail() -> None:
        raise ValueError("DOE")

    warnings.warn("Invalid value 'DOE'", stacklevel=1)
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    assert [line["error"] for line in parsed(lines)] == ["UserWarning", "ValueError"]
    assert "DOE" not in lines.getvalue()


def test_a_log_that_cannot_be_written_stops_nothing() -> None:
    before = _lost()
    full = Path("/dev/full").open("w")  # noqa: SIM115 - it can't be closed without an error
    log.configure(stream=full)
    log.get("a").info("disk is full")
    with pytest.raises(OSError, match="No space"):
        full.close()
    log.get("a").info("file is closed")
    log.configure()
    assert _lost() == before + 2


def _lost() -> float:
    return metric.REGISTRY.get_sample_value("kivuko_log_lines_lost_total") or 0.0


def test_a_terminal_gets_text_and_standard_output_nothing() -> None:
    code = (
        "import os, pty; from libs.telemetry import log; a, b = pty.openpty(); s = os.fdopen(b, 'w');"
        "log.get('a').info('before', count=1); log.configure(stream=s); "
        "log.get('a').info('stored', count=1);"
        "print(os.read(a, 1000).decode().count('stored'), flush=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
    assert json.loads(done.stderr)["event"] == "before"


def test_a_library_that_writes_by_itself_no_longer_does(lines: io.StringIO, capsys: pytest.CaptureFixture[str]) -> None:
    its_own = logging.getLogger("faststream.access.late")
    its_own.propagate = False
    its_own.addHandler(logging.StreamHandler())
    log.take_over()
    its_own.error("EJEMPLO^NOMBRE")
    printed = capsys.readouterr()
    assert "EJEMPLO" not in printed.out + printed.err + lines.getvalue()
    assert parsed(lines)[-1]["event"] == "message of a library"
