"""`kivuko transform`: see what a transform makes of a file, before anything is sent."""

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.markup import escape

from services.cli.client import EXIT_REFUSED, Client, connect
from services.cli.output import Json, fail, in_bytes, out, print_json, print_table

app = typer.Typer(no_args_is_help=True, help="See what transforms make of files.")
TRY = "Example: kivuko transform try research ~/ct.dcm --out anonymous.dcm"
_HEADERS = {"content-type": "application/dicom"}


@app.command("try", epilog=TRY)
def attempt(
    name: Annotated[str, typer.Argument(help="Key of the transform in the definition in force.")],
    file: Annotated[Path, typer.Argument(help="DICOM file (Part 10), up to 16 MB.")],
    *,
    output: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="New file for what comes out.")] = None,
    tenant: Annotated[str, typer.Option(help="Whose instance it counts as: pseudonyms differ by tenant.")] = "default",
    json_output: Json = False,
) -> None:
    """Show each element that a transform changes, before and after, as if the file had come in. Nothing is sent.

    It is done by the processes that transform what is sent, with the same secrets. Exits 1 if it would not be sent.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        fail(f"{file}: {error.strerror}.", "Name a file that can be read.", code=2, json_output=json_output)
    client = connect(json_output=json_output)
    path = f"/v1/egress/transforms/{quote(name, safe='')}"
    asked: dict[str, Any] = {"content": content, "params": {"tenant": tenant}, "headers": _HEADERS}
    found = client.post(f"{path}/try", **asked)
    if output is not None:
        _write(client, f"{path}/file", asked, output, json_output=json_output)
    if json_output:
        print_json(found | {"file": None if output is None else str(output)})
        return
    rows = [(each["where"], each["name"], each["before"], each["after"]) for each in found["changes"]]
    print_table(
        f"{len(rows)} elements changed", ("element", "name", "before", "after"), rows, empty="Nothing is changed."
    )
    what = f"Transform {name}, version {found['version']}: {in_bytes(found['size'])} in {found['transfer_syntax_uid']}"
    out.print(escape(f"{what}. Nothing was sent." if output is None else f"{what}, in {output}. Nothing was sent."))


def _write(client: Client, path: str, asked: dict[str, Any], output: Path, *, json_output: bool) -> None:
    content = client.download(path, **asked)
    try:
        with output.open("xb") as file:
            file.write(content)
    except OSError as error:
        # What is there may be an original.
        advice = "Name a new file in a folder that you may write to and that has room."
        fail(f"{output}: {error.strerror}.", advice, code=EXIT_REFUSED, json_output=json_output)
