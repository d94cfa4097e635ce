"""What a power cut leaves: system calls prove that file, folder entry and database are synced before each success."""

import codecs
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from libs.dimse.commitment import Report
from tests.integration.ingest.test_commitment import KEPT, archive, said
from tests.support.dcmtk import storescu
from tests.support.kivuko import embedded
from tests.support.process import program, wait_until
from tests.support.synthetic import make_study

pytestmark = pytest.mark.integration

DEFINITION = """
kivuko: 1
name: power
sites:
  luba: {name: Luba}
nodes:
  CT1: {site: luba, host: 127.0.0.1, may: [store]}
  PACS: {site: luba, host: 127.0.0.1, commit: true}
"""
_CALLS = (
    "openat,write,writev,pwrite64,fsync,fdatasync,rename,renameat,renameat2,link,linkat,unlink,unlinkat,sendto,sendmsg"
)
#: Calls that give a descriptor or a count of bytes.
_COUNTED = ("openat", "write", "writev", "pwrite64")
_LINE = re.compile(r"^(?P<thread>\d+) +(?:<\.\.\. (?P<resumed>\w+) resumed>|(?P<call>\w+)\()(?P<rest>.*)$")
#: (0000,0100) = 8001H C-STORE-RSP and (0000,0900) = 0000H success, Implicit VR Little Endian: PS3.7 section 9.3.1.2.
_RESPONSE = bytes.fromhex("00000001020000000180").hex()
#: (0000,0100) = 8100H N-EVENT-REPORT-RSP: PS3.7 section 10.3.1.2.
_EVENT_RESPONSE = bytes.fromhex("00000001020000000081").hex()
#: A page of SQLite and what stands before it in its log.
_PAGE = 4096 + 24
#: Head of the answer to an applied definition.
_CREATED = b"HTTP/1.1 200 OK".hex()
_SUCCESS = bytes.fromhex("00000009020000000000").hex()


@dataclass(frozen=True)
class Call:
    """A system call, complete (`done`) or, for what is sent, begun."""

    name: str
    text: str


def calls(trace: str) -> Iterator[Call]:
    """Read strace's output: a sync or a rename counts when it has returned 0, a send when it begins."""
    begun: dict[str, str] = {}
    for line in trace.splitlines():
        found = _LINE.match(line)
        if found is None:
            continue
        name, rest = found["resumed"] or found["call"], found["rest"]
        if found["call"] and name.startswith("send"):
            sent = re.search(r'"((?:[^"\\]|\\.)*)"', rest)
            # strace writes bytes as C does.
            yield Call("send", codecs.decode(sent[1], "unicode_escape").encode("latin-1").hex() if sent else "")
        elif rest.endswith("<unfinished ...>"):
            begun[found["thread"]] = rest
        else:
            text = begun.pop(found["thread"], "") + rest if found["resumed"] else rest
            if text.rstrip().endswith("= 0") or (name in _COUNTED and not re.search(r"= -1 E", text)):
                yield Call(re.sub(r"(rename|link|unlink)(at2?)?$", r"\1", name), text)


@contextmanager
def traced(pid: int, output: Path, longest: int = 512) -> Iterator[None]:
    """Trace a process, its children and all their threads until the block ends; of data so many bytes are kept."""
    command = [program("strace", "strace"), "-f", "-y", "-s", str(longest), "-e", f"trace={_CALLS}", "-o", str(output)]
    processes = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    command += [word for each in processes for word in ("-p", str(each))]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr is not None
        # It says so once it is attached, so nothing is missed.
        for _ in processes:
            assert "attached" in tracer.stderr.readline()
        try:
            yield
        finally:
            tracer.terminate()


def entries(home: Path) -> list[Path]:
    """List the spool's files that something has arrived in."""
    return [path for path in (home / "spool").rglob("*") if path.is_file() and path.stat().st_size]


def test_file_and_folder_are_synced_before_each_success_is_sent(tmp_path: Path) -> None:
    system = embedded(tmp_path)
    process = system.processes["all"]
    try:
        system.start()
        system.apply(DEFINITION)
        output = tmp_path / "trace"
        paths = make_study(tmp_path, 5)
        with traced(process.pid, output):
            assert storescu(system.dicom_port, paths, calling="CT1").returncode == 0
            wait_until(lambda: not entries(process.home), "the spool to be indexed")
    finally:
        system.kill()
    spool = re.escape(str(process.home / "spool" / "receiver-0"))
    made: set[str] = set()
    named: set[str] = set()
    durable: set[str] = set()
    successes = 0
    for call in calls(output.read_text(errors="replace")):
        if call.name == "openat" and (file := re.search(rf'"{spool}/([^"/]+)\.in", .*O_CREAT', call.text)):
            made.add(file[1])
        elif call.name in {"fsync", "fdatasync"}:
            if re.search(rf"<{spool}>", call.text):
                named |= made
            elif file := re.search(rf"<{spool}/([^>/]+)\.in>", call.text):
                assert file[1] in named, "an arrival in a file whose name is not durable"
                durable.add(file[1])
        elif call.name in {"write", "writev", "pwrite64"} and (
            file := re.search(rf"<{spool}/([^>/]+)\.in>", call.text)
        ):
            assert file[1] not in durable, "written after it was synced"
        elif call.name == "send" and _RESPONSE in call.text and _SUCCESS in call.text:
            successes += 1
            assert len(durable) >= successes, "success was sent before file and folder were synced"
    assert successes == len(paths) == len(durable)


