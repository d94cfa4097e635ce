"""`kivuko apply` and `kivuko network`: the network definition."""

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from libs.clock import utc_now
from services.cli.client import Client, connect
from services.cli.output import Json, fail, local_time, out, print_json, print_table

app = typer.Typer(help="Show, compare and roll back the network definition.", no_args_is_help=True)

APPLY = "Example: kivuko apply docs/examples/clinic.yaml --dry-run"
_SHOW = "Example: kivuko network show 3 > definition-3.yaml"
_HISTORY = "Example: kivuko network history"
_ROLLBACK = "Example: kivuko network rollback 2"

_SIGNS = {"added": "[green]+[/]", "removed": "[red]-[/]", "changed": "[yellow]~[/]", "moved": "[yellow]~[/]"}
_LONGEST = 100
#: How long is waited for what an apply can do without, in seconds.
_PATIENCE_S = 5.0


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
    client = connect(json_output=json_output)
    filename = "standard input" if str(file) == "-" else file.name
    answer = client.post(
        "/v1/network/definition",
        content=text,
        params={"dry_run": str(dry_run).lower(), "filename": filename},
        headers={"content-type": "application/yaml"},
    )
    found = unused_rules(client, text.decode("utf-8-sig"), filename)
    answer |= {"findings": [*answer["findings"], *(found or ())], "use_checked": found is not None}
    if json_output:
        print_json(answer)
        return
    _print_changes(answer)
    if dry_run:
        out.print("Nothing was applied: this was a dry run.")
    elif answer["applied"]:
        out.print(f"[green]Version {answer['version']} is in force.[/]")
    else:
        out.print(f"Nothing to do: version {answer['version']} says the same.")


@app.command(epilog=_SHOW)
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


@app.command(epilog=_HISTORY)
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


@app.command(epilog=_ROLLBACK)
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
    _print_changes(answer)
    if answer["applied"]:
        out.print(f"[green]Version {answer['version']} is in force; it says what version {version} said.[/]")
    else:
        out.print(f"Nothing to do: version {answer['version']} says the same.")


def unused_rules(client: Client, text: str, filename: str) -> list[dict[str, Any]] | None:
    """Give the rules of an applied document that have not matched in 90 days, as findings; None: nobody could tell."""
    from libs.definition.draft import draft  # noqa: PLC0415 - slow, and `--help` does without
    from libs.definition.lint import Use, unused  # noqa: PLC0415
    from libs.definition.reading import read  # noqa: PLC0415

    answer = client.attempt("/v1/rules/list", _PATIENCE_S)
    if not isinstance(answer, dict) or "rules" not in answer:
        return None
    uses = {
        each["rule"]["name"]: Use(
            datetime.fromisoformat(each["since"]),
            datetime.fromisoformat(each["last_matched"]) if each["last_matched"] else None,
        )
        for each in answer["rules"]
        # A release before this one does not say.
        if each.get("since")
    }
    made, _ = draft(read(text, filename))
    if made is None:
        return None
    return [
        {
            "level": one.level,
            "kind": one.kind,
            "line": one.problem.line,
            "column": one.problem.column,
            "path": one.problem.path,
            "message": one.problem.message,
            "hint": one.problem.hint,
        }
        for one in unused(made.document, made.definition, uses, utc_now())
    ]


def _print_changes(answer: dict[str, Any]) -> None:
    for change in answer["changes"]:
        text = f"{_SIGNS.get(change['kind'], '?')} {escape(change['path'])}"
        match change["kind"]:
            case "changed":
                text += f": {escape(_short(change['old']))} -> {escape(_short(change['new']))}"
            case "added":
                text += f": {escape(_short(change['new']))}"
            case "moved":
                text += f": the order is now {escape(', '.join(change['new']))}"
        out.print(text)
    for found in answer.get("findings", ()):
        color = "yellow" if found["level"] == "warning" else "dim"
        hint = f" ({escape(found['hint'])})" if found["hint"] else ""
        place = f"{found['line']}:{found['column']}"
        out.print(f"[{color}]{found['level']}, line {place}:[/] {escape(found['message'])}{hint}")
    if answer.get("use_checked") is False:
        out.print(
            "[dim]note:[/] whether rules have not matched for long could not be checked: "
            "the service rules gave no answer"
        )
    for sentence in answer["not_in_force"]:
        out.print(f"[yellow]not in force yet:[/] {escape(sentence)}")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
