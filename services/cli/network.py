"""`kivuko apply` and `kivuko network`: the network definition."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from services.cli.client import connect
from services.cli.output import Json, fail, local_time, out, print_json, print_table

app = typer.Typer(help="Show, compare and roll back the network definition.", no_args_is_help=True)

_SIGNS = {"added": "[green]+[/]", "removed": "[red]-[/]", "changed": "[yellow]~[/]"}


def apply(
    file: Annotated[Path, typer.Argument(help="The definition, a YAML document; `-` for standard input.")],
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and show the difference, change nothing.")] = False,
    json_output: Json = False,
) -> None:
    """Check a network definition, show what it changes, and put it in force.

    Every problem is listed with file, line and reason; if there is one, nothing is applied.
    """
    try:
        text = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        fail(f"{file}: {error.strerror}.", "Name a file that exists and can be read.", code=2, json_output=json_output)
    answer = connect(json_output=json_output).post(
        "/v1/network/definition",
        content=text,
        params={"dry_run": str(dry_run).lower(), "filename": file.name},
        headers={"content-type": "application/yaml"},
    )
    if json_output:
        print_json(answer)
        return
    _print_changes(answer["changes"])
    for sentence in answer["not_in_force"]:
        out.print(f"[yellow]not in force yet:[/] {escape(sentence)}")
    for sentence in answer.get("warnings", ()):
        out.print(f"[yellow]warning:[/] {escape(sentence)}")
    if dry_run:
        out.print("Nothing was applied: this was a dry run.")
    elif answer["applied"]:
        out.print(f"[green]Version {answer['version']} is in force.[/]")
    else:
        out.print(f"Nothing to do: version {answer['version']} says the same.")


@app.command()
def show(
    version: Annotated[int | None, typer.Argument(help="Version; the one in force if left out.")] = None,
    *,
    json_output: Json = False,
) -> None:
    """Print a version of the definition as it was applied."""
    client = connect(json_output=json_output)
    found = client.get(f"/v1/network/definition/{'current' if version is None else version}")
    if json_output:
        print_json(found)
        return
    sys.stdout.write(found["text"])


@app.command()
def history(*, json_output: Json = False) -> None:
    """List the versions, the newest first."""
    found = connect(json_output=json_output).get("/v1/network/history")
    if json_output:
        print_json(found)
        return
    rows = [
        (
            entry["version"],
            local_time(entry["applied_at"]),
            entry["applied_by"],
            entry["change_count"],
            f"as version {entry['rollback_of']}" if entry.get("rollback_of") else "",
        )
        for entry in found["versions"]
    ]
    print_table(
        "Versions of the network definition",
        ("version", "applied", "by", "changes", "rollback"),
        rows,
        empty="No definition was applied yet: `kivuko apply FILE`.",
    )


@app.command()
def rollback(
    version: Annotated[int, typer.Argument(help="Version to go back to, as `kivuko network history` lists it.")],
    *,
    json_output: Json = False,
) -> None:
    """Put an earlier version in force again, as a new version."""
    answer = connect(json_output=json_output).post("/v1/network/rollback", json={"version": version})
    if json_output:
        print_json(answer)
        return
    _print_changes(answer["changes"])
    out.print(f"[green]Version {answer['version']} is in force; it says what version {version} said.[/]")


def _print_changes(changes: list[dict[str, Any]]) -> None:
    for change in changes:
        text = f"{_SIGNS.get(change['kind'], '?')} {escape(change['path'])}"
        if change["kind"] == "changed":
            text += f": {escape(_short(change['old']))} -> {escape(_short(change['new']))}"
        elif change["kind"] == "added":
            text += f": {escape(_short(change['new']))}"
        out.print(text)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else text[:97] + "..."  # noqa: PLR2004  # what fits a line
