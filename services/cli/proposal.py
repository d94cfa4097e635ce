"""A definition that is tried before it is applied: read from a file and checked, or the one in force."""

from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from services.cli.client import EXIT_REFUSED, connect
from services.cli.output import fail

if TYPE_CHECKING:
    from contracts.definition import Definition
    from libs.definition.document import Problem


def proposed(file: Path, *, json_output: bool) -> "Definition":
    """Read and check a definition; one that would be refused ends the command with exit code 1."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        fail(f"{file}: {error.strerror}.", "Name a file that exists and can be read.", code=2, json_output=json_output)
    except UnicodeDecodeError:
        fail(f"{file} is not text in UTF-8.", "Save it as UTF-8.", code=2, json_output=json_output)
    return _checked(text, file.name, json_output=json_output)


def live(*, json_output: bool) -> "Definition":
    """Ask for the definition in force."""
    found = connect(json_output=json_output).get("/v1/network/definition/current")
    return _checked(found["text"], f"version {found['version']}", json_output=json_output)


def _checked(text: str, name: str, *, json_output: bool) -> "Definition":
    from libs.definition.document import DefinitionError  # noqa: PLC0415 - slow, and only needed here
    from libs.definition.reading import read  # noqa: PLC0415 - slow, and only needed here
    from libs.definition.validation import check  # noqa: PLC0415 - slow, and only needed here

    try:
        found = check(read(text, name))
    except DefinitionError as error:
        found = error.problems
    if isinstance(found, list):
        _refuse(name, found, json_output=json_output)
    return found


def _refuse(name: str, found: "list[Problem]", *, json_output: bool) -> NoReturn:
    problems = [
        {
            "file": one.file,
            "line": one.line,
            "column": one.column,
            "path": one.path,
            "message": one.message,
            "hint": one.hint,
        }
        for one in found
    ]
    fail(
        f"{name} has {len(found)} {'problem' if len(found) == 1 else 'problems'}; nothing was tried.",
        "Mend them, then try again.",
        code=EXIT_REFUSED,
        json_output=json_output,
        problem={"problems": problems},
    )
