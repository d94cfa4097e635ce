"""`kivuko rule test`: what the rules would do with files. Nothing is sent, and no file leaves this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from services.cli.client import EXIT_REFUSED
from services.cli.output import Json, err, fail, out, print_json
from services.cli.proposal import live, proposed
from services.cli.rule import print_routes, print_rules

if TYPE_CHECKING:
    from contracts.definition import Definition

TEST = "Example: kivuko rule test exam/*.dcm --with proposed.yaml --from CT1 --at 2026-11-20T22:00"


def try_files(
    paths: Annotated[list[Path], typer.Argument(help="Files, and folders that are searched whole.")],
    *,
    definition: Annotated[
        Path | None, typer.Option("--with", metavar="FILE", help="A definition to try; the one in force, if left out.")
    ] = None,
    node: Annotated[
        str | None, typer.Option("--from", metavar="NODE", help="Node of the definition that sends them.")
    ] = None,
    at: Annotated[str | None, typer.Option(help="When, such as 2026-11-20T10:00; now, if left out.")] = None,
    json_output: Json = False,
) -> None:
    """Try rules on files: where each study would go, how, and why. Nothing is sent, nothing is changed.

    Series and studies are put together from the headers as the service does it. Exits 1 if a file can't be read.
    """
    from services.cli.specimen import NotSentError, outcomes, specimens  # noqa: PLC0415 - slow, and only needed here

    under = live(json_output=json_output) if definition is None else proposed(definition, json_output=json_output)
    missing = [path for path in paths if not path.exists()]
    if missing:
        fail(f"{missing[0]}: there is no such file.", "Name files that exist.", code=2, json_output=json_output)
    found, unreadable = specimens(paths, under)
    if not found:
        reason = f": {unreadable[0][0]}: {unreadable[0][1]}." if unreadable else "."
        advice = "DICOM files have the letters DICM at byte 128."
        fail(f"There is no DICOM instance among these{reason}", advice, code=EXIT_REFUSED, json_output=json_output)
    try:
        tried = outcomes(found, under, node, at)
    except NotSentError as error:
        fail(f"{error}.", _nodes(under), code=2, json_output=json_output)
    if json_output:
        print_json({"studies": tried, "unreadable": [{"file": file, "reason": why} for file, why in unreadable]})
    else:
        for study in tried:
            _print(study)
        for file, why in unreadable:
            err.print(f"[red]not read:[/] {escape(file)}: {escape(why)}")
    if unreadable:
        raise typer.Exit(EXIT_REFUSED)


def _nodes(definition: "Definition") -> str:
    names = [key for key, node in definition.nodes.items() if not node.retired]
    return f"Say which node sends them, with --from and one of {', '.join(names[:10])}."


def _print(study: dict[str, Any]) -> None:
    out.print(
        f"Study {study['study_instance_uid']}: {study['instances']} instances from {escape(study['source']['node'])} "
        f"at {escape(study['source']['site'])}"
    )
    print_rules(study["rules"])
    print_routes(study["routes"])
    for problem in study["problems"]:
        out.print(f"[yellow]{escape(problem)}[/]")
