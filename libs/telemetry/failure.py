"""What may be said of an exception: where it was raised and of what type, and its text only where the type vouches.

A type vouches by the class attribute `safe_to_log = True`: its texts are written by us and never hold content.
"""

import traceback
from collections.abc import Iterator
from pathlib import PurePath

_FRAMES = 12


def described(error: BaseException) -> dict[str, object]:
    """Describe an exception for a log line: `error`, `where`, `cause`, and `message` where its type vouches for it."""
    said: dict[str, object] = {"error": type(error).__name__}
    where = _where(error)
    if where:
        said["where"] = where
    causes = [type(each).__name__ for each in _causes(error)]
    if causes:
        said["cause"] = causes
    if getattr(type(error), "safe_to_log", False):
        said["message"] = str(error)
    return said


def _where(error: BaseException) -> list[str]:
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    return [f"{'/'.join(PurePath(frame.filename).parts[-3:])}:{frame.lineno} {frame.name}" for frame in frames]


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen = {id(error)}
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield inner
            seen.add(id(inner))
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
