"""`kivuko destination`: what waits where, pause and resume, and what a destination can do."""

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.markup import escape
from rich.padding import Padding
from rich.progress import Progress, SpinnerColumn, TextColumn

from libs.clock import utc_now
from services.cli.capability import print_test
from services.cli.client import EXIT_REFUSED, connect
from services.cli.delivery import instances
from services.cli.order import Reason
from services.cli.output import Json, err, in_bytes, local_time, out, print_json, print_table

app = typer.Typer(
    help="See what waits for each destination, pause, resume and test them: see docs/destinations.md.",
    no_args_is_help=True,
)

_LIST = "Example: kivuko destination list"
_SHOW = "Example: kivuko destination show archive"
_PAUSE = 'Example: kivuko destination pause archive --reason "new disks, until 18:00"'
_RESUME = "Example: kivuko destination resume archive"
_TEST = "Example: kivuko destination test archive --store"
_COMPARE = "Example: kivuko destination compare archive --since 2026-11-20"
#: How people write the time from which on is compared.
_TIMES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M"]
#: How often to look how far a comparison is, in seconds.
_POLL_S = 0.5
_PATH = "/v1/egress/destinations"
#: Many associations with a slow peer take their time.
_TEST_TIMEOUT_S = 600
_COLOURS = {
    "unreachable": "bold red",
    "blocked": "bold red",
    "paused": "yellow",
    "held": "yellow",
    "waiting": "yellow",
    "sending": "green",
}

Name = Annotated[str, typer.Argument(metavar="NAME", help="Key of the destination in the network definition.")]


@app.command("list", epilog=_LIST)
def list_destinations(*, json_output: Json = False) -> None:
    """List destinations: state, what waits, since when, when it will be there, and what is wrong."""
    found = connect(json_output=json_output).get(_PATH)
    if json_output:
        print_json(found)
        return
    rows = [(each["key"], each["state"], _queue(each), _age(each), _empty(each), _wrong(each)) for each in found]
    if rows and out.is_terminal:
        _print_lines(rows)
        return
    print_table(
        "Destinations",
        ("destination", "state", "to send", "oldest", "empty", "what is wrong"),
        rows,
        empty="There are no destinations: `kivuko apply FILE` puts a definition with some in force.",
    )


@app.command(epilog=_SHOW)
def show(name: Name, *, json_output: Json = False) -> None:
    """Show one destination: how it is called, what waits for it, how fast it goes, and what keeps it."""
    found = connect(json_output=json_output).get(_path(name))
    if json_output:
        print_json(found)
        return
    speed = found["bytes_per_second"]
    rows = [
        ("state", found["state"]),
        ("paused", _paused(found)),
        ("problem", found["problem"]),
        ("next try", _later(found["retry_at"]) if found["failures"] else None),
        ("failures", f"{found['failures']} in a row, the last {local_time(found['failed_at'])}")
        if found["failures"]
        else ("failures", None),
        ("window", _window(found)),
        ("at most", _limits(found)),
        ("last reached", local_time(found["reached_at"]) or "never"),
        ("at", _address(found)),
        ("associations", _associations(found)),
        ("to send", _queue(found)),
        ("oldest", _age(found)),
        ("goes at", f"{in_bytes(speed)}/s over the last minutes" if speed else None),
        ("empty", _empty(found)),
        ("takes", _takes(found)),
        ("confirms by", _CONFIRMS.get(found["confirm"])),
        ("compared", _compared(found)),
    ]
    print_table(f"Destination {escape(name)}", ("", ""), [row for row in rows if row[1]], empty="")
    _print_standstills(found["standstills"], name)
    if found["missing"]:
        out.print(
            f"[bold red]It does not have {instances(found['missing'])} that it said success for.[/] "
            f"To send them again: `kivuko delivery retry --missing --destination {escape(name)}`."
        )


@app.command(epilog=_PAUSE)
def pause(name: Name, *, reason: Reason = None, json_output: Json = False) -> None:
    """Let nothing go to a destination until it is resumed. What is under way comes to its end; nothing is lost."""
    answer = connect(json_output=json_output).post(f"{_path(name)}/pause", json={"reason": reason})
    if json_output:
        print_json(answer)
        return
    out.print(
        f"Nothing goes to {escape(name)} until `kivuko destination resume {escape(name)}`. "
        f"What comes meanwhile waits: {_queue(answer) or 'nothing yet'}."
    )


