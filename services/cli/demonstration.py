"""The demonstration: `kivuko up` with a network of its own, a receiving node, and real DICOM files between them."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pydicom.data

from services.cli.journey import Entry, Journey, finished, journeys
from services.cli.output import err
from services.cli.receiver import Receiver
from services.cli.transfer import Files, deliver, find
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
_KEEP = "Run it again with --keep, and look at kivuko.log in the folder."


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


class FailedError(Exception):
    """The demonstration did not do what it should.

    Parameters
    ----------
    what
        What happened.
    mend
        What to do next.
    """

    def __init__(self, what: str, mend: str) -> None:
        super().__init__(what)
        self.what = what
        self.mend = mend


@dataclass(frozen=True)
class Shown:
    """What the demonstration has to show: what became of each study, and the timeline of one of them."""

    journeys: tuple[Journey, ...]
    timeline: list[Entry]


@contextmanager
def kivuko(folder: Path, receiver: Receiver) -> Iterator[dict[str, str]]:
    """Run `kivuko up` on free ports until the block ends; gives its addresses. Raises FailedError."""
    config, log = folder / "network.yaml", folder / "kivuko.log"
    config.write_text(_definition(receiver))
    # What the person has set for a Kivuko of their own must not reach this one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("KIVUKO_", "OTEL_"))}
    environment |= {
        "KIVUKO_HOME": str(folder / "data"),
        "KIVUKO_DICOM_PORT": "0",
        "KIVUKO_HTTP_PORT": "0",
        "KIVUKO_INGEST_QUIET_SECONDS": "2",
    }
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.cli", "up", "--config", str(config)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        yield _ready(process, log)
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
    raise FailedError("\n  ".join(["Kivuko did not start:", *last]), "Run `kivuko doctor`.")


def show(addresses: dict[str, str], receiver: Receiver, *, quiet: bool) -> Shown:
    """Send the files, wait until all are delivered, compare what arrived. Raises FailedError."""
    wanted = _send(addresses["dicom"], quiet=quiet)
    transport = httpx.HTTPTransport(uds=addresses["socket"])
    with httpx.Client(base_url="http://kivuko", transport=transport, timeout=30) as http:
        timelines = _follow(http, quiet=quiet)
    found = [journey for uid, entries in timelines.items() for journey in journeys(uid, entries)]
    _compare(wanted, receiver.hashes("ARCHIVE"), "archive", len(wanted))
    read = sum(journey.instances for journey in found if journey.destination == "reader")
    _compare(wanted, receiver.hashes("READER"), "reader", read)
    one = next((journey.study for journey in found if journey.destination == "reader"), found[0].study)
    return Shown(tuple(found), timelines[one])


def _send(address: str, *, quiet: bool) -> dict[str, str]:
    """Send; give the hash of each dataset by SOP Instance UID."""
    folder = Path(pydicom.data.__file__).parent / "test_files"
    host, _, port = address.rpartition(":")
    with closing(Files()) as files:
        found = find([folder / name for name in _FILES], files)
        result = deliver(found.parcels, Target(host, int(port), "KIVUKO", "SCANNER", 1), files, quiet=quiet)
    lacking = [*found.aside, *found.unreadable, *result.failures]
    if lacking or result.ending.problem:
        why = result.ending.problem or f"{lacking[0][0]}: {lacking[0][1]}"
        raise FailedError(f"{len(lacking)} files were not taken: {why}", _KEEP)
    return {parcel.sop_instance_uid: parcel.content_hash for parcel in found.parcels}


def _follow(http: httpx.Client, *, quiet: bool) -> dict[str, list[Entry]]:
    """Wait until every delivery is done; give the timelines by Study Instance UID."""
    deadline = time.monotonic() + _DELIVERY_S
    with err.status("waiting until each study is complete and delivered ...") as status:
        if quiet:
            status.stop()
        while time.monotonic() < deadline:
            studies = http.get("/v1/ingest/studies", params={"limit": 500}).raise_for_status().json()["studies"]
            uids = [study["study_instance_uid"] for study in studies]
            timelines = {uid: _timeline(http, uid) for uid in uids}
            if timelines and all(finished(entries) for entries in timelines.values()):
                return timelines
            time.sleep(0.25)
    raise FailedError(f"Not everything was delivered within {_DELIVERY_S} s.", _KEEP)


def _timeline(http: httpx.Client, uid: str) -> list[Entry]:
    answer = http.get(f"/v1/audit/studies/{uid}/timeline").raise_for_status()
    entries: list[Entry] = answer.json()["entries"]
    return entries


def _compare(wanted: dict[str, str], arrived: dict[str, str], where: str, count: int) -> None:
    changed = [uid for uid, digest in arrived.items() if wanted.get(uid) != digest]
    missing = count - len(arrived)
    if changed or missing or not count:
        raise FailedError(
            f"At the {where} {missing} of {count} instances are missing and {len(changed)} are not what was sent"
            + (f": {', '.join(changed[:5])}." if changed else "."),
            f"This is a defect: please report it. {_KEEP}",
        )
