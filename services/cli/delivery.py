"""`kivuko delivery`: what is on its way, and what keeps it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.markup import escape
from rich.padding import Padding

from libs.clock import utc_now
from services.cli.client import Client, connect
from services.cli.output import Json, in_bytes, local_time, out, print_json, print_table

app = typer.Typer(
    help="Follow deliveries, hold, cancel, retry and redirect them, and prove that they arrived: see docs/receipts.md.",
    no_args_is_help=True,
)

_LIST = "Example: kivuko delivery list --state waiting --destination archive"
_SHOW = "Example: kivuko delivery show 0123456789abcdef0123456789abcdef"
#: Path of the routes of deliveries.
PATH = "/v1/egress/deliveries"
#: Instances in one answer.
_PAGE = 500

Id = Annotated[str, typer.Argument(metavar="ID", help="Id of a delivery, as `kivuko delivery list` shows it.")]

_STATES = {
    "open": "under way",
    "waiting": "waits for the next attempt",
    "held": "held: nothing may be sent",
    "failed": "failed: it does not go on by itself",
    "done": "done: the receiver said success for every instance",
    "cancelled": "cancelled: a person gave up what is not sent; it is not done",
    "diverted": "diverted: another destination gets it; it is not done",
}
_COLOURS = {
    "failed": "bold red",
    "held": "yellow",
    "waiting": "yellow",
    "done": "green",
    "cancelled": "bold red",
    "diverted": "yellow",
}
#: What people look at first.
_WORST = {"failed": -2, "pending": -1}


@app.command("list", epilog=_LIST)
def list_deliveries(
    *,
    state: Annotated[
        str | None, typer.Option(help="Only those that are open, waiting, held, failed, done, cancelled or diverted.")
    ] = None,
    destination: Annotated[str | None, typer.Option(help="Only those to this destination, by its key.")] = None,
    study: Annotated[str | None, typer.Option(help="Only those of this study, by its Study Instance UID.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many, the latest first.")] = 50,
    before: Annotated[str | None, typer.Option(help="Those before this one, as the page before says.")] = None,
    json_output: Json = False,
) -> None:
    """List deliveries, the latest request first: each is one study on its way to one destination."""
    client = connect(json_output=json_output)
    found = client.get(PATH, state=state, destination=destination, study=study, limit=limit, before=before)
    if json_output:
        print_json(found)
        return
    retries = _retries(client, found["deliveries"])
    rows = [
        (
            each["state"],
            each["destination"],
            local_time(each["requested_at"]),
            each["id"],
            each["study_instance_uid"],
            _ahead(each, retries),
        )
        for each in found["deliveries"]
    ]
    if rows and out.is_terminal:
        _print_lines(rows)
    else:
        some = state or destination or study
        print_table(
            "Deliveries",
            ("state", "to", "asked for", "id", "study", "what is next"),
            rows,
            empty="No delivery fits." if some else "Nothing was to be delivered yet: see `kivuko study list`.",
        )
    if found["next"]:
        out.print(f"There are more: add --before {found['next']}")


@app.command(epilog=_SHOW)
def show(
    delivery: Id,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Every instance, a line each.")] = False,
    json_output: Json = False,
) -> None:
    """Show one delivery: how far it is, what keeps it, and how many instances are not there yet, and why."""
    client = connect(json_output=json_output)
    found = client.get(path(delivery), limit=_PAGE)
    items = _items(client, delivery, found)
    if json_output:
        print_json({**found, "items": list(items), "next": None})
        return
    due = _next(found, _retries(client, [found]))
    rows = [
        ("state", _STATES.get(found["state"], found["state"])),
        ("because", found["reason"]),
        ("study", found["study_instance_uid"]),
        ("to", found["destination"]),
        ("of", f"{found['tenant']}, {found['site'] or 'no site'}, first from {found['source_node']}"),
        ("lane", found["priority"]),
        ("version", _version(found)),
        ("instances", _counts(found)),
        ("asked for", f"{local_time(found['requested_at'])} by version {found['network_version']} of the definition"),
        ("attempts", f"{found['attempts']}{f', next {due}' if due else ''}"),
        ("complete", local_time(found["completed_at"])),
    ]
    print_table(f"Delivery {delivery}", ("", ""), [row for row in rows if row[1]], empty="")
    if everything:
        _print_items(items)
        return
    _print_groups(items)
    if found["state"] == "failed":
        out.print(f"Once the cause is mended: `kivuko delivery retry {escape(delivery)}`.")
    if found["diverted_to"]:
        there = f"--study {found['study_instance_uid']} --destination {found['diverted_to']}"
        out.print(f"Where it goes: `kivuko delivery list {escape(there)}`.")
        out.print(f"To have it go to {escape(found['destination'])} after all: `kivuko delivery retry {delivery}`.")
    if found["ordered"]:
        out.print(f"To let it go: `kivuko delivery release {escape(delivery)}`.")
    if found["state"] == "done":
        out.print(f"The proof: `kivuko delivery receipt {escape(delivery)} -o FILE`.")


def path(delivery: str) -> str:
    """Give the path of a delivery's routes."""
    return f"{PATH}/{quote(delivery, safe='')}"


