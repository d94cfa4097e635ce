"""`kivuko doctor`: what Kivuko stands on, and how to mend what fails."""

import asyncio
from dataclasses import asdict

import typer
from rich.markup import escape

from services.cli.environment import read_settings
from services.cli.output import Json, out, print_json

EXAMPLE = "Example: KIVUKO_HOME=/srv/kivuko kivuko doctor"

_COLOURS = {"ok": "green", "warning": "yellow", "failed": "bold red"}


def doctor(*, json_output: Json = False) -> None:
    """Check ports, disk, clock, database, broker and object store; say how to mend what fails.

    Exits 0 if nothing failed (warnings allowed), 1 otherwise.
    """
    from services.cli.examination import examine  # noqa: PLC0415 - slow, and no other command needs it

    findings = asyncio.run(examine(read_settings(json_output=json_output)))
    failed = sum(finding.result == "failed" for finding in findings)
    if json_output:
        print_json({"ok": not failed, "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            out.print(
                f"[{_COLOURS[finding.result]}]{finding.result:<8}[/] {finding.check:<13} {escape(finding.detail)}"
            )
            if finding.mend:
                out.print(f"{'':<23}{escape(finding.mend)}")
        out.print("Everything that was checked is in order." if not failed else f"{failed} to mend.")
    raise typer.Exit(1 if failed else 0)
