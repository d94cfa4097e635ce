"""What commands print: for people on a terminal, or JSON for scripts. Results go to stdout, problems to stderr."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

#: The option that every command has.
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts instead of text for people.")]

#: Lines into a file or a pipe are as long as they need to be.
_ENDLESS = 100_000

out = Console(highlight=False, soft_wrap=True, emoji=False, width=None if sys.stdout.isatty() else _ENDLESS)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def print_json(value: Any) -> None:
    """Print one JSON document to stdout."""
    sys.stdout.write(_as_json(value))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str) -> None:
    """Print a table, or one sentence where there is nothing to show. Nothing is cut: what is too long is folded."""
    made = (Column(name, overflow="fold") for name in columns)
    table = Table(*made, title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*("" if cell is None else escape(str(cell)) for cell in row))
    out.print(table if table.row_count else empty)


def fail(
    what: str, mend: str = "", *, code: int, json_output: bool, problem: Mapping[str, Any] | None = None
) -> NoReturn:
    """Say on stderr what happened and what to do next, and end the command.

    Parameters
    ----------
    what
        What happened, and why.
    mend
        What to do next.
    code
        Exit code, see the help of `kivuko`.
    json_output
        Whether the person asked for JSON.
    problem
        Problem details of an answer; of its `problems` and `errors` each is told in a line of its own.
    """
    details = problem or {}
    if json_output:
        sys.stderr.write(_as_json({"error": what, "advice": mend or None, **details}))
    else:
        err.print(f"[bold red]error:[/] {escape(what)}")
        for entry in details.get("problems", ()):
            err.print(f"  {escape(_flaw(entry))}")
        for entry in details.get("errors", ()):
            err.print(f"  {escape(str(entry.get('where', '')))}: {escape(str(entry.get('message', '')))}")
        if mend:
            err.print(f"  {escape(mend)}")
    raise typer.Exit(code)


def _as_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n"


def _flaw(entry: Mapping[str, Any]) -> str:
    place = ":".join(str(entry[key]) for key in ("file", "line", "column") if entry.get(key) is not None)
    path = f" {entry['path']}:" if entry.get("path") else ""
    text = f"{place}:{path} {entry.get('message', '')}"
    return f"{text} - {entry['hint']}" if entry.get("hint") else text


def local_time(text: str | None) -> str:
    """Show an RFC 3339 time in the machine's zone, to the second."""
    if not text:
        return ""
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def in_bytes(size: float) -> str:
    """Show a size in decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:  # noqa: PLR2004  # decimal units
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
