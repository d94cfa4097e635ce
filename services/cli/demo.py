"""`kivuko demo`: a whole Kivuko, a receiving node and real DICOM files, to see a study find its way."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import httpx
import pydicom.data
import typer
from rich.markup import escape

from services.cli.output import Json, err, fail, out, print_json, print_table
from services.cli.receiver import Receiver
from services.cli.send import deliver, find
from services.cli.study import print_timeline
from services.egress.reach import Target

#: Files that come with pydicom: several modalities, transfer syntaxes and character sets.
_FILES = (
    "CT_small.dcm",
    "693_J2KI.dcm",
    "J2K_pixelrep_mismatch.dcm",
    "MR_small.dcm",
    "examples_overlay.dcm",
    "examples_palette.dcm",
    "examples_ybr_color.dcm",
    "examples_jpeg2k.dcm",
    "ExplVR_BigEnd.dcm",
    "liver_1frame.dcm",
    "rtdose_rle.dcm",
    "test-SR.dcm",
    "waveform_ecg.dcm",
)
_START_S = 90
_DELIVERY_S = 120


@dataclass(frozen=True)
class Journey:
    """What became of one study at one destination."""

    study: str
    instances: int
    rule: str
    destination: str
    seconds: float


def demo(
    *,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the folder of the demonstration.")] = False,
    json_output: Json = False,
) -> None:
    """Start Kivuko and a receiving node, send real DICOM files over the wire, and show what became of them.

    Exits 0 only if every instance arrived identical.
    """
    home = Path(tempfile.mkdtemp(prefix="kivuko-demo-"))
    try:
        with Receiver(("ARCHIVE", "READER")) as receiver, _kivuko(home, receiver) as addresses:
            _say(json_output, f"Kivuko runs ({addresses['dicom']}), and a receiving node ({receiver.address}).")
            journeys, timeline = _send_and_follow(home, addresses, receiver, json_output=json_output)
    finally:
        if keep:
            _say(json_output, f"Everything is kept in {home}.")
        else:
            shutil.rmtree(home, ignore_errors=True)
    if json_output:
        print_json({"identical": True, "deliveries": [vars(journey) for journey in journeys], "timeline": timeline})
        return
    _show(journeys, timeline)


def _say(json_output: bool, text: str) -> None:
    if not json_output:
        out.print(text)


def _definition(receiver: Receiver) -> str:
    """Write the demonstration's network: one clinic, one scanner, an archive for all and a reader for CT."""
    node = {"site": "clinic", "host": "127.0.0.1", "port": receiver.port}
    return json.dumps(
        {
            "kivuko": 1,
            "name": "Demonstration",
            "sites": {"clinic": {"name": "Clinic"}},
            "nodes": {
                "SCANNER": {"site": "clinic", "host": "127.0.0.1", "may": ["store"]},
                "ARCHIVE": node,
                "READER": node,
            },
            "destinations": {"archive": {"node": "ARCHIVE"}, "reader": {"node": "READER"}},
            "rules": [
                {"name": "everything to the archive", "trigger": "instance", "deliver": "archive"},
                {
                    "name": "CT is read at once",
                    "trigger": "study",
                    "when": 'study.Modality == "CT"',
                    "deliver": "reader",
                    "priority": "stat",
                },
            ],
        },
        indent=2,
    )