@app.command(epilog=_RESUME)
def resume(name: Name, *, json_output: Json = False) -> None:
    """Let things go to a destination again."""
    answer = connect(json_output=json_output).post(f"{_path(name)}/resume")
    if json_output:
        print_json(answer)
        return
    out.print(f"Resumed. To send: {_queue(answer) or 'nothing'}. See `kivuko destination show {escape(name)}`.")


@app.command(epilog=_COMPARE)
def compare(
    name: Name,
    *,
    since: Annotated[
        datetime | None,
        typer.Option(formats=_TIMES, help="What was sent from then on, local time; a day back if left out."),
    ] = None,
    json_output: Json = False,
) -> None:
    """Compare what was sent to a destination with what it has. Nothing is sent because of it.

    It is asked by C-FIND, or by storage commitment where it offers no queries. Exits 0 only if it has everything.
    """
    client = connect(json_output=json_output)
    wanted = {"since": since.astimezone().isoformat()} if since is not None else {}
    found = client.post(f"{_path(name)}/compare", json=wanted)
    columns = (TextColumn("comparing"), TextColumn("{task.fields[told]}"))
    with Progress(SpinnerColumn(), *columns, console=err, transient=True, disable=json_output) as progress:
        task = progress.add_task("", total=None, told="")
        while found["running"]:
            time.sleep(_POLL_S)
            found = client.get(f"{_path(name)}/comparison")
            progress.update(task, told=f"{found['studies']} studies, {instances(found['instances'])}")
    if json_output:
        print_json(found)
    else:
        _print_comparison(name, found)
    if found["problem"] or found["missing"] or found["unknown"]:
        raise typer.Exit(EXIT_REFUSED)


@app.command("test", epilog=_TEST)
def examine(
    name: Name,
    *,
    store: Annotated[
        bool,
        typer.Option("--store", help="Store a test object of 1 MB there, of the patient KIVUKO-TEST; it measures too."),
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="Every SOP class, a line each.")] = False,
    json_output: Json = False,
) -> None:
    """Ask a destination what it can do: C-ECHO, what it takes, what it offers, and how fast it answers.

    Exits 0 only if nothing went wrong. What it takes is remembered for sending.
    """
    client = connect(json_output=json_output)
    found = client.post(f"{_path(name)}/test", json={"store": store}, timeout=_TEST_TIMEOUT_S)
    if json_output:
        print_json(found)
    else:
        print_test(name, found, _address(found), store=store, everything=everything)
    raise typer.Exit(0 if found["ok"] else EXIT_REFUSED)


def _print_lines(rows: Sequence[tuple[str, ...]]) -> None:
    # A table would be folded until no name can be copied.
    width = max(len(row[0]) for row in rows)
    for name, state, queue, age, empty, wrong in rows:
        colour = _COLOURS.get(state, "default")
        out.print(f"{escape(name):<{width}}  [{colour}]{state:<11}[/]  {queue or 'nothing to send'}")
        waits = f"oldest {age}, empty {empty}" if queue else ""
        for line in filter(None, (waits, wrong)):
            out.print(Padding(escape(line), (0, 0, 0, 4)), soft_wrap=False)


def _path(name: str) -> str:
    return f"{_PATH}/{quote(name, safe='')}"


def _queue(found: Mapping[str, Any]) -> str:
    if not found["backlog"]:
        return ""
    studies = "1 study" if found["backlog"] == 1 else f"{found['backlog']} studies"
    held = f", {found['held']} held" if found["held"] and found["state"] != "paused" else ""
    return f"{studies}{held}: {instances(found['instances'])}, {in_bytes(found['bytes'])}"


def _age(found: Mapping[str, Any]) -> str:
    if not found["oldest_request_at"]:
        return ""
    asked = datetime.fromisoformat(found["oldest_request_at"])
    return duration(max(0.0, (utc_now() - asked).total_seconds()))


