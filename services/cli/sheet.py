"""`kivuko worklist import`: a file of orders."""

import codecs
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from services.cli.client import EXIT_REFUSED, Client, connect
from services.cli.output import Json, err, fail, out, print_json

IMPORT = "Example: kivuko worklist import tomorrow.csv --dry-run"
_PATH = "/v1/worklist/orders/import"
#: Orders that are sent at a time.
_ORDERS = 500
#: Warnings that people are shown of a file.
_SHOWN = 20
_SHEETS = 'Save it again as "CSV UTF-8", or name its character set: --charset windows-1252 is what Excel writes in '
_SHEETS += "Spanish, French or Portuguese, windows-1256 in Arabic. Look at the names with --dry-run --json first."


def import_file(
    file: Annotated[Path, typer.Argument(metavar="FILE.csv", help="CSV; the first line names the columns.")],
    *,
    charset: Annotated[
        str, typer.Option(help="Character set of the file; one that says by itself that it is UTF-16 need not be told.")
    ] = "utf-8",
    dates: Annotated[
        str, typer.Option(help="How dates are written besides 2026-11-21: iso, day-first (21/11/2026) or month-first.")
    ] = "iso",
    same_patient: Annotated[
        bool,
        typer.Option(
            "--same-patient", help="A Patient ID known with another name, birth date or sex is the same person."
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is wrong with it.")] = False,
    json_output: Json = False,
) -> None:
    """Add all orders of a CSV file; if anything is wrong with any line, none of them.

    To import a file again changes nothing: the same line is the same order.
    """
    text = _read(file, charset, json_output=json_output)
    client = connect(json_output=json_output)
    said = {"dates": dates, "same_patient": same_patient}
    checked = client.post(_PATH, json={"csv": text, "dry_run": True, **said})
    if dry_run:
        if json_output:
            print_json(checked)
            return
        _warn(checked["warnings"])
        out.print(f"Nothing is wrong with it: {_orders(checked['orders'])}. Nothing was imported.")
        return
    done = _send(client, text, checked["orders"], said, quiet=json_output)
    done["warnings"] = checked["warnings"]
    if json_output:
        print_json(done)
        return
    _warn(checked["warnings"])
    out.print(f"{_orders(done['orders'])}: {done['applied']} new or changed, {done['unchanged']} known just so.")


def _warn(warnings: list[dict[str, Any]]) -> None:
    for each in warnings[:_SHOWN]:
        out.print(f"[yellow]warning:[/] line {each['line']}: {escape(each['message'])}")
    if len(warnings) > _SHOWN:
        out.print(f"[yellow]warning:[/] and {len(warnings) - _SHOWN} more; --json has them.")


def _orders(count: int) -> str:
    return "1 order" if count == 1 else f"{count} orders"


def _read(file: Path, charset: str, *, json_output: bool) -> str:
    try:
        content = file.read_bytes()
    except OSError as error:
        fail(f"{file}: {error.strerror}.", "Name a CSV file.", code=2, json_output=json_output)
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        charset = "utf-16"
    try:
        return content.decode(charset)
    except LookupError:
        fail(
            f"There is no character set {charset}.",
            "Write such as utf-8, windows-1252 or windows-1256.",
            code=2,
            json_output=json_output,
        )
    except UnicodeError as error:
        at = f" line {content[: error.start].count(10) + 1}" if isinstance(error, UnicodeDecodeError) else ""
        fail(
            f"{file} is not in the character set {charset}: see{at or ' its bytes'}.",
            _SHEETS,
            code=EXIT_REFUSED,
            json_output=json_output,
        )


def _send(client: Client, text: str, orders: int, said: dict[str, Any], *, quiet: bool) -> dict[str, Any]:
    """Send a file that was found to be right in parts, with a bar."""
    from services.worklist.sheet import parts  # noqa: PLC0415 - slow, and only needed from here on

    done: dict[str, Any] = {"orders": 0, "applied": 0, "unchanged": 0}
    columns = (TextColumn("import"), BarColumn(), MofNCompleteColumn(), TextColumn("orders"), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=quiet) as bar:
        task = bar.add_task("import", total=orders)
        for part in parts(text, _ORDERS):
            answer = client.post(_PATH, json={"csv": part, **said})
            done = {name: done[name] + answer[name] for name in done}
            bar.update(task, completed=done["orders"])
    return done
