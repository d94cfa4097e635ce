"""`kivuko worklist`: orders, as people see, add, change and cancel them, and merges of patients."""

import sys
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Annotated, Any

import typer
from rich.markup import escape

from services.cli import hl7, matching, sheet, steps, worklist_query
from services.cli.client import connect
from services.cli.matching import site_time
from services.cli.output import Json, fail, local_time, out, print_json, print_table

app = typer.Typer(
    help="What is ordered, and what modalities are told of it: see docs/worklist.md.", no_args_is_help=True
)

app.command(epilog=worklist_query.QUERIES)(worklist_query.queries)
app.command("map", epilog=hl7.MAP)(hl7.map_message)
app.command(epilog=hl7.MESSAGES)(hl7.messages)
app.command("read-again", epilog=hl7.READ_AGAIN)(hl7.read_again)
app.command(epilog=worklist_query.EXPLAIN)(worklist_query.explain)
app.command(epilog=steps.EXAMPLE)(steps.steps)
app.command("import", epilog=sheet.IMPORT)(sheet.import_file)
app.command(epilog=matching.UNMATCHED)(matching.unmatched)
app.command(epilog=matching.STUDY)(matching.study)
app.command(epilog=matching.LINK)(matching.link)
app.command(epilog=matching.UNLINK)(matching.unlink)

_LIST = "Example: kivuko worklist list --day 2026-11-21 --site bata"
_SHOW = "Example: kivuko worklist show 17"
_ADD = (
    "Example: kivuko worklist add --site bata --patient-id 4711 --name DOE^JANE --birth-date 1980-03-27 --sex F "
    '--modality US --station US1 --start "2026-11-21 10:15" --procedure "US ABDOMEN"'
)
_EDIT = 'Example: kivuko worklist edit 17 --start "2026-11-22 09:00" --station US2'
_CANCEL = 'Example: kivuko worklist cancel 17 --why "not fasting"'
_REOPEN = 'Example: kivuko worklist reopen 17 --why "cancelled by mistake"'
_MERGES = "Example: kivuko worklist merges"
_UNMERGE = 'Example: kivuko worklist unmerge 23 --why "two persons"'
_PATH = "/v1/worklist/orders"

Id = Annotated[int, typer.Argument(metavar="ID", help="Id of an order, as `kivuko worklist list` shows it.")]
Why = Annotated[str | None, typer.Option("--why", help="Why, for those who look at it later; without patient's data.")]
Step = Annotated[str | None, typer.Option(help="Which step, where the order has several; `show` lists them.")]
PatientName = Annotated[str | None, typer.Option("--name", help="FAMILY^GIVEN^MIDDLE^PREFIX^SUFFIX.")]
Issuer = Annotated[str | None, typer.Option(help="Issuer of the Patient ID.")]
BirthDate = Annotated[str | None, typer.Option(help="Such as 1980-03-27.")]
Sex = Annotated[str | None, typer.Option(help="M, F or O.")]
Modality = Annotated[str | None, typer.Option(help="Such as CT.")]
Station = Annotated[str | None, typer.Option(help="AE title of the station.")]
Start = Annotated[str | None, typer.Option(help='By the clock of the site, such as "2026-11-21 10:15".')]
Procedure = Annotated[str | None, typer.Option(help="What is to be done.")]
Code = Annotated[str | None, typer.Option(help="Code of what is to be done.")]
Priority = Annotated[str | None, typer.Option(help="STAT, HIGH, ROUTINE, MEDIUM or LOW.")]
Accession = Annotated[str | None, typer.Option(help="Accession number; minted, if there is none.")]
Referring = Annotated[str | None, typer.Option(help="Name of the referring physician.")]
Reason = Annotated[str | None, typer.Option(help="Why it is to be done.")]
SamePatient = Annotated[
    bool,
    typer.Option(
        "--same-patient", help="The Patient ID is known with another name, birth date or sex, and is the same person."
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Any other field, such as weight=61 or room=2; may be repeated. `-` reads them from standard input, one a "
        "line: others on this machine see the arguments of a command.",
    ),
]


