"""`kivuko retention`: which copies go when, and what is kept and why."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from services.cli.client import connect
from services.cli.output import Json, in_bytes, local_time, out, print_json, print_table

app = typer.Typer(help="Look at what retention lets go: see docs/retention.md.", no_args_is_help=True)

_PLAN = "Example: kivuko retention plan --held undelivered"


@app.command(epilog=_PLAN)
def plan(
    *,
    held: Annotated[
        str | None,
        typer.Option(
            help="Only what is held for this: receiving, undecided, nowhere, undelivered, flagged, quarantined or "
            "unlimited."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many, the oldest first.")] = 50,
    after: Annotated[int | None, typer.Option(help="Those behind this one, as the page before says.")] = None,
    json_output: Json = False,
) -> None:
    """Show which copies go when, the oldest first, and what is kept and why. It removes nothing."""
    found = connect(json_output=json_output).get("/v1/ingest/retention", limit=limit, after=after, held=held)
    if json_output:
        print_json(found)
        return
    if not found["in_force"]:
        out.print("The network definition says nothing of retention: everything is kept. See docs/retention.md.")
    rows = [
        (study["study_instance_uid"], in_bytes(study["size"]), local_time(study["last_arrival"]), kept(study))
        for study in found["studies"]
    ]
    print_table("Copies", ("study", "size", "last arrival", "kept"), rows, empty="There is none.")
    if found["after"] is not None:
        out.print(f"There are more: add --after {found['after']}.")


def kept(found: Mapping[str, Any]) -> str:
    """Say in words until when a copy is kept."""
    until = "for ever" if found["until"] is None else f"until {local_time(found['until'])}"
    holds = "; ".join(each["detail"] for each in found["held"])
    return f"{until}; {holds}" if holds else until
