"""`kivuko send`: files, folders and zip archives to any C-STORE receiver, byte for byte."""

import hashlib
import threading
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Annotated, BinaryIO

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from libs.dicom import part10
from libs.storage.objects import ObjectMissingError
from services.cli.output import Json, err, fail, in_bytes, out, print_json
from services.egress.outcome import Outcome, Verdict
from services.egress.parcel import Parcel
from services.egress.reach import Target
from services.egress.scu import Ending, Scu, Timeouts

_TIMEOUTS = Timeouts(connect=10, acse=30, response=60, network=60)
_MOST_SHOWN = 20


@dataclass(frozen=True)
class Found:
    """What was found to send, and what was left aside."""

    parcels: tuple[Parcel, ...]
    not_dicom: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """What became of everything that was to be sent."""

    sent: int
    warnings: int
    sent_bytes: int
    failures: tuple[tuple[str, str], ...]
    problem: str | None


class Files:
    """Files on disk and members of zip archives, by names such as `/data/a.dcm` and `/data/b.zip|c/d.dcm`."""

    def open(self, key: str, offset: int = 0, length: int | None = None) -> BinaryIO:
        """Read one. Raises ObjectMissingError if it is gone."""
        archive, _, member = key.partition("|")
        try:
            if not member:
                content = Path(archive).read_bytes()
            else:
                with zipfile.ZipFile(archive) as opened:
                    content = opened.read(member)
        except (FileNotFoundError, KeyError) as error:
            raise ObjectMissingError(key) from error
        return BytesIO(content[offset : None if length is None else offset + length])


def send(
    paths: Annotated[list[Path], typer.Argument(help="Files, folders (searched whole) and zip archives.")],
    *,
    to: Annotated[str, typer.Option(help="HOST:PORT of the receiver.")],
    aet: Annotated[str, typer.Option(help="AE title of the receiver.")] = "KIVUKO",
    calling: Annotated[str, typer.Option("--from", help="AE title to call with.")] = "KIVUKO",
    json_output: Json = False,
) -> None:
    """Send DICOM files by C-STORE, each in the transfer syntax that it has.

    Exits 0 only if the receiver said success for every instance.
    """
    host, _, port = to.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:  # noqa: PLR2004  # TCP
        fail(f"{to!r} is not HOST:PORT.", "Write an address such as 127.0.0.1:11112.", code=2, json_output=json_output)
    missing = [path for path in paths if not path.exists()]
    if missing:
        fail(f"{missing[0]}: there is no such file.", "Name files that exist.", code=2, json_output=json_output)
    found = find(paths)
    if not found.parcels:
        fail(
            "There is no DICOM file among these.",
            "DICOM files have the letters DICM at byte 128.",
            code=1,
            json_output=json_output,
        )
    target = Target(host, int(port), aet, calling, 1)
    result = deliver(found.parcels, target, quiet=json_output)
    if json_output:
        print_json(_as_json(found, result))
    else:
        _print(found, result)
    raise typer.Exit(1 if result.failures or result.problem else 0)


def find(paths: Sequence[Path]) -> Found:
    """Look at every file: what is DICOM becomes a parcel, what is not is named."""
    parcels: list[Parcel] = []
    not_dicom: list[str] = []
    files = Files()
    for key in _keys(paths):
        content = files.open(key).read()
        try:
            meta, offset = part10.decode(BytesIO(content))
        except part10.NotPart10Error:
            not_dicom.append(key)
            continue
        parcels.append(
            Parcel(
                item=len(parcels),
                sop_class_uid=meta.sop_class_uid,
                sop_instance_uid=meta.sop_instance_uid,
                transfer_syntax_uid=meta.transfer_syntax_uid,
                content_hash=hashlib.sha256(content[offset:]).hexdigest(),
                object_key=key,
                size=len(content),
            )
        )
    return Found(tuple(parcels), tuple(not_dicom))


def _keys(paths: Sequence[Path]) -> Iterator[str]:
    for path in paths:
        if path.is_dir():
            yield from _keys(sorted(path.iterdir()))
        elif zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield from (f"{path}|{info.filename}" for info in archive.infolist() if not info.is_dir())
        elif path.is_file():
            yield str(path)


def deliver(parcels: Sequence[Parcel], target: Target, *, quiet: bool) -> Result:
    """Send everything, over as many associations as its presentation contexts need, with a progress bar."""
    scu = Scu(Files(), _TIMEOUTS)
    outcomes: dict[int, Outcome] = {}
    ending = Ending("finished")
    columns = (
        TextColumn("sending"), BarColumn(), MofNCompleteColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=err, disable=quiet) as progress:
        in_all = progress.add_task("sending", total=len(parcels))

        def tell(outcome: Outcome) -> None:
            outcomes[outcome.item] = outcome
            progress.update(in_all, completed=len(outcomes))

        waiting = list(parcels)
        while waiting and ending.kind == "finished":
            ending = scu.send(target, waiting, tell, threading.Event())
            left = [parcel for parcel in waiting if parcel.item not in outcomes]
            if len(left) == len(waiting):
                break
            waiting = left
    return _result(parcels, outcomes, ending)


def _result(parcels: Sequence[Parcel], outcomes: dict[int, Outcome], ending: Ending) -> Result:
    good = [p for p in parcels if p.item in outcomes and outcomes[p.item].verdict in {Verdict.SENT, Verdict.WARNING}]
    bad = [p for p in parcels if p not in good]
    return Result(
        sent=len(good),
        warnings=sum(outcomes[p.item].verdict is Verdict.WARNING for p in good),
        sent_bytes=sum(p.size for p in good),
        failures=tuple((p.object_key, outcomes[p.item].reason if p.item in outcomes else "not tried") for p in bad),
        problem=ending.problem,
    )


def _as_json(found: Found, result: Result) -> dict[str, object]:
    return {
        "sent": result.sent,
        "warnings": result.warnings,
        "bytes": result.sent_bytes,
        "failed": [{"file": file, "reason": reason} for file, reason in result.failures],
        "not_dicom": list(found.not_dicom),
        "problem": result.problem,
    }


def _print(found: Found, result: Result) -> None:
    if found.not_dicom:
        out.print(f"{len(found.not_dicom)} files are not DICOM and were left aside.")
    out.print(f"{result.sent} of {len(found.parcels)} sent, {in_bytes(result.sent_bytes)}.")
    if result.warnings:
        out.print(f"[yellow]{result.warnings} were stored with a warning.[/]")
    if result.problem:
        out.print(f"[red]The association ended early:[/] {escape(result.problem)}.")
    for file, reason in result.failures[:_MOST_SHOWN]:
        out.print(f"[red]not sent:[/] {escape(file)}: {escape(reason)}")
    if len(result.failures) > _MOST_SHOWN:
        out.print(f"... and {len(result.failures) - _MOST_SHOWN} more; `--json` lists all.")