@contextmanager
def _kivuko(home: Path, receiver: Receiver) -> Iterator[dict[str, str]]:
    """Run `kivuko up` on free ports until the block ends; gives its addresses."""
    config = home / "network.yaml"
    config.write_text(_definition(receiver))
    environment = os.environ | {
        "KIVUKO_HOME": str(home / "data"),
        "KIVUKO_DICOM_PORT": "0",
        "KIVUKO_HTTP_PORT": "0",
        "KIVUKO_INGEST_QUIET_SECONDS": "2",
    }
    with (home / "kivuko.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.cli", "up", "--config", str(config)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        yield _ready(process, home / "kivuko.log")
    finally:
        process.terminate()
        process.wait()


def _ready(process: subprocess.Popen[str], log: Path) -> dict[str, str]:
    timer = threading.Timer(_START_S, process.kill)
    timer.start()
    try:
        for line in process.stdout or ():
            if line.startswith("ready"):
                return dict(word.split("=", 1) for word in line.split()[1:])
    finally:
        timer.cancel()
    last = log.read_text(errors="replace").splitlines()[-5:]
    fail("Kivuko did not start:\n  " + "\n  ".join(last), "Run `kivuko doctor`.", code=1, json_output=False)


def _send_and_follow(
    home: Path, addresses: dict[str, str], receiver: Receiver, *, json_output: bool
) -> tuple[list[Journey], list[dict[str, Any]]]:
    folder = Path(pydicom.data.__file__).parent / "test_files"
    found = find([folder / name for name in _FILES])
    host, _, port = addresses["dicom"].rpartition(":")
    _say(json_output, f"Sending {len(found.parcels)} real DICOM files, as a scanner would:")
    result = deliver(found.parcels, Target(host, int(port), "KIVUKO", "SCANNER", 1), quiet=json_output)
    if result.failures or result.problem:
        fail(f"{len(result.failures)} files were not taken: {result.problem}", "", code=1, json_output=json_output)
    wanted = {parcel.sop_instance_uid: parcel.content_hash for parcel in found.parcels}
    transport = httpx.HTTPTransport(uds=str(home / "data" / "kivuko.sock"))
    with httpx.Client(base_url="http://kivuko", transport=transport, timeout=30) as http:
        studies = _follow(http, receiver, wanted, json_output=json_output)
    journeys = [journey for uid, entries in studies.items() for journey in _journeys(uid, entries)]
    shown = next((journey.study for journey in journeys if journey.destination == "reader"), next(iter(studies)))
    return journeys, studies[shown]


def _follow(
    http: httpx.Client, receiver: Receiver, wanted: dict[str, str], *, json_output: bool
) -> dict[str, list[dict[str, Any]]]:
    """Wait until every delivery is done, and compare every instance with what was sent."""
    deadline = time.monotonic() + _DELIVERY_S
    with err.status("waiting until each study is complete and delivered ...") if not json_output else _nothing():
        while time.monotonic() < deadline:
            studies = http.get("/v1/ingest/studies", params={"limit": 500}).raise_for_status().json()["studies"]
            timelines = {
                study["study_instance_uid"]: http.get(f"/v1/audit/studies/{study['study_instance_uid']}/timeline")
                .raise_for_status()
                .json()["entries"]
                for study in studies
            }
            if timelines and all(_finished(entries) for entries in timelines.values()):
                break
            time.sleep(0.25)
        else:
            fail(
                f"Not everything was delivered within {_DELIVERY_S} s.",
                "Run it again with --keep, and look at kivuko.log in the folder.",
                code=1,
                json_output=json_output,
            )
    _compare(wanted, receiver.hashes("ARCHIVE"), "archive", all_of_it=True, json_output=json_output)
    _compare(wanted, receiver.hashes("READER"), "reader", all_of_it=False, json_output=json_output)
    return timelines


def _compare(
    wanted: dict[str, str], arrived: dict[str, str], where: str, *, all_of_it: bool, json_output: bool
) -> None:
    missing = [uid for uid in wanted if uid not in arrived] if all_of_it else []
    changed = [uid for uid, digest in arrived.items() if wanted.get(uid) != digest]
    if missing or changed or not arrived:
        fail(
            f"At the {where} {len(missing)} instances are missing and {len(changed)} are not what was sent: "
            f"{', '.join([*missing, *changed][:5])}.",
            "This is a defect: please report it, with what --keep keeps.",
            code=1,
            json_output=json_output,
        )


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _finished(entries: list[dict[str, Any]]) -> bool:
    types = [entry["event"] for entry in entries]
    if "study.completed.v1" not in types:
        return False
    asked = {e["details"]["destination"] for e in entries if e["event"] == "delivery.requested.v1"}
    done = {e["details"]["destination"] for e in entries if e["event"] == "delivery.completed.v1"}
    study_decided = any(e["event"] == "routing.decided.v1" and e["details"]["trigger"] == "study" for e in entries)
    return study_decided and asked == done


def _journeys(uid: str, entries: list[dict[str, Any]]) -> list[Journey]:
    rules: dict[str, list[str]] = {}
    for entry in entries:
        if entry["event"] == "delivery.requested.v1":
            known = rules.setdefault(entry["details"]["destination"], [])
            known += [rule for rule in entry["details"]["rules"] if rule not in known]
    completed = [entry for entry in entries if entry["event"] == "delivery.completed.v1"]
    return [
        Journey(
            study=uid,
            instances=entry["details"]["instance_count"],
            rule=", ".join(rules[entry["details"]["destination"]]),
            destination=entry["details"]["destination"],
            seconds=_seconds(entries, entry["details"]),
        )
        for entry in completed
    ]


def _seconds(entries: list[dict[str, Any]], completed: dict[str, Any]) -> float:
    arrived = min(datetime.fromisoformat(entry["time"]) for entry in entries)
    return (datetime.fromisoformat(completed["completed_at"]) - arrived).total_seconds()


def _show(journeys: list[Journey], timeline: list[dict[str, Any]]) -> None:
    rows = [
        (journey.study, journey.instances, journey.rule, journey.destination, f"{journey.seconds:.1f} s")
        for journey in journeys
    ]
    print_table(
        "\nWhat became of the studies",
        ("study", "instances", "rule", "destination", "time to delivery"),
        rows,
        empty="Nothing was delivered.",
    )
    out.print("\nThe timeline of one of them (`kivuko study trace UID`):")
    print_timeline(timeline)
    count = sum(journey.instances for journey in journeys)
    out.print(f"\n[green]All {count} deliveries of instances arrived identical, byte for byte.[/]")
    out.print(escape(_NEXT))


_NEXT = """
What to try next:
  kivuko up --config docs/examples/clinic.yaml      run it, with the smallest useful network
  kivuko network show                               read the network definition that is in force
  kivuko send FILE... --to 127.0.0.1:11112          send files of your own
  kivuko study list                                 see them arrive
The README has the five-minute path to a rule of your own."""
