"""What commands print: for people on a terminal, or JSON for scripts. Results go to stdout, problems to stderr."""

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

#: The option that every command has.
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts instead of text for people.")]

#: Lines into a file or a pipe are as long as they need to be.
_WIDTH = None if sys.stdout.isatty() else 500

out = Console(highlight=False, soft_wrap=True, width=_WIDTH)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print one JSON document to stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str) -> None:
    """Print a table, or one sentence where there is nothing to show."""
    made = (Column(name, overflow="fold") for name in columns)
    table = Table(*made, title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*("" if cell is None else escape(str(cell)) for cell in row))
    out.print(table if table.row_count else empty)


def fail(what: str, mend: str = "", *, code: int, json_output: bool, problem: dict[str, Any] | None = None) -> NoReturn:
    """Say what happened and what to do next, and end the command."""
    if json_output:
        print_json({"error": what, "advice": mend or None} | (problem or {}))
    else:
        err.print(f"[bold red]error:[/] {escape(what)}")
        for entry in (problem or {}).get("problems", ()):
            err.print(f"  {escape(_problem_line(entry))}")
        if mend:
            err.print(f"  {escape(mend)}")
    raise typer.Exit(code)


def _problem_line(entry: dict[str, Any]) -> str:
    place = ":".join(str(entry[key]) for key in ("file", "line", "column") if entry.get(key) is not None)
    text = f"{place}: {entry.get('message', '')}"
    return f"{text} {entry['hint']}" if entry.get("hint") else text


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
