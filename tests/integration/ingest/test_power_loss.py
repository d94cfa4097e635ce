"""What a power cut leaves: system calls prove that file and folder entry are synced before each success is sent."""

import codecs
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

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
"""
_CALLS = "openat,write,fsync,fdatasync,rename,renameat,renameat2,sendto,sendmsg"
_LINE = re.compile(r"^(?P<thread>\d+) +(?:<\.\.\. (?P<resumed>\w+) resumed>|(?P<call>\w+)\()(?P<rest>.*)$")
#: (0000,0100) = 8001H C-STORE-RSP and (0000,0900) = 0000H success, Implicit VR Little Endian: PS3.7 section 9.3.1.2.
_RESPONSE = bytes.fromhex("00000001020000000180").hex()
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
            if text.rstrip().endswith("= 0"):
                yield Call("rename" if name.startswith("rename") else name, text)


@contextmanager
def traced(pid: int, output: Path) -> Iterator[None]:
    """Trace a process and its threads until the block ends."""
    command = [program("strace", "strace"), "-f", "-y", "-s", "512", "-e", f"trace={_CALLS}"]
    with subprocess.Popen([*command, "-o", str(output), "-p", str(pid)], stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr is not None
        # It says so once it is attached, so nothing is missed.
        assert "attached" in tracer.stderr.readline()
        try:
            yield
        finally:
            tracer.terminate()


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
            wait_until(lambda: not list((process.home / "spool").iterdir()), "the spool to be indexed")
    finally:
        system.kill()
    spool = re.escape(str(process.home / "spool"))
    synced: set[str] = set()
    renamed: set[str] = set()
    durable: set[str] = set()
    successes = 0
    for call in calls(output.read_text(errors="replace")):
        if call.name in {"fsync", "fdatasync"}:
            if file := re.search(rf"<{spool}/([^>/]+)\.part>", call.text):
                synced.add(file[1])
            elif re.search(rf"<{spool}>", call.text):
                durable |= renamed
                renamed.clear()
        elif call.name == "rename":
            if names := re.search(rf'"{spool}/([^"/]+)\.part".*"{spool}/([^"/]+)\.dcm"', call.text):
                assert names[1] in synced, "renamed before its bytes were synced"
                renamed.add(names[2])
        elif call.name == "send" and _RESPONSE in call.text and _SUCCESS in call.text:
            successes += 1
            assert len(durable) >= successes, "success was sent before file and folder were synced"
    assert successes == len(paths) == len(durable)
