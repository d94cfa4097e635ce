"""`kivuko demo`: a whole Kivuko, a receiving node and real DICOM files, to see a study find its way."""

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.output import Json, fail, out, print_json, print_table
from services.cli.study import print_timeline

if TYPE_CHECKING:
    from services.cli.demonstration import Shown

EXAMPLE = "Example: kivuko demo --keep"

#: What shells report of a program that ended by SIGTERM.
_TERMINATED = 128 + signal.SIGTERM


def demo(
    *,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the folder of the demonstration.")] = False,
    json_output: Json = False,
) -> None:
    """Start Kivuko and a receiving node, send real DICOM files over the wire, and show what became of them.

    Exits 0 only if every instance arrived identical. Needs no set-up, and leaves nothing behind.
    """
    from services.cli.demonstration import FailedError, kivuko, show  # noqa: PLC0415 - slow, needed by no other command
    from services.cli.receiver import Receiver  # noqa: PLC0415 - slow, needed by no other command

    # Told to end, it must not leave its Kivuko behind: this way all blocks are left in order.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    folder = Path(tempfile.mkdtemp(prefix="kivuko-demo-"))
    try:
        with Receiver(("ARCHIVE", "READER")) as receiver:
            _say("Starting Kivuko ...", quiet=json_output)
            with kivuko(folder, receiver) as addresses:
                _say(
                    f"Kivuko listens on {addresses['dicom']}, a receiving node on {receiver.address}.",
                    quiet=json_output,
                )
                _say("Sending real DICOM files, as a scanner would:", quiet=json_output)
                shown = show(addresses, receiver, quiet=json_output)
    except FailedError as error:
        fail(error.what, error.mend, code=1, json_output=json_output)
    finally:
        if keep:
            _say(f"Everything is kept in {folder}.", quiet=json_output)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    if json_output:
        deliveries = [vars(journey) for journey in shown.journeys]
        print_json({"identical": True, "deliveries": deliveries, "timeline": shown.timeline})
        return
    _print(shown)


def _say(text: str, *, quiet: bool) -> None:
    if not quiet:
        out.print(text, markup=False)


def _print(shown: "Shown") -> None:
    rows = [
        (journey.study, journey.instances, journey.rule, journey.destination, f"{journey.seconds:.1f} s")
        for journey in shown.journeys
    ]
    print_table(
        "\nWhat became of the studies",
        ("study", "instances", "rule", "destination", "time to delivery"),
        rows,
        empty="Nothing was delivered.",
    )
    out.print("\nThe timeline of one of them (`kivuko study trace UID`):")
    print_timeline(shown.timeline)
    count = sum(journey.instances for journey in shown.journeys)
    out.print(f"\n[green]All {count} deliveries of instances arrived identical, byte for byte.[/]")
    out.print(_NEXT.format(kivuko=_called()), markup=False)


def _called() -> str:
    """Say how this command was called, so that the next ones can be copied."""
    return "kivuko" if shutil.which("kivuko") else os.path.relpath(sys.argv[0])


_NEXT = """
What to try next:
  {kivuko} up --config docs/examples/clinic.yaml
      runs it, with the smallest useful network; then, in a second terminal:
  {kivuko} send FILE... --to 127.0.0.1:11112 --from CT1
  {kivuko} study list
The README has the five-minute path to a rule of your own."""
