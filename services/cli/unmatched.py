"""`kivuko rule unmatched` and `route`: studies of which no rule says where they go, and what a new rule says."""

from typing import Annotated, Any

import typer

from services.cli.client import connect
from services.cli.output import Json, fail, local_time, out, print_json, print_table

UNMATCHED = "Example: kivuko rule unmatched"
ROUTE = "Example: kivuko rule route --all"
_PAGE = 500


def unmatched(
    *,
    limit: Annotated[int, typer.Option(min=1, help="How many at most, those heard of first first.")] = 100,
    json_output: Json = False,
) -> None:
    """List studies of which no rule says where they go: they are kept, and go nowhere until one does."""
    client, after = connect(json_output=json_output), 0
    found: list[dict[str, Any]] = []
    while len(found) < limit:
        page: dict[str, Any] = client.get("/v1/rules/unmatched", after=after, limit=min(_PAGE, limit - len(found)))
        found += page["studies"]
        if page["next"] is None:
            break
        after = page["next"]
    if json_output:
        print_json({"studies": found})
        return
    rows = [
        (each["study_instance_uid"], each["tenant"], each["site"] or "", local_time(each["unmatched_at"]))
        for each in found
    ]
    print_table(
        "Studies that no rule matches", ("study", "tenant", "from", "since"), rows, empty="Every study has a rule."
    )
    if rows:
        out.print(
            "They are kept. `kivuko rule explain STUDY` says why nothing matched. Add a rule that says where they go, "
            "or one with `discard` and the reason; then `kivuko rule route --all` has them decided by it."
        )


def route(
    uid: Annotated[
        str | None, typer.Argument(metavar="[STUDY]", help="Study Instance UID.", show_default=False)
    ] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="All studies that no rule matched.")] = False,
    json_output: Json = False,
) -> None:
    """Decide by the rules in force on studies that no rule matched before."""
    if (uid is None) != everything:
        fail(
            "It has to be said which studies.",
            "Name one study, or write --all.",
            code=2,
            json_output=json_output,
        )
    found = connect(json_output=json_output).post("/v1/rules/unmatched/route", json={"study": uid})
    if json_output:
        print_json(found)
        return
    out.print(f"{found['decided']} decided; of {found['unmatched']} still no rule says where they go.")