@app.command("list", epilog=_LIST)
def list_orders(
    *,
    day: Annotated[str | None, typer.Option(help="That start on this day, such as 2026-11-21.")] = None,
    site: Annotated[str | None, typer.Option(help="Of this site.")] = None,
    patient: Annotated[str | None, typer.Option(help="Of this Patient ID, and all that were merged into it.")] = None,
    accession: Annotated[str | None, typer.Option(help="With this accession number.")] = None,
    study: Annotated[str | None, typer.Option(help="With this Study Instance UID.")] = None,
    number: Annotated[str | None, typer.Option(help="With this order number of its placer or filler.")] = None,
    state: Annotated[
        list[str] | None, typer.Option(help="In this state; may be repeated. If left out: those that are not over.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="In any state.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many, the newest first.")] = 100,
    json_output: Json = False,
) -> None:
    """List orders, the newest first."""
    found = connect(json_output=json_output).get(
        _PATH,
        limit=limit,
        state=None if everything else state or ["scheduled", "arrived", "started"],
        day=_day(day, json_output=json_output),
        site=site,
        patient=patient,
        accession=accession,
        study=study,
        number=number,
    )
    if json_output:
        print_json(found)
        return
    rows = [
        (
            order["id"],
            order["state"],
            site_time(order["start"]),
            order["site"],
            ", ".join(sorted({step["modality"] for step in order["steps"]})),
            ", ".join(sorted({aet for step in order["steps"] for aet in step["station_aets"]})),
            order["patient"],
            order["patient_name"],
            order["accession"],
            order["priority"],
        )
        for order in found["orders"]
    ]
    columns = ("id", "state", "start", "site", "modality", "station", "patient", "name", "accession", "priority")
    print_table("Orders", columns, rows, empty="There is no such order.")
    if found["before"]:
        out.print(f"The newest {len(rows)}; filters or --limit show others.")


@app.command(epilog=_SHOW)
def show(order: Id, *, json_output: Json = False) -> None:
    """Show an order, its steps, its worklist answer, and all that was said of it."""
    found = connect(json_output=json_output).get(f"{_PATH}/{order}")
    if json_output:
        print_json(found)
        return
    _print(found)
    rows = sorted((keyword, _short(values)) for keyword, values in found["attributes"].items())
    print_table("Worklist answer", ("attribute", "value"), rows, empty="It has no steps.")
    said = [
        (
            local_time(one["stamp"]),
            one["source"],
            one["message"],
            one["body"].get("action", ""),
            one["body"].get("reason", ""),
        )
        for one in found["journal"]
    ]
    print_table("What was said of it", ("stamp", "from", "message", "action", "why"), said, empty="Nothing.")
    came = [
        (
            one["study_instance_uid"],
            local_time(one["first_seen_at"]),
            one["matched_by"],
            "another patient" if one["contradicts"] else "",
        )
        for one in found["studies"]
    ]
    print_table("Studies", ("study", "came", "matched by", "but"), came, empty="No study of it has come.")


@app.command(epilog=_ADD)
def add(
    *,
    site: Annotated[str, typer.Option(help="Key of the site at which it is to be done.")],
    patient_id: Annotated[str, typer.Option(help="Patient ID.")],
    name: Annotated[str, typer.Option(help="FAMILY^GIVEN^MIDDLE^PREFIX^SUFFIX.")],
    modality: Annotated[str, typer.Option(help="Such as CT.")],
    start: Annotated[str, typer.Option(help='By the clock of the site, such as "2026-11-21 10:15".')],
    issuer: Issuer = None,
    birth_date: BirthDate = None,
    sex: Sex = None,
    station: Station = None,
    procedure: Procedure = None,
    code: Code = None,
    priority: Priority = None,
    accession: Accession = None,
    order: Annotated[
        str | None, typer.Option(help="Order number of your own: the same one again changes the same order.")
    ] = None,
    referring: Referring = None,
    reason: Reason = None,
    more: Set = None,
    same_patient: SamePatient = False,
    json_output: Json = False,
) -> None:
    """Add an order: modalities see it within a second."""
    given = {
        "site": site, "patient_id": patient_id, "patient_name": name, "modality": modality, "start": start,
        "issuer": issuer, "birth_date": birth_date, "sex": sex, "station": station, "procedure": procedure,
        "procedure_code": code, "priority": priority, "accession": accession, "order": order,
        "referring_physician": referring, "reason": reason,
    }  # fmt: skip
    body = {key: value for key, value in given.items() if value is not None} | _more(more, json_output=json_output)
    made = connect(json_output=json_output).post(_PATH, json=body, params=_sameness(same_patient))
    if json_output:
        print_json(made)
        return
    _print(made)


@app.command(epilog=_EDIT)
def edit(
    order: Id,
    *,
    step: Step = None,
    patient_id: Annotated[
        str | None, typer.Option(help="Another patient than before: what was said of that one goes.")
    ] = None,
    name: PatientName = None,
    issuer: Issuer = None,
    birth_date: BirthDate = None,
    sex: Sex = None,
    modality: Modality = None,
    station: Station = None,
    start: Start = None,
    procedure: Procedure = None,
    code: Code = None,
    priority: Priority = None,
    accession: Accession = None,
    referring: Referring = None,
    reason: Reason = None,
    more: Set = None,
    clear: Annotated[
        list[str] | None, typer.Option(metavar="FIELD", help="Empty this field, such as station; may be repeated.")
    ] = None,
    same_patient: SamePatient = False,
    json_output: Json = False,
) -> None:
    """Change an order; what is not named stays as it is. A newer message of its source may change it again."""
    given = {
        "step": step, "patient_id": patient_id, "patient_name": name, "modality": modality, "start": start,
        "issuer": issuer, "birth_date": birth_date, "sex": sex, "station": station, "procedure": procedure,
        "procedure_code": code, "priority": priority, "accession": accession, "referring_physician": referring,
        "reason": reason,
    }  # fmt: skip
    body: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    body |= _more(more, json_output=json_output)
    body |= {field.replace("-", "_"): None for field in clear or ()}
    if not body.keys() - {"step"}:
        fail("Nothing was said that is to change.", "Name fields, see --help.", code=2, json_output=json_output)
    made = connect(json_output=json_output).post(f"{_PATH}/{order}/edit", json=body, params=_sameness(same_patient))
    if json_output:
        print_json(made)
        return
    _print(made)


@app.command(epilog=_CANCEL)
def cancel(
    order: Id,
    *,
    step: Step = None,
    why: Why = None,
    discontinue: Annotated[
        bool, typer.Option("--discontinue", help="It was begun, and is not brought to its end.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Take an order, or one step of it, off all worklists."""
    body = {"step": step, "reason": why, "discontinue": discontinue}
    made = connect(json_output=json_output).post(f"{_PATH}/{order}/cancel", json=body)
    if json_output:
        print_json(made)
        return
    out.print(f"Order {order} is {made['state']}. Modalities do not see {'that step' if step else 'it'} any more.")


@app.command(epilog=_REOPEN)
def reopen(order: Id, *, step: Step = None, why: Why = None, json_output: Json = False) -> None:
    """Put an order, or one step of it, on worklists again that was cancelled or otherwise over."""
    made = connect(json_output=json_output).post(f"{_PATH}/{order}/reopen", json={"step": step, "reason": why})
    if json_output:
        print_json(made)
        return
    _print(made)


@app.command(epilog=_MERGES)
def merges(
    *,
    everything: Annotated[bool, typer.Option("--all", help="Those that were undone, too.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many, the newest first.")] = 100,
    json_output: Json = False,
) -> None:
    """List merges of patients, the newest first."""
    found = connect(json_output=json_output).get("/v1/worklist/merges", limit=limit, undone=everything)
    if json_output:
        print_json(found)
        return
    rows = [
        (
            one["id"],
            _identifier(one, "kept"),
            _identifier(one, "merged"),
            one["source"],
            local_time(one["merged_at"]),
            f"by {one['undone_by']}, {local_time(one['undone_at'])}" if one["undone_at"] else "",
        )
        for one in found["merges"]
    ]
    print_table("Merges", ("id", "kept", "given up", "said by", "at", "undone"), rows, empty="No patients were merged.")


def _identifier(merge: Mapping[str, str], which: str) -> str:
    """Give an identifier with who issued it, or the site whose own it is."""
    issuer, site = merge[f"{which}_issuer"], merge[f"{which}_site"]
    return " ".join(filter(None, (merge[which], issuer and f"of {issuer}", site and f"at {site}")))


@app.command(epilog=_UNMERGE)
def unmerge(
    merge: Annotated[int, typer.Argument(metavar="ID", help="Id of a merge, as `kivuko worklist merges` shows it.")],
    *,
    why: Why = None,
    json_output: Json = False,
) -> None:
    """Undo a merge of patients: each identifier has again what was said under it, and its orders."""
    done = connect(json_output=json_output).post(f"/v1/worklist/merges/{merge}/undo", json={"reason": why})
    if json_output:
        print_json(done)
        return
    out.print(f"Undone. Orders of {escape(done['merged'])} are its own again.")


def _print(order: dict[str, Any]) -> None:
    minted = " (minted)" if "AccessionNumber" in order["minted"] else ""
    rows = [
        ("order", order["id"]),
        ("state", order["state"]),
        ("site", order["site"]),
        ("patient", f"{order['patient']}{' of ' + order['issuer'] if order['issuer'] else ''}"),
        ("name", order["patient_name"]),
        ("accession", f"{order['accession']}{minted}"),
        ("study", order["study_instance_uid"]),
        ("placer", order["placer"]),
        ("filler", order["filler"]),
    ]
    print_table("", ("", ""), [row for row in rows if row[1] is not None], empty="")
    steps = [
        (
            step["step_id"] or "-",
            step["state"],
            step["performed"],
            site_time(step["start"]),
            step["modality"],
            ", ".join(step["station_aets"]),
        )
        for step in order["steps"]
    ]
    columns = ("step", "state", "performed", "start", "modality", "station")
    print_table("Steps", columns, steps, empty="It has no steps.")
    for warning in order["warnings"]:
        out.print(f"[yellow]warning:[/] {escape(warning)}")


def _day(day: str | None, *, json_output: bool) -> str | None:
    if day is None:
        return None
    try:
        return date.fromisoformat(day).strftime("%Y%m%d")
    except ValueError:
        fail("--day is not a day.", "Write such as --day 2026-11-21.", code=2, json_output=json_output)


def _sameness(same_patient: bool) -> dict[str, str]:
    return {"same_patient": "true"} if same_patient else {}


def _short(values: Any) -> str:
    if not isinstance(values, list):
        return str(values)
    return "\\".join(
        one if isinstance(one, str) else "{" + ", ".join(f"{k}={_short(v)}" for k, v in one.items()) + "}"
        for one in values
    )


def _more(given: list[str] | None, *, json_output: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for line in _lines(given or []):
        field, equals, value = line.partition("=")
        if not equals or not field.strip():
            fail(
                "What follows --set is not FIELD=VALUE.",
                "Write such as --set weight=61; docs/worklist.md lists the fields.",
                code=2,
                json_output=json_output,
            )
        found[field.strip().replace("-", "_")] = value
    return found


def _lines(given: list[str]) -> Iterator[str]:
    for one in given:
        if one == "-":
            yield from (line.rstrip("\r\n") for line in sys.stdin if line.strip())
        else:
            yield one
