"""`kivuko send`: files, folders and zip archives to any C-STORE receiver."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from services.cli.client import EXIT_REFUSED, EXIT_UNREACHABLE
from services.cli.output import Json, err, fail, in_bytes, out, print_json

if TYPE_CHECKING:
    from services.cli.transfer import Found, Result

EXAMPLE = "Example: kivuko send ~/studies exam.zip --to 127.0.0.1:11112 --aet KIVUKO"

_MOST_SHOWN = 20
_MOST_PORT = 65535
#: PS3.5 section 6.2, value representation AE: up to 16 characters without control characters and backslash.
_AE_TITLE = re.compile(r"(?! +$)[ -\[\]-~]{1,16}")


def send(
    paths: Annotated[list[Path], typer.Argument(help="Files, folders (searched whole) and zip archives.")],
    *,
    to: Annotated[str, typer.Option(help="HOST:PORT of the receiver.")],
    aet: Annotated[str, typer.Option(help="AE title of the receiver.")] = "KIVUKO",
    calling: Annotated[str, typer.Option("--from", help="AE title to call with.")] = "KIVUKO",
    json_output: Json = False,
) -> None:
    """Send DICOM files by C-STORE, each in the transfer syntax that it has, byte for byte.

    Exits 0 only if the receiver said success for every instance, 3 if no association came about.
    """
    host, port = _address(to, json_output=json_output)
    for title in (aet, calling):
        if not _AE_TITLE.fullmatch(title):
            fail(f"{title!r} is no AE title.", "AE titles have 1 to 16 characters.", code=2, json_output=json_output)
    missing = [path for path in paths if not path.exists()]
    if missing:
        fail(f"{missing[0]}: there is no such file.", "Name files that exist.", code=2, json_output=json_output)

    from services.cli.transfer import Files, deliver, find  # noqa: PLC0415 - slow, and only needed from here on
    from services.egress.reach import Target  # noqa: PLC0415 - slow, and only needed from here on

    files = Files()
    found = find(paths, files)
    if not found.parcels:
        reasons = [*found.unreadable, *found.aside]
        what = "There is no DICOM instance among these" + (f": {reasons[0][0]}: {reasons[0][1]}." if reasons else ".")
        fail(what, "DICOM files have the letters DICM at byte 128.", code=EXIT_REFUSED, json_output=json_output)
    result = deliver(found.parcels, Target(host, port, aet, calling, 1), files, quiet=json_output)
    files.close()
    if json_output:
        print_json(_as_json(found, result))
    else:
        _print(found, result)
    if result.ending.kind == "unreachable" and not result.sent:
        raise typer.Exit(EXIT_UNREACHABLE)
    raise typer.Exit(EXIT_REFUSED if result.failures or found.unreadable or result.ending.problem else 0)


def _address(text: str, *, json_output: bool) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) <= _MOST_PORT:
        fail(
            f"{text!r} is not HOST:PORT.", "Write an address such as 127.0.0.1:11112.", code=2, json_output=json_output
        )
    return host.removeprefix("[").removesuffix("]"), int(port)


def _as_json(found: "Found", result: "Result") -> dict[str, object]:
    return {
        "sent": result.sent,
        "warnings": result.warnings,
        "bytes": result.sent_bytes,
        "failed": [{"file": file, "reason": reason} for file, reason in (*result.failures, *found.unreadable)],
        "left_aside": [{"file": file, "reason": reason} for file, reason in found.aside],
        "problem": result.ending.problem,
    }


def _print(found: "Found", result: "Result") -> None:
    if found.aside:
        out.print(
            f"{len(found.aside)} left aside: {escape(found.aside[0][0])}: {found.aside[0][1]}; `--json` lists all."
        )
    out.print(f"{result.sent} of {len(found.parcels)} sent, {in_bytes(result.sent_bytes)}.")
    if result.warnings:
        out.print(f"[yellow]{result.warnings} were stored with a warning.[/]")
    if result.ending.problem:
        err.print(f"[red]The sending ended early:[/] {escape(result.ending.problem)}.")
    failures = [*result.failures, *found.unreadable]
    for file, reason in failures[:_MOST_SHOWN]:
        err.print(f"[red]not sent:[/] {escape(file)}: {escape(reason)}")
    if len(failures) > _MOST_SHOWN:
        err.print(f"... and {len(failures) - _MOST_SHOWN} more; `--json` lists all.")
