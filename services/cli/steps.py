"""`kivuko worklist steps`: what modalities reported of their procedure steps."""

from collections.abc import Iterable
from typing import Annotated, Any

import typer

from services.cli.client import connect
from services.cli.output import Json, local_time, out, print_json, print_table

_PATH = "/v1/worklist/steps"
EXAMPLE = "Example: kivuko worklist steps --state in-progress"


def steps(
    uid: Annotated[
        str | None, typer.Argument(metavar="[UID]", help="SOP Instance UID of one step, to see all of it.")
    ] = None,
    *,
    state: Annotated[
        list[str] | None, typer.Option(help="in-progress, completed or discontinued; may be repeated.")
    ] = None,
    node: Annotated[str | None, typer.Option(help="Of this modality; with --again, to this node.")] = None,
    study: Annotated[str | None, typer.Option(help="That name this Study Instance UID.")] = None,
    accession: Annotated[str | None, typer.Option(help="That name this accession number.")] = None,
    patient: Annotated[str | None, typer.Option(help="Of this Patient ID, as the modality says it.")] = None,
    unlinked: Annotated[bool, typer.Option("--unlinked", help="Only those that are no step of a known order.")] = False,
    waiting: Annotated[bool, typer.Option("--waiting", help="Only those that a node has not got.")] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Send the step UID now to nodes that have not got it, or refused it.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many, the newest first.")] = 100,
    json_output: Json = False,
) -> None:
    """Show what modalities reported (MPPS), which orders it belongs to, and who has it."""
    client = connect(json_output=json_output)
    if again:
        if uid is None:
            raise typer.BadParameter("--again needs the UID of a step: `kivuko worklist steps --waiting` lists them.")
        sent = client.post(f"{_PATH}/{uid}/again", params={"node": node} if node else None)
        if json_output:
            print_json(sent)
        else:
            count = sent["forwards"]
            nodes = "1 node" if count == 1 else f"{count} nodes"
            out.print(f"It is sent now to {nodes}." if count else "Every node has it.")
        return
    if uid is not None:
        found = client.get(f"{_PATH}/{uid}")
        if json_output:
            print_json(found)
        else:
            _print(found)
        return
    found = client.get(
        _PATH,
        limit=limit,
        state=state,
        node=node,
        study=study,
        accession=accession,
        patient=patient,
        unlinked=unlinked or None,
        waiting=waiting or None,
    )
    if json_output:
        print_json(found)
        return
    rows = [
        (
            step["state"],
            local_time(step["started_at"]),
            step["node"],
            step["modality"],
            step["instance_count"],
            step["patient"],
            _orders(step),
            _reached(step),
            step["sop_instance_uid"],
        )
        for step in found["steps"]
    ]
    columns = ("state", "started", "modality", "kind", "instances", "patient", "orders", "passed on", "uid")
    print_table("Procedure steps", columns, rows, empty="There is no such step.")
    if found["before"]:
        out.print(f"The newest {len(rows)}; filters or --limit show others.")


def _orders(step: dict[str, Any]) -> str:
    def one(link: dict[str, Any]) -> str:
        if link["order_id"] is None:
            return "none"
        return f"{link['order_id']} (another patient!)" if link["contradicts"] else str(link["order_id"])

    return ", ".join(dict.fromkeys(map(one, step["links"])))


def _reached(step: dict[str, Any]) -> str:
    return ", ".join(f"{one['node']}: {one['state']}" for one in step["forwards"])


def _print(step: dict[str, Any]) -> None:
    what = (
        ("state", step["state"]),
        ("started", local_time(step["started_at"])),
        ("ended", local_time(step["ended_at"])),
        ("station", f"{step['station_aet']} ({step['node']}, {step['site']})"),
        ("modality", step["modality"]),
        ("patient", step["patient"]),
        ("instances", step["instance_count"]),
        ("wrong entry", "yes: its order is to be done still" if step["wrong_entry"] else ""),
        ("repeated", step["repeated"] or ""),
    )
    print_table(step["sop_instance_uid"], ("", ""), ((name, value) for name, value in what if value != ""), empty="")
    links = (
        (link["order_id"], link["step_id"], link["accession"], link["study_instance_uid"], _how(link))
        for link in step["links"]
    )
    print_table("Scheduled steps", ("order", "step", "accession", "study", "found by"), links, empty="It names none.")
    forwards = (
        (
            one["node"],
            one["state"],
            f"{one['sent']} of {len(step['messages'])}",
            local_time(one["due_at"]),
            one["problem"],
        )
        for one in step["forwards"]
    )
    print_table("Passed on", ("to", "state", "messages", "next", "problem"), forwards, empty="It goes nowhere.")
    print_table("Lapses", ("what",), _lines(step["lapses"]), empty="It is as the Standard wants it.")


def _how(link: dict[str, Any]) -> str:
    if link["order_id"] is None:
        return "no order is known for it"
    return f"{link['matched_by']}; the modality names another patient" if link["contradicts"] else link["matched_by"]


def _lines(texts: Iterable[str]) -> Iterable[tuple[str]]:
    return ((text,) for text in texts)
