"""`kivuko worklist unmatched`, `study`, `link` and `unlink`: orders and studies that belong together."""

from typing import Annotated, Any

import typer

from services.cli.client import connect
from services.cli.output import Json, local_time, out, print_json, print_table

UNMATCHED = "Example: kivuko worklist unmatched --site bata"
STUDY = "Example: kivuko worklist study 1.2.840.113619.2.5.1"
LINK = 'Example: kivuko worklist link 1.2.840.113619.2.5.1 17 --why "typed in at the console"'
UNLINK = 'Example: kivuko worklist unlink 1.2.840.113619.2.5.1 --why "wrong item chosen"'
_PATH = "/v1/worklist/studies"

Uid = Annotated[str, typer.Argument(metavar="STUDY", help="Study Instance UID.")]
Why = Annotated[str, typer.Option("--why", help="Why, for those who look at it later; without patient's data.")]
Tenant = Annotated[str | None, typer.Option(help="Of the study, where several tenants have one with this UID.")]


def unmatched(
    *,
    site: Annotated[str | None, typer.Option(help="Of this site.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many of each, the newest first.")] = 100,
    json_output: Json = False,
) -> None:
    """List studies without order, and orders without study after their time."""
    found = connect(json_output=json_output).get("/v1/worklist/unmatched", site=site, limit=limit)
    if json_output:
        print_json(found)
        return
    columns = ("study", "site", "modality", "accession", "patient", "came", "order of another patient")
    rows = [
        (
            one["study_instance_uid"],
            one["site"],
            one["modality"],
            one["accession"],
            one["patient"],
            local_time(one["first_seen_at"]),
            one["order_id"],
        )
        for one in found["studies"]
    ]
    print_table("Studies without order", columns, rows, empty="Every study has its order.")
    overdue = [
        (one["id"], one["site"], one["state"], site_time(one["start"]), one["accession"]) for one in found["orders"]
    ]
    print_table(
        "Orders without study",
        ("order", "site", "state", "start", "accession"),
        overdue,
        empty="Every order has its study.",
    )
    if rows:
        out.print("If you know the order of a study: `kivuko worklist link STUDY ORDER --why WHY`.")
    if overdue:
        out.print("If an order is not done any more: `kivuko worklist cancel ID`.")


def study(study: Uid, *, tenant: Tenant = None, json_output: Json = False) -> None:
    """Show which order a study belongs to, how that was found, and what people have said of it."""
    _print(connect(json_output=json_output).get(f"{_PATH}/{study}", tenant=tenant), json_output=json_output)


def link(
    study: Uid,
    order: Annotated[int, typer.Argument(metavar="ORDER", help="Id of an order, as `list` shows it.")],
    *,
    why: Why,
    tenant: Tenant = None,
    json_output: Json = False,
) -> None:
    """Have a study belong to an order: you have looked at both, and the patient is the same."""
    found = connect(json_output=json_output).post(
        f"{_PATH}/{study}/link", json={"order": order, "reason": why}, params=_of(tenant)
    )
    _print(found, json_output=json_output)


def unlink(study: Uid, *, why: Why, tenant: Tenant = None, json_output: Json = False) -> None:
    """Take a study from its order, whoever gave it that; it is not matched with that one again."""
    found = connect(json_output=json_output).post(f"{_PATH}/{study}/unlink", json={"reason": why}, params=_of(tenant))
    _print(found, json_output=json_output)


def _of(tenant: str | None) -> dict[str, str]:
    return {} if tenant is None else {"tenant": tenant}


def _print(found: dict[str, Any], *, json_output: bool) -> None:
    if json_output:
        print_json(found)
        return
    order = "none" if found["order_id"] is None else f"{found['order_id']}, by {found['matched_by']}"
    rows = [
        ("study", found["study_instance_uid"]),
        ("site", found["site"]),
        ("patient", found["patient"]),
        ("accession", found["accession"]),
        ("modality", found["modality"]),
        ("order", order),
    ]
    print_table("", ("", ""), rows, empty="")
    said = [
        (local_time(one["at"]), one["who"], f"{one['act']} {one['order_id']}", one["reason"], one["matched_by"])
        for one in found["journal"]
    ]
    columns = ("at", "who", "said", "why", "matched before by")
    print_table("What people said of it", columns, said, empty="Nobody has linked it by hand.")
    if found["contradicts"]:
        out.print("[yellow]warning:[/] the order is another patient's")
    if found["others"]:
        out.print(f"[yellow]warning:[/] the order has other studies, too: {', '.join(found['others'])}")


def site_time(start: str) -> str:
    """Show a time by the clock of a site, YYYYMMDDHHMMSS."""
    return f"{start[:4]}-{start[4:6]}-{start[6:8]} {start[8:10]}:{start[10:12]}" if start else ""
