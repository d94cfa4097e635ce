"""`kivuko study`: what arrived, and what became of it."""

from typing import Annotated

import typer
from rich.markup import escape

from services.cli.client import connect
from services.cli.output import Json, in_bytes, local_time, out, print_json, print_table

app = typer.Typer(help="List studies and follow one from arrival to delivery.", no_args_is_help=True)


@app.command("list")
def list_studies(
    *,
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many, the latest first.")] = 50,
    json_output: Json = False,
) -> None:
    """List studies, the latest arrival first."""
    found = connect(json_output=json_output).get("/v1/ingest/studies", limit=limit)
    if json_output:
        print_json(found)
        return
    rows = [
        (
            study["study_instance_uid"],
            study["state"],
            study["instance_count"],
            in_bytes(study["size"]),
            ", ".join(study["sites"]),
            local_time(study["last_arrival"]),
        )
        for study in found["studies"]
    ]
    print_table(
        "Studies",
        ("study", "state", "instances", "size", "from", "last arrival"),
        rows,
        empty="No study has arrived yet.",
    )


@app.command()
def trace(
    uid: Annotated[str, typer.Argument(help="Study Instance UID, as `kivuko study list` shows it.")],
    *,
    json_output: Json = False,
) -> None:
    """Show the timeline of a study: every step from arrival to delivery."""
    found = connect(json_output=json_output).get(f"/v1/audit/studies/{uid}/timeline")
    if json_output:
        print_json(found)
        return
    print_timeline(found["entries"])


def print_timeline(entries: list[dict[str, str]]) -> None:
    """Print what happened, a line a step."""
    if not entries:
        out.print("Nothing is recorded of this study. Is the UID right? `kivuko study list` shows the latest.")
    for entry in entries:
        out.print(f"[dim]{local_time(entry['time'])}[/]  {entry['service']:<8} {escape(entry['sentence'])}")
