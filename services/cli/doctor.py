"""`kivuko doctor`: checks what Kivuko stands on, and says how to mend what fails."""

import asyncio
import os
import shutil
import socket
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import aio_pika
import aiormq.exceptions
import httpx
import sqlalchemy as sa
import typer
from rich.markup import escape
from sqlalchemy.ext.asyncio import create_async_engine

from libs.clock import utc_now
from libs.settings import Settings
from libs.storage.objects import StoreFullError, StoreUnavailableError, open_store
from services.cli.output import Json, in_bytes, out, print_json

#: Below this nothing should be started: a few large studies would fill the disk.
_LEAST_FREE = 1_000_000_000
_COMFORTABLE_FREE = 10_000_000_000
#: Servers' clocks further apart than this make timelines and leases wrong.
_MOST_CLOCK_SKEW = timedelta(seconds=5)


@dataclass(frozen=True)
class Finding:
    """What one check found, and what to do about it."""

    check: str
    result: Literal["ok", "warning", "failed"]
    detail: str
    mend: str = ""


def doctor(*, json_output: Json = False) -> None:
    """Check ports, disk, clock, database, broker and object store; say how to mend what fails.

    Exits 0 if nothing failed (warnings allowed), 1 otherwise.
    """
    findings = asyncio.run(examine(Settings()))
    failed = sum(finding.result == "failed" for finding in findings)
    if json_output:
        print_json({"ok": not failed, "findings": [asdict(finding) for finding in findings]})
    else:
        colours = {"ok": "green", "warning": "yellow", "failed": "bold red"}
        for finding in findings:
            out.print(f"[{colours[finding.result]}]{finding.result:<8}[/] {finding.check:<13} {escape(finding.detail)}")
            if finding.mend:
                out.print(f"{'':<23}{escape(finding.mend)}")
        out.print("Everything that was checked is in order." if not failed else f"{failed} to mend.")
    raise typer.Exit(1 if failed else 0)


async def examine(settings: Settings) -> list[Finding]:
    """Run every check; one that fails does not stop the others."""
    running = _running(settings)
    findings = [_python(), _home(settings), _disk(settings), _clock(settings)]
    findings += _ports(settings, running=running)
    return [*findings, await _database(settings), await _broker(settings, running=running), await _objects(settings)]


def _running(settings: Settings) -> bool:
    try:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(settings.socket_path)), timeout=5) as client:
            return client.get("http://kivuko/healthz").is_success
    except (httpx.HTTPError, OSError):
        return False


def _python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    return Finding("python", "ok", f"Python {version}, SQLite {sqlite3.sqlite_version}")


def _home(settings: Settings) -> Finding:
    home = settings.home.absolute()
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"kivuko")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return Finding(
            "home",
            "failed",
            f"{existing} cannot be written: {error.strerror}",
            "Give this user the right to write there, or set KIVUKO_HOME to another folder.",
        )
    return Finding(
        "home", "ok", f"{home} can be written and synced" + ("" if existing == home else " (made at the first start)")
    )


def _disk(settings: Settings) -> Finding:
    home = settings.home.absolute()
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    usage = shutil.disk_usage(existing)
    detail = f"{in_bytes(usage.free)} of {in_bytes(usage.total)} free at {existing}"
    if usage.free < _LEAST_FREE:
        return Finding(
            "disk", "failed", detail, "Make room or move KIVUKO_HOME: with a full disk every study is refused."
        )
    if usage.free < _COMFORTABLE_FREE:
        return Finding("disk", "warning", detail, "Plan for more room: a CT study can take 1 GB.")
    return Finding("disk", "ok", detail)


def _clock(settings: Settings) -> Finding:
    now = utc_now()
    newest = max(
        (datetime.fromtimestamp(path.stat().st_mtime, UTC) for path in settings.home.glob("*") if path.is_file()),
        default=None,
    )
    built = datetime.fromtimestamp(Path(__file__).stat().st_mtime, UTC)
    for what, then in (("this installation", built), ("the newest file in KIVUKO_HOME", newest)):
        if then is not None and now < then - _MOST_CLOCK_SKEW:
            return Finding(
                "clock",
                "failed",
                f"{now:%Y-%m-%d %H:%M:%S} UTC is before {what} ({then:%Y-%m-%d %H:%M:%S} UTC)",
                "Set the clock, best by NTP; replace the battery of the board if it forgets the time in a power cut.",
            )
    return Finding("clock", "ok", f"{now:%Y-%m-%d %H:%M:%S} UTC")


