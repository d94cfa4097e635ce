"""`kivuko dead`: events that no handler could take, and their replay."""

from typing import Annotated, Any

import typer

from contracts.topics import SERVICES
from services.cli.client import Client, connect
from services.cli.output import Json, fail, local_time, out, print_json, print_table

app = typer.Typer(
    help="List, show and replay dead letters: events that a service could not handle.", no_args_is_help=True
)

#: Services that take events, and so can have dead letters.
_WITH_DEAD_LETTERS = tuple(name for name in SERVICES if name in {"ingest", "rules", "egress", "audit", "network"})
Id = Annotated[str, typer.Argument(help="SERVICE/NUMBER, as `kivuko dead list` shows it.")]


@app.command("list")
def list_dead(
    *,
    everything: Annotated[bool, typer.Option("--all", help="Those that were replayed, too.")] = False,
    json_output: Json = False,
) -> None:
    """List dead letters, the latest first."""
    found = _all(connect(json_output=json_output))
    if not everything:
        found = [letter for letter in found if letter.get("replayed_at") is None]
    if json_output:
        print_json({"dead_letters": found})
        return
    rows = [
        (
            letter["key"],
            local_time(letter["died_at"]),
            letter["type"],
            letter["subject"],
            letter["attempts"],
            letter["reason"],
        )
        for letter in found
    ]
    print_table(
        "Dead letters",
        ("id", "since", "event", "subject", "attempts", "reason"),
        rows,
        empty="No dead letters: every event was handled.",
    )


@app.command()
def show(key: Id, *, json_output: Json = False) -> None:
    """Show one dead letter with its reason and its event."""
    service, number = _split(key, json_output=json_output)
    print_json(connect(json_output=json_output).get(f"/v1/{service}/dead-letters/{number}"))


@app.command()
def replay(
    keys: Annotated[list[str] | None, typer.Argument(help="SERVICE/NUMBER, one or more.")] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="All that were not replayed yet.")] = False,
    json_output: Json = False,
) -> None:
    """Hand dead letters to their service once more, after the cause is mended."""
    client = connect(json_output=json_output)
    if everything:
        keys = [letter["key"] for letter in _all(client) if letter.get("replayed_at") is None]
    if not keys and not everything:
        fail(
            "Name at least one dead letter, or --all.",
            "`kivuko dead list` shows them.",
            code=2,
            json_output=json_output,
        )
    by_service: dict[str, list[int]] = {}
    for key in keys or ():
        service, number = _split(key, json_output=json_output)
        by_service.setdefault(service, []).append(number)
    count = sum(
        client.post(f"/v1/{service}/dead-letters/replay", json={"ids": ids})["replayed"]
        for service, ids in by_service.items()
    )
    if json_output:
        print_json({"replayed": count})
        return
    out.print(f"{count} handed over once more. `kivuko dead list` shows any that come back.")


def _all(client: Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for service in _WITH_DEAD_LETTERS:
        letters = client.get(f"/v1/{service}/dead-letters", limit=200)["dead_letters"]
        found += [letter | {"key": f"{service}/{letter['id']}"} for letter in letters]
    return sorted(found, key=lambda letter: str(letter["died_at"]), reverse=True)


def _split(key: str, *, json_output: bool) -> tuple[str, int]:
    service, _, number = key.partition("/")
    if service not in _WITH_DEAD_LETTERS or not number.isdigit():
        fail(
            f"{key!r} names no dead letter.", "Write SERVICE/NUMBER, such as rules/3.", code=2, json_output=json_output
        )
    return service, int(number)
