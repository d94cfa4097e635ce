"""`kivuko delivery`: what is on its way, what keeps it, and trying again."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.markup import escape

from services.cli.client import Client, connect
from services.cli.output import Json, in_bytes, local_time, out, print_json, print_table

app = typer.Typer(
    help="Follow deliveries, try them again, and prove that they arrived: see docs/receipts.md.", no_args_is_help=True
)

_LIST = "Example: kivuko delivery list --state waiting --destination archive"
_SHOW = "Example: kivuko delivery show 0123456789abcdef0123456789abcdef"
_RETRY = "Example: kivuko delivery retry 0123456789abcdef0123456789abcdef"
_PATH = "/v1/egress/deliveries"
#: Instances in one answer.
_PAGE = 500

Id = Annotated[str, typer.Argument(metavar="ID", help="Id of a delivery, as `kivuko delivery list` shows it.")]

_STATES = {
    "open": "under way",
    "waiting": "waits for the next attempt",
    "held": "held: nothing may be sent",
    "failed": "failed: what is left was refused for good",
    "done": "done: the receiver said success for every instance",
}


@app.command("list", epilog=_LIST)
def list_deliveries(
    *,
    state: Annotated[str | None, typer.Option(help="Only those that are open, waiting, held, failed or done.")] = None,
    destination: Annotated[str | None, typer.Option(help="Only those to this destination, by its key.")] = None,
    study: Annotated[str | None, typer.Option(help="Only those of this study, by its Study Instance UID.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many, the latest first.")] = 50,
    before: Annotated[str | None, typer.Option(help="Those before this one, as the page before says.")] = None,
    json_output: Json = False,
) -> None:
    """List deliveries, the latest request first: each is one study on its way to one destination."""
    found = connect(json_output=json_output).get(
        _PATH, state=state, destination=destination, study=study, limit=limit, before=before
    )
    if json_output:
        print_json(found)
        return
    rows = [
        (
            each["id"],
            each["state"],
            each["destination"],
            each["study_instance_uid"],
            local_time(each["requested_at"]),
            _ahead(each),
        )
        for each in found["deliveries"]
    ]
    some = state or destination or study
    print_table(
        "Deliveries",
        ("id", "state", "to", "study", "asked for", "what is next"),
        rows,
        empty="No delivery fits." if some else "Nothing was to be delivered yet: see `kivuko study list`.",
    )
    if found["next"]:
        out.print(f"There are more: add --before {found['next']}")


@app.command(epilog=_SHOW)
def show(
    delivery: Id,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Every instance, not only those to look at.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="How many instances to look at are shown.")] = 20,
    json_output: Json = False,
) -> None:
    """Show one delivery: how far it is, what keeps it, and which instances are not there yet, and why."""
    client = connect(json_output=json_output)
    found = client.get(path(delivery), limit=_PAGE)
    items = _items(client, delivery, found)
    if json_output:
        print_json({**found, "items": list(items), "next": None})
        return
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
        ("attempts", f"{found['attempts']}{_next(found)}"),
        ("complete", local_time(found["completed_at"])),
    ]
    print_table(f"Delivery {delivery}", ("", ""), [row for row in rows if row[1]], empty="")
    if everything:
        _print_items("Instances", items)
        return
    to_look_at = (item for item in items if item["state"] != "sent" or item["reason"])
    shown = list(islice(to_look_at, limit + 1))
    if shown:
        _print_items("To look at", shown[:limit])
    if len(shown) > limit:
        out.print("There are more: `--all` shows every instance.")
    if found["state"] == "failed":
        out.print(f"Once the cause is mended: `kivuko delivery retry {escape(delivery)}`.")
    if found["state"] == "done":
        out.print(f"The proof: `kivuko delivery receipt {escape(delivery)} -o FILE`.")


@app.command(epilog=_RETRY)
def retry(delivery: Id, *, json_output: Json = False) -> None:
    """Try at once what of a delivery is not sent, refused instances included, with all attempts before them."""
    answer = connect(json_output=json_output).post(f"{path(delivery)}/retry")
    if json_output:
        print_json(answer)
    elif answer["instances"]:
        out.print(f"{_instances(answer['instances'])} tried again. See `kivuko delivery show {escape(delivery)}`.")
    else:
        out.print("There is nothing to try again: every instance that came so far is sent.")


def path(delivery: str) -> str:
    """Give the path of a delivery's routes."""
    return f"{_PATH}/{quote(delivery, safe='')}"


def _items(client: Client, delivery: str, page: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield from page["items"]
    while page["next"] is not None:
        page = client.get(path(delivery), limit=_PAGE, after=page["next"])
        yield from page["items"]


def _print_items(title: str, items: "list[dict[str, Any]] | Iterator[dict[str, Any]]") -> None:
    rows = (
        (
            item["sop_instance_uid"],
            item["state"],
            item["status"],
            item["attempts"],
            local_time(item["sent_at"]),
            _trouble(item),
        )
        for item in items
    )
    print_table(title, ("instance", "state", "status", "attempts", "sent", "what"), rows, empty="There is none.")


def _ahead(delivery: Mapping[str, Any]) -> str:
    if delivery["state"] == "done":
        return f"complete {local_time(delivery['completed_at'])}"
    if delivery["reason"]:
        return f"{delivery['reason']}{_next(delivery)}"
    if delivery["expected_count"] is None:
        return "the study is not complete yet"
    return _next(delivery).removeprefix(", ") or "being sent"


def _next(delivery: Mapping[str, Any]) -> str:
    at = delivery["next_attempt_at"]
    return f", next at {local_time(at)}" if at and delivery["state"] == "waiting" else ""


def _version(delivery: Mapping[str, Any]) -> str:
    if delivery["study_version"] is None:
        return "none yet: the study is not complete"
    return f"{delivery['study_version']} of the study, of {_instances(delivery['expected_count'])}"


def _counts(delivery: Mapping[str, Any]) -> str:
    counts = [
        f"{delivery['sent_count']} sent ({in_bytes(delivery['bytes_sent'])})",
        f"{delivery['pending_count']} to send" if delivery["pending_count"] else "",
        f"{delivery['failed_count']} refused" if delivery["failed_count"] else "",
    ]
    return ", ".join(filter(None, counts))


def _instances(count: int) -> str:
    return "1 instance" if count == 1 else f"{count} instances"


def _trouble(item: Mapping[str, Any]) -> str:
    if not item["current"]:
        return "Another content of it came later and goes in its place."
    if item["reason"]:
        at = item["next_attempt_at"]
        return f"{item['reason']} Next at {local_time(at)}." if at and item["state"] == "pending" else item["reason"]
    return "" if item["state"] == "sent" else "It had no turn yet."
