"""`kivuko dead`: events that no handler could take, and their replay."""

from typing import Annotated, Any

import typer

from services.cli.client import Client, connect
from services.cli.output import Json, fail, local_time, out, print_json, print_table

app = typer.Typer(
    help="List, show and replay dead letters: events that a service could not handle.", no_args_is_help=True
)

_LIST = "Example: kivuko dead list"
_SHOW = "Example: kivuko dead show rules/3"
_REPLAY = "Example: kivuko dead replay rules/3 rules/4"
_PATH = "/v1/{}/dead-letters"
_PAGE = 1000

Id = Annotated[str, typer.Argument(help="SERVICE/NUMBER, as `kivuko dead list` shows it.")]


@app.command("list", epilog=_LIST)
def list_dead(
    *,
    everything: Annotated[bool, typer.Option("--all", help="Those that were replayed, too.")] = False,
    json_output: Json = False,
) -> None:
    """List dead letters, the latest first, of all services that run where the command asks."""
    found = _all(connect(json_output=json_output))
    if not everything:
        found = [letter for letter in found if letter["replayed_at"] is None]
    if json_output:
        print_json({"dead_letters": found})
        return
    rows = [
        (
            letter["key"],
            local_time(letter["died_at"]),
            letter["type"] or "not readable",
            letter["subject"],
            letter["attempts"],
            letter["reason"] + (f" (replayed {local_time(letter['replayed_at'])})" if letter["replayed_at"] else ""),
        )
        for letter in found
    ]
    print_table(
        "Dead letters",
        ("id", "since", "event", "subject", "attempts", "reason"),
        rows,
        empty="No dead letters: every event was handled.",
    )


@app.command(epilog=_SHOW)
def show(key: Id, *, json_output: Json = False) -> None:
    """Show one dead letter with its reason and its message, which may hold personal data."""
    service, number = _split(key, json_output=json_output)
    print_json(connect(json_output=json_output).get(f"{_PATH.format(service)}/{number}"))


@app.command(epilog=_REPLAY)
def replay(
    keys: Annotated[list[str] | None, typer.Argument(help="SERVICE/NUMBER, one or more.")] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="All that were not replayed yet.")] = False,
    json_output: Json = False,
) -> None:
    """Hand dead letters to their service once more, after the cause is mended."""
    if bool(keys) == everything:
        fail(
            "Name the dead letters to replay, or --all of them, not both.",
            "`kivuko dead list` shows them.",
            code=2,
            json_output=json_output,
        )
    client = connect(json_output=json_output)
    if everything:
        keys = [letter["key"] for letter in _all(client) if letter["replayed_at"] is None]
    by_service: dict[str, list[int]] = {}
    for key in keys or ():
        service, number = _split(key, json_output=json_output)
        by_service.setdefault(service, []).append(number)
    count = sum(
        client.post(f"{_PATH.format(service)}/replay", json={"ids": ids[start : start + _PAGE]})["replayed"]
        for service, ids in by_service.items()
        for start in range(0, len(ids), _PAGE)
    )
    if json_output:
        print_json({"replayed": count})
        return
    out.print(f"{count} handed over once more. `kivuko dead list` shows any that come back.")


def _all(client: Client) -> list[dict[str, Any]]:
    # In a cluster a process answers for the services that run in it; its interface says which.
    paths = client.get("/openapi.json")["paths"]
    services = [
        path.split("/")[2] for path in paths if path.count("/") == _PATH.count("/") and path.endswith("/dead-letters")
    ]
    found: list[dict[str, Any]] = []
    for service in services:
        before = None
        while True:
            page = client.get(_PATH.format(service), limit=_PAGE, before=before)
            found += [letter | {"key": f"{service}/{letter['id']}"} for letter in page["dead_letters"]]
            before = page["before"]
            if before is None:
                break
    return sorted(found, key=lambda letter: str(letter["died_at"]), reverse=True)


def _split(key: str, *, json_output: bool) -> tuple[str, int]:
    from contracts.topics import SERVICES  # noqa: PLC0415 - slow, and `--help` does without

    service, _, number = key.partition("/")
    if service not in SERVICES or not number.isdecimal():
        fail(
            f"{key!r} names no dead letter.", "Write SERVICE/NUMBER, such as rules/3.", code=2, json_output=json_output
        )
    return service, int(number)
