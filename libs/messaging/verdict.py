"""What a handler's failure means for the event: tried again or given up, and why, without its values."""

import re
import sqlite3
import traceback
from dataclasses import dataclass
from pathlib import PurePath

from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError

from libs.messaging.failure import Refuse, Retry

#: A place in an event as we know it; anything else in a validator's path came with the event.
_KNOWN = re.compile(r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")
_ERRORS_TOLD = 5
_SQLITE_AWAY = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
    }
)
#: Classes of SQLSTATE, PostgreSQL's appendix A: connection exception, insufficient resources, operator intervention.
_POSTGRESQL_AWAY = frozenset({"08", "53", "57"})
_STATEMENT_TIMEOUT = "57014"


@dataclass(frozen=True)
class Verdict:
    """What becomes of an event.

    Attributes
    ----------
    final
        Whether trying again is pointless.
    reason
        Why, for logs and people.
    ours
        Whether the event has nothing to do with it: the service's own database was away. That is no failure of the
        event, however often it happens.
    """

    final: bool
    reason: str
    ours: bool = False


def judge(error: Exception) -> Verdict:
    """Judge a handler's exception. Texts are taken only from exceptions that promise to hold no values."""
    match error:
        case Refuse():
            return Verdict(final=True, reason=_said(error))
        case Retry():
            return Verdict(final=False, reason=_said(error))
        case _ if _database_away(error):
            return not_begun(error)
        case _:
            return Verdict(final=False, reason=f"{type(error).__name__} at {_where(error)}")


def not_begun(error: Exception) -> Verdict:
    """Judge what went wrong before the handler was called, or because the database could not take what it did."""
    return Verdict(final=False, reason=f"the database was not to be had: {type(error).__name__}", ours=True)


def _database_away(error: Exception) -> bool:
    """Tell whether the database is full, unreadable or gone: however long that lasts, it is not the event's fault."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, sqlite3.Error):
        # The low byte is the primary code, https://www.sqlite.org/rescode.html
        return getattr(cause, "sqlite_errorcode", 0) & 0xFF in _SQLITE_AWAY
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    state = str(getattr(cause, "sqlstate", None) or "")
    return state[:2] in _POSTGRESQL_AWAY and state != _STATEMENT_TIMEOUT


def invalid(error: ValidationError) -> str:
    """Say what is wrong with an event by the names of its fields, without what was in them."""
    found = error.errors(include_input=False, include_url=False, include_context=False)
    told = [f"{_place(each['loc'])}: {each['type']}" for each in found[:_ERRORS_TOLD]]
    more = f", and {len(found) - _ERRORS_TOLD} more" if len(found) > _ERRORS_TOLD else ""
    return f"not an event as contracts/ describes it ({'; '.join(told)}{more})"


def _said(error: Exception) -> str:
    return str(error) or f"{type(error).__name__} without a reason at {_where(error)}"


def _place(location: tuple[int | str, ...]) -> str:
    parts = (str(part) if isinstance(part, int) or _KNOWN.match(part) else "?" for part in location)
    return ".".join(parts) or "event"


def _where(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename]
    last = (own or frames)[-1:]
    return (
        "".join(f"{'/'.join(PurePath(frame.filename).parts[-3:])}:{frame.lineno}" for frame in last) or "unknown place"
    )
