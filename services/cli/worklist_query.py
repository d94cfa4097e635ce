"""`kivuko worklist queries` and `explain`: what a modality asked, what it got, and why it does not see an item."""

from typing import Annotated, Any

import typer
from rich.markup import escape

from services.cli.client import connect
from services.cli.output import Json, fail, local_time, out, print_json, print_table

QUERIES = "Example: kivuko worklist queries --ae CT1"
EXPLAIN = "Example: kivuko worklist explain --ae CT1 --patient 4711"

Ae = Annotated[str, typer.Option("--ae", help="AE title of the modality, or its key in the network definition.")]


def queries(
    ae: Annotated[
        str | None, typer.Option("--ae", help="AE title of the modality, or its key; all if left out.")
    ] = None,
    *,
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many at most, the newest first.")] = 50,
    json_output: Json = False,
) -> None:
    """List what modalities asked and what they got, the newest first."""
    found = connect(json_output=json_output).get("/v1/worklist/queries", ae=ae, limit=limit)
    if json_output:
        print_json(found)
        return
    rows = [
        (
            each["id"],
            local_time(each["at"]),
            each["calling_aet"],
            _keys(each["keys"]),
            each["count"],
            each["hidden"] or "",
            each["outcome"],
            f"{each['seconds'] * 1000:.1f} ms",
            each["times"],
        )
        for each in found["queries"]
    ]
    columns = ("id", "last asked", "AE title", "asked for", "items", "not for it", "outcome", "took", "times")
    print_table("Worklist queries", columns, rows, empty="No query is recorded.")


def explain(
    ae: Ae,
    *,
    patient: Annotated[str | None, typer.Option(help="Patient ID, or a part of the name.")] = None,
    accession: Annotated[str | None, typer.Option(help="Accession number of the order.")] = None,
    query: Annotated[
        int | None, typer.Option(help="Id of a query, as `queries` shows it; the last if left out.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Say why a modality does not see an item: which key of its query, or which setting, keeps it off."""
    if (patient is None) == (accession is None):
        fail(
            "It has to be said which items.", "Name one of --patient and --accession.", code=2, json_output=json_output
        )
    found = connect(json_output=json_output).get(
        "/v1/worklist/explain", ae=ae, patient=patient, accession=accession, query=query
    )
    if json_output:
        print_json(found)
        return
    asked = found["asked"]
    if asked is not None:
        out.print(
            f"{escape(found['aet'])} asked last on {local_time(asked['at'])}: {escape(_keys(asked['keys']))}\n"
            f"  {asked['count']} items, {asked['outcome']}"
        )
    for item in found["items"]:
        out.print(f"\n[bold]{escape(_title(item))}[/]")
        for reason in item["reasons"]:
            out.print(f"  not shown: {escape(reason['text'])}")
        if not item["reasons"]:
            out.print("  shown" if asked is None else "  shown: the query returns it")
    for note in found["notes"]:
        out.print(f"\n{escape(note)}")


def _title(item: dict[str, Any]) -> str:
    start = item["start"]
    when = f"{start[:4]}-{start[4:6]}-{start[6:8]} {start[8:10]}:{start[10:12]}" if start else "no time"
    where = ", ".join(item["stations"]) or "no station"
    return (
        f"{item['patient_id']} {item['patient_name']}, {item['accession']}: "
        f"{item['modality'] or 'no modality'}, {where}, {when}, {item['site']}, {item['performed'] or item['state']}"
    )


def _keys(keys: dict[str, Any]) -> str:
    """Show keys that have a value; the others are only asked to be returned."""
    said = ", ".join(_said(keys))
    return said or "everything"


def _said(keys: dict[str, Any]) -> list[str]:
    found = []
    for keyword, value in keys.items():
        if isinstance(value, list):
            found += [each for item in value for each in _said(item)]
        elif value:
            found.append(f"{keyword}={value}")
    return found