def _items(client: Client, delivery: str, page: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield from page["items"]
    while page["next"] is not None:
        page = client.get(path(delivery), limit=_PAGE, after=page["next"])
        yield from page["items"]


def _retries(client: Client, deliveries: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Tell when destinations that could not be reached are called again, if one of these deliveries waits for it."""
    if all(each["state"] != "waiting" for each in deliveries):
        return {}
    return {each["key"]: each["retry_at"] for each in client.get("/v1/egress/destinations") if each["retry_at"]}


def _print_lines(rows: Sequence[tuple[str, ...]]) -> None:
    # A table of identifiers would be folded until none of them can be copied.
    width = max(len(row[1]) for row in rows)
    for state, destination, asked, delivery, study, ahead in rows:
        colour = _COLOURS.get(state, "default")
        out.print(f"[{colour}]{state:<9}[/] {escape(destination):<{width}}  {asked}  {delivery}")
        for line in (f"study {study}", ahead):
            out.print(Padding(escape(line), (0, 0, 0, 10)), soft_wrap=False)


def _print_groups(items: Iterable[Mapping[str, Any]]) -> None:
    """Print what keeps instances, the worst first; a study has hundreds of them and few reasons."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for item in items:
        state = item["state"] if item["current"] else "replaced"
        what = item["reason"] or ("" if state == "sent" else "They had no turn yet.")
        if not item["current"]:
            what = "Another content of them came later and goes in their place."
        if what:
            groups.setdefault((state, item["status"] or "", what), []).append(item["sop_instance_uid"])
    rows = [
        (len(uids), state, status, what, uids[0])
        for (state, status, what), uids in sorted(groups.items(), key=lambda group: _WORST.get(group[0][0], 0))
    ]
    if rows:
        print_table("To look at", ("instances", "state", "status", "what", "such as"), rows, empty="")
        out.print("`--all` shows every instance.")


def _print_items(items: Iterable[Mapping[str, Any]]) -> None:
    rows = (
        (
            item["sop_instance_uid"],
            item["state"] if item["current"] else "replaced",
            item["status"],
            item["attempts"],
            local_time(item["sent_at"]),
            item["reason"],
        )
        for item in items
    )
    columns = ("instance", "state", "status", "attempts", "sent", "what")
    print_table("Instances", columns, rows, empty="It has no instances yet.")


def _ahead(delivery: Mapping[str, Any], retries: Mapping[str, str]) -> str:
    if delivery["state"] == "done":
        return f"complete {local_time(delivery['completed_at'])}"
    due = _next(delivery, retries)
    if delivery["reason"]:
        return f"{delivery['reason']}; next {due}" if due else delivery["reason"]
    if delivery["state"] == "waiting":
        return f"next {due or 'now'}"
    return "the study is not complete yet" if delivery["expected_count"] is None else "being sent"


def _next(delivery: Mapping[str, Any], retries: Mapping[str, str]) -> str:
    """Say when a delivery that waits is tried again; nothing if that is now, or not known."""
    if delivery["state"] != "waiting" or delivery["next_attempt_at"] is None:
        return ""
    times = (delivery["next_attempt_at"], retries.get(delivery["destination"]))
    due = max(datetime.fromisoformat(time) for time in times if time)
    return local_time(due.isoformat()) if due > utc_now() else ""


def _version(delivery: Mapping[str, Any]) -> str:
    if delivery["study_version"] is None:
        return "none yet: the study is not complete"
    return f"{delivery['study_version']} of the study, of {instances(delivery['expected_count'])}"


def _counts(delivery: Mapping[str, Any]) -> str:
    counts = [
        f"{delivery['sent_count']} sent ({in_bytes(delivery['bytes_sent'])})",
        f"{delivery['pending_count']} to send" if delivery["pending_count"] else "",
        f"{delivery['failed_count']} refused" if delivery["failed_count"] else "",
    ]
    return ", ".join(filter(None, counts))


def instances(count: int) -> str:
    """Say how many instances, for people."""
    return "1 instance" if count == 1 else f"{count} instances"
