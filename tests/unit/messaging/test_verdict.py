"""What is said of a failure, and that it never holds what was in the event."""

import json
import sqlite3

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import DBAPIError

from contracts.envelope import Event
from contracts.study import StudyCompleted
from libs.messaging.consume import parse_any
from libs.messaging.failure import Refuse, Retry
from libs.messaging.verdict import judge

pytestmark = pytest.mark.unit

SECRET = "Mwangi^Achieng"


def raised(error: Exception) -> Exception:
    try:
        raise error
    except type(error) as caught:
        return caught


def test_a_handlers_own_words_are_kept() -> None:
    assert judge(Refuse("no such rule")).final
    assert judge(Refuse("no such rule")).reason == "no such rule"
    assert not judge(Retry("archive is away")).final
    assert judge(Retry("archive is away")).reason == "archive is away"


def test_a_failure_without_words_still_has_a_reason() -> None:
    assert "Retry" in judge(raised(Retry())).reason


def test_of_any_other_exception_only_type_and_place_are_told() -> None:
    verdict = judge(raised(ValueError(SECRET)))
    assert not verdict.final
    assert SECRET not in verdict.reason
    assert "ValueError" in verdict.reason
    assert "test_verdict.py" in verdict.reason


KEYS = st.sampled_from([SECRET, "id", "data"])
BODIES = st.recursive(
    st.sampled_from([SECRET, 1, None, True]),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner)),
    max_leaves=8,
)


@given(BODIES)
def test_what_is_wrong_with_an_event_is_told_without_its_values(body: object) -> None:
    with pytest.raises(Refuse) as refused:
        parse_any(json.dumps(body).encode())
    assert SECRET not in str(refused.value)


@given(st.binary(max_size=64))
def test_garbage_is_refused(body: bytes) -> None:
    with pytest.raises(Refuse):
        parse_any(body)


def test_a_known_type_with_wrong_data_names_the_fields() -> None:
    event = {
        "id": "1", "source": "/local/ingest", "type": "kivuko.study.completed.v1", "subject": "1.2.3",
        "time": "2026-01-02T03:04:05Z", "tenant": "default", "sequence": 1,
        "data": {"study_instance_uid": SECRET},
    }  # fmt: skip
    with pytest.raises(Refuse, match=r"data\.study_instance_uid: string_pattern_mismatch") as refused:
        parse_any(json.dumps(event).encode())
    assert SECRET not in str(refused.value)


def test_an_unknown_type_is_read_for_those_who_take_everything() -> None:
    event = {
        "id": "1", "source": "/local/ingest", "type": "kivuko.study.completed.v99", "subject": "1.2.3",
        "time": "2026-01-02T03:04:05Z", "tenant": "default", "sequence": 1, "data": {"new": 1},
    }  # fmt: skip
    read = parse_any(json.dumps(event).encode())
    assert isinstance(read, Event)
    assert not isinstance(read.data, StudyCompleted)
    assert read.type == "kivuko.study.completed.v99"


def failed(code: int | None = None, state: str | None = None) -> DBAPIError:
    """Make what SQLAlchemy raises of a driver's exception."""
    if code is not None:
        cause: Exception = sqlite3.OperationalError(SECRET)
        cause.sqlite_errorcode = code  # type: ignore[attr-defined] # the driver sets it
    else:
        cause = asyncpg.PostgresError(SECRET)
        cause.sqlstate = state  # type: ignore[attr-defined] # the driver sets it
    return DBAPIError("INSERT", None, cause)


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (failed(code=sqlite3.SQLITE_FULL), True),
        (failed(code=sqlite3.SQLITE_IOERR_FSYNC), True),
        (failed(code=sqlite3.SQLITE_CONSTRAINT_UNIQUE), False),
        (failed(code=sqlite3.SQLITE_ERROR), False),  # no such table
        (failed(state="53100"), True),  # disk full
        (failed(state="57P01"), True),  # the administrator ends it
        (failed(state="57014"), False),  # a statement that takes too long
        (failed(state="23505"), False),
        (failed(state="40P01"), False),  # deadlock
    ],
)
def test_a_database_that_is_full_or_away_is_not_the_events_fault(error: DBAPIError, ours: bool) -> None:
    verdict = judge(raised(error))
    assert (verdict.ours, verdict.final) == (ours, False)
    assert SECRET not in verdict.reason
