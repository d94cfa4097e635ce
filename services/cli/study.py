"""`kivuko study`: what arrived, and what became of it."""

from typing import Annotated
from urllib.parse import quote

import typer
from rich.markup import escape

from services.cli.client import connect
from services.cli.output import Json, in_bytes, local_time, out, print_json, print_table
from services.cli.retention import kept

app = typer.Typer(help="List studies and follow one from arrival to delivery.", no_args_is_help=True)

_LIST = "Example: kivuko study list --limit 10"
_SHOW = "Example: kivuko study show 1.2.826.0.1.3680043.8.498.1"
_CLEAR = "Example: kivuko study clear-flag 1.2.826.0.1.3680043.8.498.1 7"
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
            f"{study['state']}, flagged" if study["flags"] else study["state"],
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


@app.command(epilog=_SHOW)
def show(
    uid: Annotated[str, typer.Argument(help="Study Instance UID, as `kivuko study list` shows it.")],
    *,
    tenant: Annotated[str | None, typer.Option(help="Needed only if several tenants have this UID.")] = None,
    json_output: Json = False,
) -> None:
    """Show one study: what of it arrived, why it is taken to be complete, and what people should look at."""
    client = connect(json_output=json_output)
    found = client.get(f"/v1/ingest/studies/{quote(uid, safe='')}", tenant=tenant)
    # Where only ingest answers, nobody knows of tags.
    tagged = client.find("/v1/rules/tags", study=uid) or {"tags": []}
    found["tags"] = {each["name"]: each["value"] for each in tagged["tags"] if each["tenant"] == found["tenant"]}
    if json_output:
        print_json(found)
        return
    source = found["source"]
    rows = [
        ("state", f"{found['state']}, version {found['version']}"),
        ("tenant", found["tenant"]),
        ("sites", ", ".join(found["sites"])),
        ("first from", f"{source['node']} at {source['site']}"),
        ("arrived", f"{local_time(found['first_arrival'])} to {local_time(found['last_arrival'])}"),
        ("holds", f"{found['instance_count']} instances in {found['series_count']} series"),
        ("arrivals", _counts(found["arrivals"])),
        ("other content", _counts(found["conflicts"]) or "none"),
        ("tags", ", ".join(f"{name}={value}" for name, value in found["tags"].items()) or "none"),
        ("copy", "removed: its keep time is over" if found["state"] == "expired" else f"kept {kept(found['keeping'])}"),
    ]
    print_table(f"Study {uid}", ("", ""), rows, empty="")
    if found["signs"]:
        score = "" if found["score"] is None else f", score {found['score']:.2f}"
        signs = [(f"{each['weight']:+.2f}", each["detail"]) for each in found["signs"]]
        print_table(f"Taken to be complete{score}", ("weight", "sign"), signs, empty="")
    flags = [
        (
            each["id"],
            each["kind"],
            ", ".join(each["fields"]),
            "itself" if each["other_study_instance_uid"] == uid else each["other_study_instance_uid"],
            local_time(each["raised_at"]),
            f"{each['cleared_by']}, {local_time(each['cleared_at'])}" if each["cleared_at"] else "nobody yet",
        )
        for each in found["flagged"]
    ]
    columns = ("flag", "kind", "differs in", "from study", "since", "looked at by")
    print_table("To look at", columns, flags, empty="No flags.")


@app.command("clear-flag", epilog=_CLEAR)
def clear_flag(
    uid: Annotated[str, typer.Argument(help="Study Instance UID.")],
    flag: Annotated[int, typer.Argument(help="Number of the flag, as `kivuko study show` gives it.")],
    *,
    tenant: Annotated[str | None, typer.Option(help="Needed only if several tenants have this UID.")] = None,
    json_output: Json = False,
) -> None:
    """Say that you have looked at a flag. Nothing else is changed, and the flag stays on record."""
    path = f"/v1/ingest/studies/{quote(uid, safe='')}/flags/{flag}/clear"
    params = {} if tenant is None else {"tenant": tenant}
    found = connect(json_output=json_output).post(path, params=params)
    if json_output:
        print_json(found)
        return
    out.print(f"Flag {flag} is cleared by {escape(found['cleared_by'])}. The other study keeps its own flag.")


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


def _counts(found: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(found.items()))


def print_timeline(entries: list[dict[str, str]]) -> None:
    """Print what happened, a line a step."""
    for entry in entries:
        out.print(f"[dim]{local_time(entry['time'])}[/]  {escape(entry['service']):<8} {escape(entry['sentence'])}")
