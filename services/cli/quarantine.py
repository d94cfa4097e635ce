"""`kivuko quarantine`: what was put aside, and what people decide on it."""

import sys
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Annotated, Any

import typer

from services.cli.client import EXIT_REFUSED, Client, connect
from services.cli.output import Json, fail, in_bytes, local_time, out, print_json, print_table

app = typer.Typer(
    help="List, look into, correct, release and discard objects that were put aside: see docs/quarantine.md.",
    no_args_is_help=True,
)

_LIST = "Example: kivuko quarantine list --node CT1"
_SHOW = "Example: kivuko quarantine show 0006530c1a2b3c4d-8899aabbccddeeff --header"
_CORRECT = (
    "Example: kivuko quarantine correct 0006530c1a2b3c4d-8899aabbccddeeff --set PatientID=P1 "
    '--set PatientName=Doe^Jane --why "wrong worklist item"'
)
_RELEASE = (
    'Example: kivuko quarantine release --node CT1 --reason identity-mismatch --trust dataset --why "new software"'
)
_DISCARD = 'Example: kivuko quarantine discard 0006530c1a2b3c4d-8899aabbccddeeff --why "phantom"'
_PATH = "/v1/ingest/quarantine"
_BINARY = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})

Entry = Annotated[str, typer.Argument(metavar="ID", help="Id, as `kivuko quarantine list` shows it.")]
Entries = Annotated[list[str] | None, typer.Argument(metavar="ID", help="Ids; or use the filters below.")]
Reason = Annotated[
    str | None,
    typer.Option(help="Only what was put aside for it: identity-mismatch, unreadable-dataset, content-conflict."),
]
Tenant = Annotated[str | None, typer.Option(help="Of this tenant only.")]
Site = Annotated[str | None, typer.Option(help="Of this site only.")]
Node = Annotated[str | None, typer.Option(help="From this node only.")]
Since = Annotated[
    datetime | None,
    typer.Option(
        formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"], help="Arrived then or later, local time."
    ),
]
Why = Annotated[str, typer.Option(help="Why, for the audit log; without the patient's data.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEYWORD=VALUE",
        help="A new value; may be repeated. `-` reads them from standard input, one a line: others on this machine see "
        "the arguments of a command.",
    ),
]
Trust = Annotated[
    str | None, typer.Option(help="Which is right where they name different instances: `dataset` or `command`.")
]
Replace = Annotated[bool, typer.Option("--replace", help="Take the place of what is kept under the SOP Instance UID.")]
Coerce = Annotated[
    bool, typer.Option("--coerce", help="The old value was right where it came from: noted as COERCE, not CORRECT.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would happen, and change nothing.")]


@app.command("list", epilog=_LIST)
def list_entries(
    *,
    everything: Annotated[bool, typer.Option("--all", help="What was decided on, too.")] = False,
    reason: Reason = None,
    tenant: Tenant = None,
    site: Site = None,
    node: Node = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many, the latest first.")] = 50,
    json_output: Json = False,
) -> None:
    """List what waits for a decision, the latest first."""
    found = connect(json_output=json_output).get(
        _PATH,
        limit=limit,
        state=None if everything else ["open", "releasing"],
        reason=reason,
        tenant=tenant,
        site=site,
        node=node,
        since=_instant(since),
    )
    if json_output:
        print_json(found)
        return
    rows = [
        (
            entry["id"],
            entry["state"],
            entry["reason"],
            entry["source"]["node"],
            local_time(entry["last_received_at"]),
            entry["times"],
            in_bytes(entry["size"]),
            entry["study_instance_uid"],
        )
        for entry in found["entries"]
    ]
    columns = ("id", "state", "reason", "from", "last arrival", "times", "size", "study")
    print_table("Quarantine", columns, rows, empty="Nothing is in quarantine that waits for a decision.")
    if found["before"]:
        out.print(f"The latest {len(rows)}; filters or --limit show others.")


