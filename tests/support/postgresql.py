"""A private PostgreSQL from Debian's package."""

import os
import signal
import subprocess
from pathlib import Path
from uuid import uuid4

from tests.support.port import free_port
from tests.support.process import Program, program

_ROOT = Path("/usr/lib/postgresql")


class PostgreSQL:
    """One server on a private port, superuser `postgres` without a password."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.port = free_port()
        versions = sorted(_ROOT.glob("*"), key=lambda each: int(each.name) if each.name.isdigit() else 0, reverse=True)
        self._folders = [str(each / "bin") for each in versions]
        # PostgreSQL refuses to run as root.
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user is not None:
            os.chmod(folder, 0o777)  # noqa: PTH101 S103 - a throw-away folder that another user must write
        data = folder / "data"
        self._run(
            "initdb",
            "-D",
            str(data),
            "-U",
            "postgres",
            "--auth=trust",
            "--no-sync",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
        )
        listen = [
            "-p",
            str(self.port),
            "-k",
            str(folder),
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            "max_connections=300",
        ]
        command = [program("postgres", "postgresql", *self._folders), "-D", str(data), *listen]
        self._server = Program(command, folder, name="postgresql", user=self._user)

    @property
    def url(self) -> str:
        """Address of the database `postgres`."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def database(self) -> str:
        """Make a fresh, empty database and give its address."""
        name = f"test_{uuid4().hex[:12]}"
        self.psql(f"CREATE DATABASE {name}")
        return f"postgresql://postgres@127.0.0.1:{self.port}/{name}"

    def psql(self, sql: str, database: str = "postgres") -> str:
        """Run a statement as superuser and give its unadorned output."""
        address = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "-d", database]
        return self._run("psql", *address, "-v", "ON_ERROR_STOP=1", "-XAtc", sql)

    def start(self) -> None:
        """Start it, or start it again with everything it had; return when it serves."""
        self._server.start(self._serves)

    def stop(self) -> None:
        """Stop it without waiting for its clients."""
        self._server.stop(signal.SIGINT)

    def kill(self) -> None:
        """Stop it as a crash would: at once, so that the next start has to recover."""
        # SIGQUIT and not SIGKILL: after the latter its processes may hold the shared memory for a moment longer.
        self._server.stop(signal.SIGQUIT)

    def _serves(self) -> bool:
        ready = program("pg_isready", "postgresql-client", *self._folders)
        return subprocess.run([ready, "-q", "-h", "127.0.0.1", "-p", str(self.port)], check=False).returncode == 0

    def _run(self, name: str, *arguments: str) -> str:
        ahead = (
            []
            if self._user is None
            else ["setpriv", f"--reuid={self._user}", f"--regid={self._user}", "--init-groups", "--"]
        )
        command = [*ahead, program(name, "postgresql", *self._folders), *arguments]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{name} failed with status {done.returncode}: {done.stderr.strip()}")
        return done.stdout.strip()
