"""`kivuko study`: what arrived, and what became of it."""

from typing import Annotated
from urllib.parse import quote

import typer
from rich.markup import escape

from services.cli.client import connect
from services.cli.output import Json, in_bytes, local_time, out, print_json, print_table

app = typer.Typer(help="List studies and follow one from arrival to delivery.", no_args_is_help=True)

_LIST = "Example: kivuko study list --limit 10"
_TRACE = "Example: kivuko study trace 1.2.826.0.1.3680043.8.498.1"


@app.command("list", epilog=_LIST)
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


@app.command(epilog=_TRACE)
def trace(
    uid: Annotated[str, typer.Argument(help="Study Instance UID, as `kivuko study list` shows it.")],
    *,
    json_output: Json = False,
) -> None:
    """Show the timeline of a study: every step from arrival to delivery."""
    client = connect(json_output=json_output)
    found = client.get(f"/v1/audit/studies/{quote(uid, safe='')}/timeline")
    if json_output:
        print_json(found)
        return
    if not found["entries"]:
        out.print("Nothing is recorded of this study. Is the UID right? `kivuko study list` shows the latest.")
    print_timeline(found["entries"])
    if found["more"]:
        out.print(f"The first {len(found['entries'])} entries; `/v1/audit/studies/UID/timeline?since=` has the rest.")


def print_timeline(entries: list[dict[str, str]]) -> None:
    """Print what happened, a line a step."""
    for entry in entries:
        out.print(f"[dim]{local_time(entry['time'])}[/]  {escape(entry['service']):<8} {escape(entry['sentence'])}")
