"""`kivuko delivery receipt`, `verify` and `key`: the proof that a delivery arrived."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from services.cli.client import EXIT_REFUSED, EXIT_UNREACHABLE, connect
from services.cli.delivery import Id, path
from services.cli.output import Json, err, fail, out, print_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from services.cli.copies import Copies
    from services.egress.receipt import Receipt
    from services.egress.verification import Finding

RECEIPT = "Example: kivuko delivery receipt 0123456789abcdef0123456789abcdef -o receipt.json"
VERIFY = "Example: kivuko delivery verify receipt.json --key kivuko-receipts.pem --objects /media/study"
KEY = "Example: kivuko delivery key > kivuko-receipts.pem"


def receipt(
    delivery: Id,
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="New file for it; else it is printed.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Export the signed receipt of a delivery that is done, as JSON."""
    document = connect(json_output=json_output).get(f"{path(delivery)}/receipt")
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    if output is None:
        sys.stdout.write(text)
        return
    try:
        _write(output, text)
    except OSError as error:
        # What is there may be the receipt of an earlier version of the study: proof is not written over.
        advice = "Name a new file in a folder that you may write to and that has room."
        fail(f"{output}: {error.strerror}.", advice, code=EXIT_REFUSED, json_output=json_output)
    found = document["receipt"]
    if json_output:
        print_json({"file": str(output), "delivery_id": found["delivery_id"], "instances": len(found["items"])})
        return
    out.print(
        f"{escape(str(output))}: version {found['study_version']} of study {found['study_instance_uid']}, "
        f"{len(found['items'])} instances at {found['destination']}."
    )


def key(*, json_output: Json = False) -> None:
    """Print the public key that receipts are checked with (PEM). Give it to those who are to check them."""
    found = connect(json_output=json_output).get("/v1/egress/receipt-key")
    if json_output:
        print_json(found)
        return
    sys.stdout.write(found["public_key"])
    err.print(f"[dim]Its id: {found['key_id']}[/]")


def verify(
    file: Annotated[Path, typer.Argument(help="The receipt, as `kivuko delivery receipt` exported it.")],
    *,
    keys: Annotated[
        Path | None,
        typer.Option(
            "--key",
            metavar="PEM",
            help="Public keys to trust, as `kivuko delivery key` printed them; with it nothing is asked over the "
            "network. Without it, the Kivuko that the command talks to is asked for its key.",
        ),
    ] = None,
    objects: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Also look for every instance in this folder, byte for byte."),
    ] = None,
    json_output: Json = False,
) -> None:
    """Check a receipt: who signed it, that nobody changed it, and that it says what it should.

    Exits 0 only if everything holds, 1 if anything differs.
    """
    from services.egress.receipt import NotAReceiptError, read  # noqa: PLC0415 - slow, and only needed from here on
    from services.egress.verification import copies, verify  # noqa: PLC0415 - slow, and only needed from here on

    try:
        exported = read(_content(file, json_output=json_output))
    except NotAReceiptError as error:
        advice = "Name a file that `kivuko delivery receipt` wrote. If it is one, it was damaged or changed."
        fail(f"{file} is no receipt: {error}.", advice, code=EXIT_REFUSED, json_output=json_output)
    if objects is not None and not objects.is_dir():
        fail(f"{objects}: there is no such folder.", "Name a folder.", code=2, json_output=json_output)
    findings = verify(exported, _keys(keys, json_output=json_output))
    found = None
    if objects is not None:
        from services.cli.copies import look  # noqa: PLC0415 - slow, and only needed here

        found = look(objects, quiet=json_output)
        findings.append(copies(exported.receipt, found.uids, str(objects)))
    holds = all(finding.holds for finding in findings)
    if json_output:
        print_json(_as_json(file, exported.receipt, findings, found, holds=holds))
    else:
        _print(exported.receipt, findings, found, holds=holds)
    raise typer.Exit(0 if holds else EXIT_REFUSED)


def _write(file: Path, text: str) -> None:
    with file.open("x", encoding="utf-8") as opened:
        try:
            opened.write(text)
            opened.flush()
            os.fsync(opened.fileno())
        except OSError:
            # Half of a receipt is none.
            file.unlink()
            raise


def _content(file: Path, *, json_output: bool) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        fail(f"{file}: {error.strerror}.", "Name a file that can be read.", code=2, json_output=json_output)


def _keys(file: Path | None, *, json_output: bool) -> "dict[str, Ed25519PublicKey]":
    from services.egress.receipt import NotAKeyError, read_keys  # noqa: PLC0415 - slow

    if file is not None:
        try:
            return read_keys(_content(file, json_output=json_output))
        except NotAKeyError as error:
            advice = "Ask those who signed it for their key: `kivuko delivery key` prints it."
            fail(f"{file}: {error}.", advice, code=2, json_output=json_output)
    return read_keys(_asked(json_output=json_output).encode("ascii"))


def _asked(*, json_output: bool) -> str:
    try:
        pem: str = connect(json_output=json_output).get("/v1/egress/receipt-key")["public_key"]
    except typer.Exit as ended:
        if ended.exit_code == EXIT_UNREACHABLE and not json_output:
            err.print("  Or name the public key yourself, with --key: then nothing is asked.")
        raise
    return pem


def _as_json(
    file: Path, found: "Receipt", findings: "list[Finding]", copies: "Copies | None", *, holds: bool
) -> dict[str, Any]:
    document: dict[str, Any] = {
        "file": str(file),
        "holds": holds,
        **found.model_dump(mode="json", include={"delivery_id", "study_instance_uid", "study_version", "destination"}),
        "instances": len(found.items),
        "checks": [
            {
                "check": each.check,
                "holds": each.holds,
                "detail": each.detail if each.holds else None,
                "problems": list(each.problems),
            }
            for each in findings
        ],
    }
    if copies is not None:
        document["unreadable"] = [{"file": name, "reason": reason} for name, reason in copies.unreadable]
    return document


def _print(found: "Receipt", findings: "list[Finding]", copies: "Copies | None", *, holds: bool) -> None:
    out.print(
        f"Version {found.study_version} of study {found.study_instance_uid}, delivered to {found.destination} "
        f"by {found.region}."
    )
    for each in findings:
        sign = "[green]holds  [/]" if each.holds else "[bold red]differs[/]"
        lines = [each.detail] if each.holds else list(each.problems)
        for line in lines:
            out.print(f"{sign}  {each.check:<10} {escape(line)}")
    if copies is not None:
        for name, reason in copies.unreadable:
            err.print(f"[yellow]not read:[/] {escape(name)}: {escape(reason)}")
        if copies.foreign:
            out.print(f"[dim]Files there that are not DICOM: {copies.foreign}.[/]")
    if holds:
        out.print("[green]The receipt holds.[/]")
    else:
        out.print("[bold red]The receipt does not hold.[/] Trust nothing of it before the cause is known.")