def _ports(settings: Settings, *, running: bool) -> Iterator[Finding]:
    for name, port in (("DICOM", settings.dicom_port), ("HTTP", settings.http_port)):
        check = f"port {port}"
        if port == 0:
            yield Finding(f"{name} port", "ok", "a free one is picked at each start")
            continue
        if running:
            yield Finding(check, "ok", f"{name}: Kivuko is running")
            continue
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((settings.bind, port))
        except OSError as error:
            yield Finding(
                check,
                "failed",
                f"{name} cannot listen on {settings.bind}:{port}: {error.strerror}",
                f"End the program that uses it (`ss -ltnp` shows which), or set KIVUKO_{name}_PORT to another port.",
            )
        else:
            yield Finding(check, "ok", f"{name} can listen on {settings.bind}:{port}")


async def _database(settings: Settings) -> Finding:
    url = settings.database
    if url.startswith("sqlite:"):
        return _sqlite_files(Path(url.removeprefix("sqlite:///")))
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://", 1), hide_parameters=True)
    try:
        async with asyncio.timeout(10), engine.connect() as connection:
            theirs = (await connection.execute(sa.text("SELECT now()"))).scalar_one()
    except (OSError, TimeoutError, sa.exc.SQLAlchemyError) as error:
        return Finding(
            "database",
            "failed",
            f"PostgreSQL does not answer ({type(error).__name__})",
            "Check KIVUKO_DATABASE_URL, the server, and that its pg_hba.conf lets this user in.",
        )
    finally:
        await engine.dispose()
    skew = abs(utc_now() - theirs)
    if skew > _MOST_CLOCK_SKEW:
        return Finding(
            "database", "failed", f"its clock differs by {skew.total_seconds():.0f} s", "Set both clocks by NTP."
        )
    return Finding("database", "ok", "PostgreSQL answers")


def _sqlite_files(folder: Path) -> Finding:
    files = sorted(folder.glob("*.db"))
    for path in files:
        damaged = _damage(path)
        if damaged is not None:
            return Finding(
                "database", "failed", f"{path.name}: {damaged}", "Stop Kivuko and restore this file from a backup."
            )
    return Finding("database", "ok", f"{len(files)} SQLite files in {folder}" if files else "made at the first start")


def _damage(path: Path) -> str | None:
    try:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)
        try:
            verdict = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
        finally:
            connection.close()
    except sqlite3.Error as error:
        return str(error)
    return None if verdict == "ok" else "is damaged"


async def _broker(settings: Settings, *, running: bool) -> Finding:
    url = settings.broker
    if url.startswith("sqlite:"):
        path = Path(url.removeprefix("sqlite:///"))
        if not path.exists():
            return Finding("broker", "ok", "made at the first start")
        damaged = _damage(path)
        if damaged is not None:
            return Finding(
                "broker", "failed", f"{path.name}: {damaged}", "Stop Kivuko and restore this file from a backup."
            )
        return Finding("broker", "ok", f"embedded, {path}" + (", in use by the running Kivuko" if running else ""))
    try:
        async with asyncio.timeout(10):
            connection = await aio_pika.connect(url)
            await connection.close()
    except (OSError, TimeoutError, aiormq.exceptions.AMQPError) as error:
        return Finding(
            "broker",
            "failed",
            f"RabbitMQ does not answer ({type(error).__name__})",
            "Check KIVUKO_BROKER_URL, the server, and that the user may use the virtual host.",
        )
    return Finding("broker", "ok", "RabbitMQ answers")


async def _objects(settings: Settings) -> Finding:
    try:
        store = await asyncio.to_thread(open_store, settings.objects)
        try:
            await asyncio.to_thread(store.check)
        finally:
            store.close()
    except (StoreUnavailableError, StoreFullError) as error:
        return Finding("object store", "failed", str(error), "Check KIVUKO_OBJECTS_URL and that the store is up.")
    return Finding("object store", "ok", settings.objects.partition(":")[0] + " answers")
