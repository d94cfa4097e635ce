"""`kivuko rule replay`: recorded history against a proposed definition."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from libs.clock import utc_now
from services.cli.client import EXIT_REFUSED, Client, connect
from services.cli.output import Json, err, fail, in_bytes, local_time, out, print_json, print_table
from services.cli.proposal import proposed

REPLAY = "Example: kivuko rule replay --since 30d --with proposed.yaml --html replay.html"
_PATH = "/v1/rules/replays"
_LOOK_S = 0.5
_MOST_SHOWN = 20


def replay(
    *,
    definition: Annotated[Path, typer.Option("--with", metavar="FILE", help="The definition to try, a YAML document.")],
    since: Annotated[
        str, typer.Option(help="How far back, such as 30d; or a date and time, such as 2026-11-01 or 2026-11-01T08:00.")
    ] = "30d",
    until: Annotated[str | None, typer.Option(help="Up to then, written in the same way; now, if left out.")] = None,
    against: Annotated[
        Literal["recorded", "in-force"],
        typer.Option(help="Compare with where the studies went, or with where the rules in force would send them."),
    ] = "recorded",
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Each study that changes, as CSV.")] = None,
    hours: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Bytes by hour and destination, before and after, as CSV.")
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="A page to look at.")] = None,
    json_output: Json = False,
) -> None:
    """Try a definition on the studies of the past: which would go another way, and how much each destination gets.

    Nothing is sent and nothing is changed. It runs beside the routing, which comes first.
    """
    now = utc_now()
    order = {
        "definition": proposed(definition, json_output=json_output).model_dump(mode="json", by_alias=True),
        "since": moment(since, now, json_output=json_output).isoformat(),
        "until": None if until is None else moment(until, now, json_output=json_output).isoformat(),
        "against": against,
    }
    client = connect(json_output=json_output)
    begun = client.post(_PATH, json=order)
    ended = _follow(client, begun["id"], quiet=json_output)
    if ended["state"] != "done":
        fail(
            f"The replay is {ended['state']}{': ' + ended['problem'] if ended['problem'] else ''}.",
            "Try again; with a shorter time, if it took too long.",
            code=EXIT_REFUSED,
            json_output=json_output,
        )
    report = client.get(f"{_PATH}/{begun['id']}/report")
    written = {
        "csv": _write(client, csv, f"{_PATH}/{begun['id']}/changes", json_output=json_output),
        "html": _write(client, html, f"{_PATH}/{begun['id']}/picture", json_output=json_output),
        "hours": _write_hours(hours, report, json_output=json_output),
    }
    if json_output:
        print_json({**ended, "report": report, "files": written})
        return
    _print(report, ended)
    for file in filter(None, written.values()):
        out.print(f"Written: {escape(file)}")


def moment(text: str, now: datetime, *, json_output: bool) -> datetime:
    """Read how far back, or a local date and time."""
    from contracts.quantity import parse_duration  # noqa: PLC0415 - slow, and `--help` does without

    try:
        return now - timedelta(seconds=cast("int", parse_duration(text)))
    except ValueError:
        pass
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC, year=1970)
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        fail(
            f"{text!r} is neither a length of time nor a date.",
            "Write such as 30d, 12h or 2026-11-01.",
            code=2,
            json_output=json_output,
        )


def _follow(client: Client, replay: str, *, quiet: bool) -> dict[str, Any]:
    """Wait until it is over, with a bar; an interruption gives it up."""
    columns = (TextColumn("replay"), BarColumn(), MofNCompleteColumn(), TextColumn("studies"), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=quiet) as bar:
        task = bar.add_task("replay", total=None)
        try:
            while True:
                found: dict[str, Any] = client.get(f"{_PATH}/{replay}")
                bar.update(task, completed=found["studies_done"], total=found["studies_total"] or None)
                if found["state"] != "running":
                    return found
                time.sleep(_LOOK_S)
        except KeyboardInterrupt:
            client.delete(f"{_PATH}/{replay}")
            raise


def _write(client: Client, file: Path | None, path: str, *, json_output: bool) -> str | None:
    if file is None:
        return None
    try:
        with file.open("wb") as opened:
            client.save(path, opened)
    except OSError as error:
        fail(f"{file}: {error.strerror}.", "Name a file that can be written.", code=2, json_output=json_output)
    return str(file)


def _write_hours(file: Path | None, report: Mapping[str, Any], *, json_output: bool) -> str | None:
    if file is None:
        return None
    lines = ["hour,destination,bytes_before,bytes_after"]
    lines += [
        f"{one['hour']},{one['destination']},{one['bytes_before']},{one['bytes_after']}" for one in report["hours"]
    ]
    try:
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        fail(f"{file}: {error.strerror}.", "Name a file that can be written.", code=2, json_output=json_output)
    return str(file)


def _print(report: Mapping[str, Any], ended: Mapping[str, Any]) -> None:
    than = "where they went" if ended["against"] == "recorded" else "where the rules in force would send them"
    out.print(
        f"{report['changed_studies']} of {report['studies']} studies would go another way than {than} "
        f"({local_time(ended['since'])} to {local_time(ended['until'])})."
    )
    if not report["studies"]:
        out.print("Nothing was decided in this time.")
        return
    nowhere = report["nowhere"]
    if nowhere["after"] or nowhere["before"]:
        out.print(f"[yellow]{nowhere['after']} would go nowhere[/]; before it were {nowhere['before']}.")
    print_table(
        "What changes",
        ("studies", "destination", "change", "before", "after", "such as"),
        [
            (one["studies"], one["destination"], one["change"], one["before"], one["after"], one["example"])
            for one in report["changes"][:_MOST_SHOWN]
        ],
        empty="Nothing changes.",
    )
    print_table(
        "Destinations",
        ("destination", "studies", "after", "bytes", "after", "busiest hour", "after"),
        [
            (
                one["destination"],
                one["studies_before"],
                one["studies_after"],
                in_bytes(one["bytes_before"]),
                in_bytes(one["bytes_after"]),
                in_bytes(one["busiest_hour_bytes_before"]),
                in_bytes(one["busiest_hour_bytes_after"]),
            )
            for one in report["destinations"]
        ],
        empty="Nothing goes anywhere.",
    )
    for one in report["conflicts"][:_MOST_SHOWN]:
        rules = " and ".join(f"`{escape(rule)}`" for rule in one["rules"])
        out.print(
            f"[yellow]conflict:[/] {rules} name {escape(one['destination'])} with another {one['about']}, "
            f"in {one['studies']} studies"
        )
    for one in report["problems"][:_MOST_SHOWN]:
        out.print(f"[yellow]problem:[/] {escape(one['problem'])}, in {one['studies']} studies")
    headers = report.get("headers", {})
    if headers.get("read"):
        out.print(f"Of {headers['read']} studies the headers were read for what is not recorded.")
    if headers.get("not_kept"):
        out.print(f"[yellow]headers not kept:[/] of {headers['not_kept']} studies, whose copy is gone")
    if headers.get("too_many"):
        out.print(
            f"[yellow]headers not read:[/] of {headers['too_many']} studies, as that were too many "
            "(KIVUKO_RULES_REPLAY_HEADERS)"
        )
    for one in report["not_recorded"][:_MOST_SHOWN]:
        out.print(f"[yellow]not recorded:[/] {escape(one['attribute'])}, of {one['studies']} studies: taken as absent")
    for name in report["not_replayed"]:
        out.print(f"[yellow]not replayed:[/] {escape(name)}: it is triggered by what comes after the arrival")
