"""`kivuko worklist map`, `messages`, `read-again`: what a mapping makes of an HL7 message, and what came over HL7."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from services.cli.client import EXIT_REFUSED, connect
from services.cli.output import Json, fail, in_bytes, local_time, out, print_json, print_table

MAP = "Example: kivuko worklist map order.hl7 --source RIS"
MESSAGES = "Example: kivuko worklist messages --answer AE"
READ_AGAIN = "Example: kivuko worklist read-again 17 18"
_PATH = "/v1/worklist"
_HEADERS = {"content-type": "application/octet-stream"}

Source = Annotated[str | None, typer.Option(help="Node that it counts as from; the only one that sends HL7.")]


def map_message(
    message: Annotated[Path, typer.Argument(help="File with an HL7 message, with or without its MLLP frame.")],
    *,
    source: Source = None,
    json_output: Json = False,
) -> None:
    """Show what the mapping in force makes of a message: each field's value, origin and target. Nothing is kept.

    Exits 1 if the message would be refused.
    """
    try:
        content = message.read_bytes()
    except OSError as error:
        fail(f"{message}: {error.strerror}.", "Name a file that can be read.", code=2, json_output=json_output)
    client = connect(json_output=json_output)
    params = {} if source is None else {"source": source}
    found = client.post(f"{_PATH}/map", content=content, params=params, headers=_HEADERS)
    if json_output:
        print_json(found)
    else:
        for each in found:
            _show(each)
    if any(each["answer"] != "AA" for each in found):
        raise typer.Exit(EXIT_REFUSED)


def messages(
    number: Annotated[int | None, typer.Argument(metavar="ID", help="Show this one as it came.")] = None,
    *,
    source: Annotated[str | None, typer.Option(help="Of this node only.")] = None,
    answer: Annotated[str | None, typer.Option(help="With this answer only: AA or AE.")] = None,
    control_id: Annotated[str | None, typer.Option(help="With this message control id (MSH-10) only.")] = None,
    warned: Annotated[bool, typer.Option("--warned", help="Only those of which something was cut or lost.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many, the latest first.")] = 50,
    json_output: Json = False,
) -> None:
    """List the messages that came, the latest first: how each was answered, and what of it was cut or lost."""
    client = connect(json_output=json_output)
    if number is not None:
        shown = client.get(f"{_PATH}/messages/{number}")
        if json_output:
            print_json(shown)
            return
        _told(shown)
        if shown["removed"]:
            out.print(f"Its text ({in_bytes(shown['size'])}) was removed: it is older than such are kept.")
            return
        out.print(escape(shown["text"].replace("\r\n", "\n").replace("\r", "\n")))
        return
    asked = {"source": source, "answer": answer, "control_id": control_id, "limit": limit, "warned": warned or None}
    found = client.get(f"{_PATH}/messages", **asked)
    if json_output:
        print_json(found)
        return
    rows = [
        (
            each["id"],
            local_time(each["received_at"]),
            each["source"],
            each["control_id"],
            each["answer"],
            in_bytes(each["size"]),
            "\n".join([*filter(None, [each["said"]]), *each["warnings"]]),
        )
        for each in found["messages"]
    ]
    columns = ("id", "received", "from", "control id", "answer", "size", "why, and warnings")
    print_table("Messages", columns, rows, empty="No message fits.")
    if found["before"]:
        out.print(f"The latest {len(rows)}; filters or --limit show others.")


def read_again(
    numbers: Annotated[list[int], typer.Argument(metavar="ID...", help="As `kivuko worklist messages` lists them.")],
    *,
    json_output: Json = False,
) -> None:
    """Read messages anew that could not be read when they came, once their mapping is mended.

    They count by their own time, so that what was said since stays. Their senders hear nothing of it.
    """
    client = connect(json_output=json_output)
    done = []
    for number in numbers:
        found = client.post(f"{_PATH}/messages/{number}/read-again")
        done.append({"id": number, **found})
        if not json_output:
            why = f": {'; '.join(found['faults'])}" if found["faults"] else ""
            out.print(f"{number}: {'taken' if found['answer'] == 'AA' else 'refused again'}{escape(why)}")
    if json_output:
        print_json({"messages": done})
    if any(each["answer"] != "AA" for each in done):
        raise typer.Exit(EXIT_REFUSED)


def _show(found: dict[str, Any]) -> None:
    rows = []
    for field in found["fields"]:
        value = "[lost]" if field["value"] is None else _text(field["value"]) or "(empty)"
        rows.append((field["about"], value, field["origin"], f"{field['tag']} {field['keyword']}"))
    title = f"{found['type'] or 'No message'} {found['control_id']} of {found['source']}, mapping {found['mapping']}"
    print_table(title, ("about", "value", "origin", "target"), rows, empty="It gives no attribute a value.")
    for action in found["actions"]:
        out.print(escape(f"It would {action}."))
    for warning in found["warnings"]:
        out.print(f"[yellow]warning:[/] {escape(warning)}")
    for fault in found["faults"]:
        out.print(f"[bold red]refused:[/] {escape(fault)}")
    out.print(f"It would be answered {found['answer']}. Nothing was kept.")


def _told(shown: dict[str, Any]) -> None:
    received = local_time(shown["received_at"])
    out.print(
        escape(f"{shown['control_id']} from {shown['source']}, {received}: {shown['answer']} {shown['said']}".rstrip())
    )
    for warning in shown["warnings"]:
        out.print(f"[yellow]warning:[/] {escape(warning)}")


def _text(value: list[Any]) -> str:
    """Write values on one line; items of sequences in braces."""
    return "\\".join(
        "{" + ", ".join(f"{keyword}={_text(inner)}" for keyword, inner in each.items()) + "}"
        if isinstance(each, dict)
        else str(each)
        for each in value
    )
