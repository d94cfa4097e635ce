"""The environment of a command: read once, and said what is wrong with it where it does not fit."""

import errno
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from libs.storage.durable import make_folder
from services.cli.output import fail

if TYPE_CHECKING:
    from pydantic import ValidationError

    from libs.settings import Settings

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
#: Enough that a disk on which nothing can be started is found out before anything is.
_PROBE = bytes(1 << 16)


def read_settings(*, json_output: bool = False) -> "Settings":
    """Read the settings; a wrong value ends the command with exit code 2, its name and the reason."""
    from pydantic import ValidationError  # noqa: PLC0415 - slow, and `--help` does without

    from libs.settings import Settings  # noqa: PLC0415 - slow, and `--help` does without

    try:
        return Settings()
    except ValidationError as error:
        fail(*misfit(error), code=2, json_output=json_output)


def misfit(error: "ValidationError") -> tuple[str, str]:
    """Say which variables do not fit and why, never with their values, and what to do."""
    # A service's own settings are the class `IngestSettings` with the prefix KIVUKO_INGEST_.
    own = error.title.removesuffix("Settings").upper()
    prefix = f"KIVUKO_{own}_" if own else "KIVUKO_"
    wrong = [f"{prefix}{str(one['loc'][0]).upper()}: {_plain(one['msg'])}" for one in error.errors()]
    return f"The environment does not fit: {'; '.join(wrong)}.", "Set these variables right, or unset them."


def _plain(message: str) -> str:
    return message[:1].lower() + message[1:].rstrip(".")


def prepare_home(home: Path, *, json_output: bool) -> None:
    """Make the folder and see that it takes bytes; one that does not ends the command with exit code 1."""
    try:
        make_folder(home)
        with tempfile.TemporaryFile(dir=home) as file:
            file.write(_PROBE)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        fail(*no_home(error, home), code=1, json_output=json_output)


def no_home(error: OSError, home: Path) -> tuple[str, str]:
    """Say why a folder cannot be used, and what to do."""
    why = os.strerror(error.errno) if error.errno else type(error).__name__
    what = f"The folder {home.absolute()} cannot be used ({why}); nothing was started."
    if error.errno in _NO_ROOM:
        return what, "Free some space there, or set KIVUKO_HOME to a folder on a larger disk."
    return what, "Give this user the right to write there on a local disk, or set KIVUKO_HOME to another folder."