@app.command(epilog=_SHOW)
def show(
    entry: Entry,
    *,
    header: Annotated[
        bool, typer.Option("--header", help="The dataset's header too, with the patient's data: the use is recorded.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Show one entry: why it was put aside, where it came from, what was decided."""
    client = connect(json_output=json_output)
    found = client.get(f"{_PATH}/{entry}")
    elements = client.get(f"{_PATH}/{entry}/header")["elements"] if header else None
    if json_output:
        print_json(found if elements is None else {**found, "elements": elements})
        return
    source, resolution = found["source"], found["resolution"] or {}
    rows = [
        ("state", found["state"]),
        ("why", f"{found['reason']}: {found['detail']}"),
        ("from", f"{source['node']} at {source['site']} ({source['calling_aet']}, {source['address']})"),
        ("tenant", found["tenant"]),
        ("arrived", _arrived(found)),
        ("study", found["study_instance_uid"] or "unknown"),
        ("instance", found["sop_instance_uid"] or "unknown"),
        ("bytes", f"{in_bytes(found['size'])}{'' if found['object_key'] else ', deleted'}"),
    ]
    if found["resolved_by"]:
        rows.append(("decided", f"by {found['resolved_by']}, {local_time(found['resolved_at'])}"))
    rows += [(name.replace("_", " "), _plain(value)) for name, value in resolution.items() if value]
    print_table(f"Entry {entry}", ("", ""), rows, empty="")
    if elements is not None:
        print_table("Header", ("tag", "VR", "attribute", "value"), _lines(elements, ""), empty="It has no elements.")


@app.command(epilog=_CORRECT)
def correct(
    entry: Entry,
    why: Why,
    values: Set = None,
    *,
    trust: Trust = None,
    replace: Replace = False,
    coerce: Coerce = False,
    dry_run: DryRun = False,
    json_output: Json = False,
) -> None:
    """Correct identifiers of one object and release it into the study that they then name."""
    if not values:
        fail(
            "Nothing to correct was given.",
            "Add --set KEYWORD=VALUE, or use `kivuko quarantine release` to release it as it is.",
            code=2,
            json_output=json_output,
        )
    body = _release(why, values, trust, replace=replace, coerce=coerce, dry_run=dry_run, json_output=json_output)
    made = connect(json_output=json_output).post(f"{_PATH}/{entry}/release", json=body)
    _print([made], json_output=json_output)


@app.command(epilog=_RELEASE)
def release(
    why: Why,
    entries: Entries = None,
    values: Set = None,
    *,
    trust: Trust = None,
    replace: Replace = False,
    coerce: Coerce = False,
    reason: Reason = None,
    tenant: Tenant = None,
    site: Site = None,
    node: Node = None,
    since: Since = None,
    dry_run: DryRun = False,
    json_output: Json = False,
) -> None:
    """Release objects into the studies that they name: they are indexed and routed like arrivals."""
    body = _release(why, values, trust, replace=replace, coerce=coerce, dry_run=dry_run, json_output=json_output)
    which = {"reason": reason, "tenant": tenant, "site": site, "node": node, "since": _instant(since)}
    _decide(connect(json_output=json_output), "release", entries, which, body, json_output=json_output)


@app.command(epilog=_DISCARD)
def discard(
    why: Why,
    entries: Entries = None,
    *,
    delete_bytes: Annotated[bool, typer.Option("--delete-bytes", help="Delete the bytes for good.")] = False,
    reason: Reason = None,
    tenant: Tenant = None,
    site: Site = None,
    node: Node = None,
    since: Since = None,
    dry_run: DryRun = False,
    json_output: Json = False,
) -> None:
    """Decide that objects never will be in a study. Their bytes are kept unless you have them deleted."""
    body = {"reason": why, "delete_bytes": delete_bytes, "dry_run": dry_run}
    which = {"reason": reason, "tenant": tenant, "site": site, "node": node, "since": _instant(since)}
    _decide(connect(json_output=json_output), "discard", entries, which, body, json_output=json_output)


def _decide(
    client: Client,
    what: str,
    entries: list[str] | None,
    which: dict[str, str | None],
    body: dict[str, Any],
    *,
    json_output: bool,
) -> None:
    given = {name: value for name, value in which.items() if value is not None}
    if bool(entries) == bool(given):
        fail(
            "Say which objects, by their ids or by filters, not both.",
            "`kivuko quarantine list` shows them; --node, --site, --tenant, --reason and --since are filters.",
            code=2,
            json_output=json_output,
        )
    if entries and len(entries) == 1:
        made = [client.post(f"{_PATH}/{entries[0]}/{what}", json=body)]
    else:
        wanted = {**body, "filter": {"ids": entries} if entries else given}
        made = client.post(f"{_PATH}/{what}", json=wanted)["outcomes"]
    _print(made, json_output=json_output)


def _release(
    why: str,
    values: list[str] | None,
    trust: str | None,
    *,
    replace: bool,
    coerce: bool,
    dry_run: bool,
    json_output: bool,
) -> dict[str, Any]:
    corrections = {}
    for value in _lines_of(values or ()):
        keyword, sign, text = value.partition("=")
        if not sign or not keyword.isalnum():
            fail("A correction is not KEYWORD=VALUE.", "Write such as PatientID=P1.", code=2, json_output=json_output)
        corrections[keyword] = text
    if values and not corrections:
        advice = "Write KEYWORD=VALUE lines to standard input, or leave --set out to release it as it is."
        fail("Standard input has no value.", advice, code=2, json_output=json_output)
    return {
        "reason": why,
        "corrections": corrections,
        "trust": trust,
        "replace": replace,
        "modification": "COERCE" if coerce else "CORRECT",
        "dry_run": dry_run,
    }


def _lines_of(values: Iterable[str]) -> Iterator[str]:
    for value in values:
        if value == "-":
            yield from filter(None, (line.strip() for line in sys.stdin))
        else:
            yield value


def _print(made: list[dict[str, Any]], *, json_output: bool) -> None:
    if json_output:
        print_json({"outcomes": made})
    else:
        rows = [
            (
                each["id"],
                each["outcome"],
                each["problem"] or _came_to(each),
                each["advice"] or "",
            )
            for each in made
        ]
        print_table("Outcome", ("id", "outcome", "what", "next"), rows, empty="No entry fits: nothing was done.")
    if any(each["outcome"] == "refused" for each in made):
        raise typer.Exit(EXIT_REFUSED)


def _came_to(made: dict[str, Any]) -> str:
    if made["study_instance_uid"] is None:
        return ""
    said = [f"{'new study' if made['new_study'] else 'study'} {made['study_instance_uid']}"]
    if made["corrected"]:
        said.append(f"corrected {', '.join(made['corrected'])}")
    if made["replaces"]:
        said.append("takes the place of another content")
    return "; ".join(said)


def _lines(elements: dict[str, Any], indent: str) -> list[tuple[str, str, str, str]]:
    lines = []
    for tag, element in sorted(elements.items()):
        values = element.get("Value", [])
        name = f"{indent}({tag[:4]},{tag[4:]})"
        if element["vr"] == "SQ":
            lines.append((name, "SQ", element.get("keyword", ""), f"{len(values)} items"))
            for item in values:
                lines += _lines(item, f"{indent}  ")
        else:
            text = "\\".join(str(value) for value in values)
            shown = "not shown" if element["vr"] in _BINARY and not values else text
            lines.append((name, element["vr"], element.get("keyword", ""), shown))
    return lines


def _arrived(found: dict[str, Any]) -> str:
    first, last = local_time(found["received_at"]), local_time(found["last_received_at"])
    return first if found["times"] == 1 else f"{found['times']} times, first {first}, last {last}"


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _instant(since: datetime | None) -> str | None:
    return None if since is None else since.astimezone().isoformat()
