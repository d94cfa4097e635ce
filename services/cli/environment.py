"""The environment of a command: read once, and said what is wrong with it where it does not fit."""

from typing import TYPE_CHECKING

from services.cli.output import fail

if TYPE_CHECKING:
    from pydantic import ValidationError

    from libs.settings import Settings


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
