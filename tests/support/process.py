"""Programs that tests start: found, started in a folder of their own, awaited, stopped by process id."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

#: Wait between two looks at whether something has happened.
_LOOK_S = 0.02
#: Starts every program. The kernel ties a program's life (--pdeathsig) to the thread that started it, so that must be
#: one that lasts as long as the tests, not one of an event loop's pool.
_LAUNCHER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="launcher")


class MissingProgramError(Exception):
    """A server that a test needs is not installed."""


def wait_until(done: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    """Return as soon as `done()` is true; raise TimeoutError that names `what` after `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:g} s for {what}")
        time.sleep(_LOOK_S)


def answers(port: int) -> bool:
    """Tell whether something accepts TCP connections on a port of loopback."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def program(name: str, package: str, *folders: str) -> str:
    """Find a program of the system; never one of the same name in the virtual environment (pynetdicom has some).

    Parameters
    ----------
    name
        Name of the program.
    package
        Debian package that holds it, for the error.
    folders
        Where to look first, besides the usual places.

    Raises
    ------
    MissingProgramError
        It is not installed. A test that needs it fails; it is never skipped.
    """
    own = Path(sys.prefix) / "bin"
    path = [
        *folders,
        *(each for each in os.get_exec_path() if Path(each) != own),
        "/usr/sbin",
        "/usr/bin",
        "/usr/local/bin",
    ]
    found = shutil.which(name, path=os.pathsep.join(path))
    if found is None:
        raise MissingProgramError(
            f"{name} is not installed, and this test needs the real one. Install the Debian package {package} "
            f"(apt-get install {package}), or run `make test` as root, which does so."
        )
    return found


class Program:
    """One running program: its own process group, killed when the test process dies, output in `FOLDER/NAME.log`."""

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        *,
        name: str,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
    ) -> None:
        # setpriv instead of preexec_fn: the latter can deadlock once the test process has threads.
        ahead = [program("setpriv", "util-linux"), "--pdeathsig", "KILL"]
        if user is not None:
            ahead += [f"--reuid={user}", f"--regid={user}", "--init-groups"]
        self._command = [*ahead, "--", *command]
        self._folder = folder
        self.env = {**os.environ, **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self.name = name
        self.log = folder / f"{name}.log"

    @property
    def pid(self) -> int:
        """Process id while it runs."""
        if self._process is None:
            raise RuntimeError(f"{self.name} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self, ready: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Start it and return when `ready()` is true; raise with the end of its log when it dies or never is."""
        with self.log.open("ab") as log:
            self._process = _LAUNCHER.submit(
                subprocess.Popen, self._command, cwd=self._folder, env=self.env, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True,
            ).result()  # fmt: skip
        try:
            wait_until(lambda: not self.running or ready(), f"{self.name} to be ready", timeout_s)
        except TimeoutError as error:
            self.kill()
            raise RuntimeError(f"{error}; its log ends:\n{self.tail()}") from error
        if not self.running:
            raise RuntimeError(f"{self.name} ended while starting; its log ends:\n{self.tail()}")

    def stop(self, sign: signal.Signals = signal.SIGTERM, timeout_s: float = 60.0) -> int:
        """Ask it to end, wait until it has, and give its exit status; kill it when it does not."""
        if self._process is None:
            return 0
        if self.running:
            self._process.send_signal(sign)
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
        status = self._process.returncode
        self.kill()
        return int(status)

    def kill(self) -> None:
        """End it and all of its process group at once."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):  # the whole group may have ended already
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def tail(self, lines: int = 40) -> str:
        """Give the last lines of its output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""