def test_the_database_is_synced_before_a_report_of_storage_commitment_is_answered(tmp_path: Path) -> None:
    system = embedded(tmp_path)
    process = system.processes["all"]
    transactions = [f"2.25.{number * '7'}" for number in (20, 21, 22)]
    try:
        system.start()
        system.apply(DEFINITION)
        output = tmp_path / "trace"
        with archive(system.dicom_port) as association, traced(process.pid, output, _PAGE):
            for transaction in transactions:
                assert said(association, Report(transaction, (KEPT,), ())) == 0
    finally:
        system.kill()
    log = re.escape(str(process.home / "db" / "ingest.db-wal"))
    written, durable = "", ""
    answered = 0
    for call in calls(output.read_text(errors="replace")):
        if call.name == "pwrite64" and re.search(rf"<{log}>", call.text):
            written += call.text
        elif call.name in {"fsync", "fdatasync"} and re.search(rf"<{log}>", call.text):
            durable = written
        elif call.name == "send" and _EVENT_RESPONSE in call.text and _SUCCESS in call.text:
            assert f'"subject":"{transactions[answered]}"' in durable.replace("\\", ""), "answered before it was synced"
            answered += 1
    assert answered == len(transactions)


def test_an_entry_leaves_the_spool_only_when_object_and_index_are_synced(tmp_path: Path) -> None:
    system = embedded(tmp_path)
    process = system.processes["all"]
    try:
        system.start()
        system.apply(DEFINITION)
        output = tmp_path / "trace"
        with traced(process.pid, output):
            assert storescu(system.dicom_port, make_study(tmp_path, 5), calling="CT1").returncode == 0
            wait_until(lambda: not entries(process.home), "the spool to be indexed")
    finally:
        system.kill()
    spool = re.escape(str(process.home / "spool" / "receiver-0"))
    objects = re.escape(str(process.home / "objects"))
    log = re.escape(str(process.home / "db" / "ingest.db-wal"))
    adopted: dict[str, str] = {}  # entry to the folder of its object, not synced yet
    stored: set[str] = set()
    written: set[str] = set()
    indexed: set[str] = set()
    gone = 0
    for call in calls(output.read_text(errors="replace")):
        if call.name == "link" and (
            move := re.search(rf'"{spool}/([^"/]+)\.in".*"({objects}/[^"]+)/[^"/]+"', call.text)
        ):
            adopted[move[1]] = move[2]
        elif call.name == "pwrite64" and re.search(rf"<{log}>", call.text):
            written |= stored
        elif call.name in {"fsync", "fdatasync"}:
            if re.search(rf"<{log}>", call.text):
                indexed |= written
            stored |= {entry for entry, folder in adopted.items() if f"<{folder}>" in call.text}
        elif call.name == "unlink" and (entry := re.search(rf'"{spool}/([^"/]+)\.in"', call.text)):
            if entry[1] not in adopted:
                continue  # made ahead, and never used
            assert entry[1] in stored, "gone from the spool before its object's folder was synced"
            assert entry[1] in indexed, "gone from the spool before its row was synced"
            gone += 1
    assert gone == 5


def test_the_database_is_synced_before_an_applied_definition_is_answered(tmp_path: Path) -> None:
    system = embedded(tmp_path)
    process = system.processes["all"]
    try:
        system.start()
        output = tmp_path / "trace"
        with traced(process.pid, output):
            system.apply(DEFINITION)
    finally:
        system.kill()
    log = re.escape(str(process.home / "db" / "network.db-wal"))
    unsynced, synced, answered = False, 0, 0
    for call in calls(output.read_text(errors="replace")):
        if call.name == "pwrite64" and re.search(rf"<{log}>", call.text):
            unsynced = True
        elif call.name in {"fsync", "fdatasync"} and re.search(rf"<{log}>", call.text):
            synced += unsynced
            unsynced = False
        elif call.name == "send" and _CREATED in call.text:
            assert synced, "answered before the database was synced"
            answered += 1
    # The command asks when rules last matched, afterwards.
    assert answered in {1, 2}