def _empty(found: Mapping[str, Any]) -> str:
    if not found["backlog"]:
        return ""
    return "not known" if found["empty_in"] is None else f"in about {duration(found['empty_in'])}"


def _wrong(found: Mapping[str, Any]) -> str:
    if found["paused_at"]:
        return _paused(found)
    if found["opens_at"] and found["backlog"]:
        return f"nothing: its window opens {local_time(found['opens_at'])}"
    if found["failures"] and found["problem"]:
        return f"{found['problem']}; next try {_later(found['retry_at'])}"
    return found["problem"] or ""


def _paused(found: Mapping[str, Any]) -> str:
    if not found["paused_at"]:
        return ""
    why = f": {found['paused_why']}" if found["paused_why"] else ""
    return f"by {found['paused_by']} since {local_time(found['paused_at'])}{why}"


def _later(at: str | None) -> str:
    if at is None or datetime.fromisoformat(at) <= utc_now():
        return "now"
    return local_time(at)


def _address(found: Mapping[str, Any]) -> str | None:
    if found["address"] is None:
        return None
    how = " with TLS" if found["tls"] else ""
    return f"{found['called_aet']} at {found['address']}{how}, as {found['calling_aet']}"


def _window(found: Mapping[str, Any]) -> str | None:
    if found["window"] is None:
        return None
    opens = f"opens {local_time(found['opens_at'])}" if found["opens_at"] else "open now"
    return f"{found['window']}, {opens}"


def _limits(found: Mapping[str, Any]) -> str:
    said = []
    if found["bandwidth"] is not None:
        said.append(f"{in_bytes(found['bandwidth'] / 8)}/s")
    if found["budget_left"] is not None:
        said.append(f"{in_bytes(found['budget_left'])} more today")
    return ", ".join(said)


def _associations(found: Mapping[str, Any]) -> str | None:
    if found["associations_allowed"] is None:
        return None
    most = f"at most {found['associations_allowed']}"
    return most if found["associations"] is None else f"{found['associations']} at present, {most}"


def _takes(found: Mapping[str, Any]) -> str:
    taken, refused = found["contexts_accepted"], found["contexts_refused"]
    if not taken + refused:
        return "not known yet: `kivuko destination test` finds it out"
    return f"{taken} of {taken + refused} pairs of SOP class and transfer syntax that it was asked for"


def _print_standstills(found: Sequence[Mapping[str, Any]], name: str) -> None:
    rows = [(each["deliveries"], each["state"], each["reason"] or "") for each in found]
    if not rows:
        return
    print_table("Deliveries that are not done", ("number", "state", "because"), rows, empty="")
    out.print(f"`kivuko delivery list --destination {escape(name)}` names them.")
    if any(each["state"] == "failed" for each in found):
        out.print(f"Once the cause is mended: `kivuko delivery retry --destination {escape(name)}`.")


_CONFIRMS = {"commit": "storage commitment", "query": "queries for what it has"}


def _compared(found: Mapping[str, Any]) -> str | None:
    if found["compared_at"] is None:
        return None
    broke = f", broken off: {found['compared_problem']}" if found["compared_problem"] else ""
    return f"{local_time(found['compared_at'])}{broke}"


def _print_comparison(name: str, found: Mapping[str, Any]) -> None:
    rows = [
        ("sent since", local_time(found["since"])),
        ("compared", f"{found['studies']} studies, {instances(found['instances'])}"),
        ("missing there", str(found["missing"]) if found["missing"] else "nothing"),
        ("not told", str(found["unknown"]) if found["unknown"] else None),
        ("broken off", found["problem"]),
        ("not looked at", None if found["whole"] else "there is more: compare again from a later time on"),
    ]
    print_table(f"Comparison with {escape(name)}", ("", ""), [row for row in rows if row[1]], empty="")
    if found["lacking"]:
        lacking = [(each["missing"], each["delivery_id"], each["study_instance_uid"]) for each in found["lacking"]]
        print_table("What it does not have", ("instances", "delivery", "study"), lacking, empty="")
        out.print(f"To send it again: `kivuko delivery retry --missing --destination {escape(name)}`.")


_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


def duration(seconds: float) -> str:
    """Show a duration in the two largest units that say something."""
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min"
    if whole < _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR} h"
