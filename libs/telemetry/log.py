"""Structured logs: one JSON object a line on standard error, coloured text where that is a terminal.

Own code passes a constant event and known keys: `_LOG.info("study completed", study_uid=uid, instances=12)`. Unknown
keys are dropped and counted in `dropped`. Of libraries' messages only the place in the code is kept, unless the library
is known to keep values apart from its texts.
"""

import logging
import sys
import threading
import warnings
from dataclasses import dataclass, field
from pathlib import PurePath
from types import TracebackType
from typing import Any, Literal, TextIO, cast

import structlog
from opentelemetry import trace
from structlog.typing import EventDict, FilteringBoundLogger

from libs.telemetry import metric
from libs.telemetry.allowed import LOG_KEYS, clean
from libs.telemetry.failure import described

Level = Literal["debug", "info", "warning", "error"]

#: Libraries whose message templates hold no values; the arguments are left out all the same.
TEMPLATES_KNOWN = ("uvicorn", "alembic", "aio_pika", "aiormq", "opentelemetry")

#: Libraries whose outcomes we report ourselves; only exceptions are heard from them, for they may be from our own code.
TOLD_BY_US = ("pynetdicom",)

#: Libraries that print to standard output or standard error from their import on.
WRITES_ITSELF = ("faststream",)

_LOST = metric.counter("kivuko_log_lines_lost_total", "Log lines that could not be written.")
_FIRST = ("time", "level", "service", "event")


@dataclass
class _Output:
    """Where this process writes to; there is one standard error, so there is one of these."""

    stream: TextIO | None = None
    least: int = logging.INFO
    renderer: Any = field(default_factory=structlog.processors.JSONRenderer)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def msg(self, line: str) -> None:
        """Write a line. That the log can't be written must not stop what is being logged."""
        stream = sys.stderr if self.stream is None else self.stream
        try:
            with self.lock:
                stream.write(line + "\n")
                stream.flush()
        except (OSError, ValueError):  # a full disk, a pipe that nobody reads any more, a closed file
            _LOST.inc()

    # The names that structlog and logging call it by.
    debug = info = warning = error = critical = exception = log = warn = fatal = failure = err = msg


_output = _Output()


def configure(level: Level = "info", *, stream: TextIO | None = None) -> None:
    """Set up the logs of this process, those of libraries, and what Python prints when something goes unhandled.

    Parameters
    ----------
    level
        Least severe line of our own that is written. Libraries are heard from `warning` up.
    stream
        Where to; standard error if left out.
    """
    _output.stream = stream
    _output.least = logging.getLevelNamesMapping()[level.upper()]
    _output.renderer = (
        structlog.dev.ConsoleRenderer(timestamp_key="time", pad_event_to=32)
        if (stream or sys.stderr).isatty()
        else structlog.processors.JSONRenderer()
    )
    logging.root.handlers[:] = [_Handler(logging.WARNING)]
    logging.root.setLevel(logging.WARNING)
    take_over()
    logging.raiseExceptions = False
    # Each of these would print values: pydicom's warnings quote what they complain about.
    warnings.showwarning = _show_warning
    sys.excepthook = _unhandled
    sys.unraisablehook = lambda raised: _report(raised.exc_value, "error ignored by Python")
    threading.excepthook = lambda raised: _report(raised.exc_value, "thread ended by an error")


def take_over() -> None:
    """Have the libraries that write by themselves speak through this module; once more after they are imported."""
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and name.split(".")[0] in WRITES_ITSELF:
            logger.handlers.clear()
            logger.propagate = True


def get(name: str) -> FilteringBoundLogger:
    """Give the logger of a module; it may be called before `configure`."""
    logger = structlog.wrap_logger(
        _output, processors=_PROCESSORS, wrapper_class=structlog.make_filtering_bound_logger(0), origin=name
    )
    return cast("FilteringBoundLogger", logger)


def _filter(_logger: Any, method: str, event: EventDict) -> EventDict:
    if logging.getLevelNamesMapping()[method.upper()] < _output.least:
        raise structlog.DropEvent
    return event


def _origin(_logger: Any, _method: str, event: EventDict) -> EventDict:
    name = str(event.pop("origin", ""))
    event["logger"] = name
    parts = name.split(".")
    if parts[0] == "services" and len(parts) > 1:
        event.setdefault("service", parts[1])
    return event


def _trace(_logger: Any, _method: str, event: EventDict) -> EventDict:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = trace.format_trace_id(context.trace_id)
        event["span_id"] = trace.format_span_id(context.span_id)
    return event


def _allow(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Keep what is allowed; say how much was dropped, not what: a name may be personal too."""
    error = event.pop("exc_info", None)
    kept = {key: clean(event[key]) for key in _FIRST if key in event}
    kept |= {key: clean(value) for key, value in event.items() if key in LOG_KEYS and key not in kept}
    if len(kept) < len(event):
        kept["dropped"] = len(event) - len(kept)
    kept["exc_info"] = error
    return kept


def _failure(_logger: Any, _method: str, event: EventDict) -> EventDict:
    given = event.pop("exc_info")
    if isinstance(given, tuple):
        given = given[1]
    error = given if isinstance(given, BaseException) else sys.exc_info()[1] if given else None
    if error is not None:
        event.update(described(error))
    return event


def _render(logger: Any, method: str, event: EventDict) -> str:
    return str(_output.renderer(logger, method, event))


_PROCESSORS: list[Any] = [
    _filter,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    _origin,
    _trace,
    _allow,
    _failure,
    _render,
]


class _Handler(logging.Handler):
    """Takes the messages of libraries into the same lines."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.split(".")[0] in TOLD_BY_US and not record.exc_info and record.levelno < logging.CRITICAL:
            return
        known = record.name.split(".")[0] in TEMPLATES_KNOWN and isinstance(record.msg, str)
        place = f"{'/'.join(PurePath(record.pathname).parts[-2:])}:{record.lineno} {record.funcName}"
        event: dict[str, Any] = {
            "event": record.msg if known else "message of a library",
            "where": place,
            "origin": record.name,
            "exc_info": record.exc_info or (record.msg if isinstance(record.msg, BaseException) else None),
        }
        method = record.levelname.lower() if record.levelname.lower() in ("warning", "error", "critical") else "warning"
        getattr(_FOREIGN, method)(**event)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    del message, file, line
    place = f"{'/'.join(PurePath(filename).parts[-2:])}:{lineno}"
    _FOREIGN.warning("warning of a library", error=category.__name__, where=place)


def _unhandled(_type: type[BaseException], error: BaseException, _traceback: TracebackType | None) -> None:
    _report(error, "process ended by an error")


def _report(error: BaseException | None, event: str) -> None:
    if not isinstance(error, SystemExit | KeyboardInterrupt):
        _FOREIGN.error(event, exc_info=error)


_FOREIGN = get("python")
