import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.port import free_port
from tests.support.process import MissingProgramError, Program, program, wait_until

pytestmark = pytest.mark.unit

#: Starts a program, says its process id, and waits to be killed.
PARENT = """
import sys, time
from pathlib import Path
from tests.support.process import Program
child = Program(["sleep", "600"], Path(sys.argv[1]), name="child")
# Until it has become the program itself, it has not asked to end with this process yet.
child.start(lambda: Path(f"/proc/{child.pid}/comm").read_text() == "sleep\\n")
print(child.pid, flush=True)
time.sleep(600)
"""


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_missing_server_is_an_error_that_names_the_debian_package() -> None:
    with pytest.raises(MissingProgramError, match="apt-get install dcmtk"):
        program("storescp-that-nobody-has", "dcmtk")


def test_a_program_of_the_virtual_environment_is_not_taken_for_the_systems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Path(sys.prefix) / "bin"
    monkeypatch.setenv("PATH", f"{own}{os.pathsep}{tmp_path}")
    for folder in (own, tmp_path):
        assert folder == tmp_path or (folder / "pytest").exists()
    (tmp_path / "pytest").write_text("#!/bin/sh\n")
    (tmp_path / "pytest").chmod(0o755)
    assert program("pytest", "python3-pytest") == str(tmp_path / "pytest")


def test_a_program_ends_with_the_test_process_however_that_ends(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert _runs(child)
        os.kill(parent.pid, signal.SIGKILL)
    wait_until(lambda: not _runs(child), "the program to end with the process that started it")


def test_a_program_outlives_the_thread_that_asked_for_it(tmp_path: Path) -> None:
    child = Program(["sleep", "600"], tmp_path, name="child")
    try:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(child.start, lambda: True).result()
            thread = Path(f"/proc/self/task/{pool.submit(threading.get_native_id).result()}")
        wait_until(lambda: not thread.exists(), "the thread to end")
        assert child.running
    finally:
        child.kill()


def test_a_program_that_ends_while_starting_is_reported_with_its_log(tmp_path: Path) -> None:
    child = Program(["sh", "-c", "echo no licence; exit 3"], tmp_path, name="child")
    with pytest.raises(RuntimeError, match=r"(?s)ended while starting.*no licence"):
        child.start(lambda: False)


def test_free_ports_all_differ() -> None:
    assert len({free_port() for _ in range(50)}) == 50
