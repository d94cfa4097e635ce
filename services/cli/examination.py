"""Checks of what Kivuko stands on; each says how to mend what fails."""

import asyncio
import os
import shutil
import socket
import sqlite3
import stat
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import aio_pika
import aiormq.exceptions
import httpx
import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError

from libs.clock import utc_now
from libs.dimse.tls import CertificateError, files_of, server_context
from libs.dimse.validity import terms
from libs.messaging.listen import DATABASE_AWAY
from libs.settings import Settings
from libs.storage.database import Database
from libs.storage.migration import MigrationError, pending
from libs.storage.objects import StoreFullError, StoreUnavailableError, open_store
from services.cli.composition import migrated_services
from services.cli.output import in_bytes

#: Below this nothing should be started: a few large studies would fill the disk.
_LEAST_FREE = 1_000_000_000
_COMFORTABLE_FREE = 10_000_000_000
#: Servers' clocks further apart than this make timelines and leases wrong.
_MOST_CLOCK_SKEW = timedelta(seconds=5)
#: Longest wait for an answer.
_LONGEST_S = 10
_LOOK = "Look at the log of the process."


@dataclass(frozen=True)
class Finding:
    """What one check found, and what to do about it."""

    check: str
    result: Literal["ok", "warning", "failed"]
    detail: str
    mend: str = ""


async def examine(settings: Settings) -> list[Finding]:
    """Run every check; one that fails does not stop the others."""
    readiness = _readiness(settings)
    running = bool(readiness)
    findings = [_python(), _home(settings), _disk(settings), _clock(settings)]
    findings += [*_ports(settings, running=running), *_certificates(settings)]
    findings += [await _database(settings), await _broker(settings, running=running), await _objects(settings)]
    return [*findings, *readiness]


def _readiness(settings: Settings) -> list[Finding]:
    """Ask the Kivuko that runs here what it says of itself; nothing if none runs."""
    path = min(str(settings.socket_path.absolute()), os.path.relpath(settings.socket_path), key=len)
    try:
        with httpx.Client(transport=httpx.HTTPTransport(uds=path), timeout=_LONGEST_S) as client:
            answer = client.get("http://kivuko/readyz")
        failing = [] if answer.is_success else answer.json()["failing"]
    except httpx.ConnectError:
        return []
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        return [Finding("running", "failed", f"it does not answer as expected ({type(error).__name__})", _LOOK)]
    if not failing:
        return [Finding("running", "ok", "Kivuko runs here and is ready")]
    return [Finding("running", "failed", f"{one['check']} fails: {one['detail']}", _LOOK) for one in failing]


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
    wanted = {"DICOM": settings.dicom_port, "DICOM_TLS": settings.dicom_tls_port, "HTTP": settings.http_port}
    for name, port in wanted.items():
        if port is None:
            continue
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
                f"{name.replace('_', ' ')} cannot listen on {settings.bind}:{port}: {error.strerror}",
                f"End the program that uses it (`ss -ltnp` shows which), or set KIVUKO_{name}_PORT to another port.",
            )
        else:
            yield Finding(check, "ok", f"{name} can listen on {settings.bind}:{port}")


def _certificates(settings: Settings) -> Iterator[Finding]:
    files = files_of(settings)
    if files is None:
        return
    mend = "See docs/dicom-tls.md. New files are taken without a restart."
    try:
        server_context(files, settings.tls_profile)
        ends = terms(files)
    except CertificateError as error:
        yield Finding("certificate", "failed", str(error), mend)
        return
    if files.key.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO) & ~stat.S_IRGRP:
        yield Finding("private key", "warning", f"{files.key} is open to other users", f"Run `chmod 600 {files.key}`.")
    now = utc_now()
    for term in ends:
        urgency = term.urgency(now)
        said = f"{term.path} {'ended' if urgency == 'over' else 'holds until'} {term.ends:%Y-%m-%d %H:%M} UTC"
        if urgency == "ok":
            yield Finding(term.kind, "ok", said)
        else:
            yield Finding(term.kind, "failed" if urgency == "over" else "warning", said, f"Renew it. {mend}")


async def _database(settings: Settings) -> Finding:
    url = settings.database
    if url.startswith("sqlite:"):
        return _sqlite_files(Path(url.removeprefix("sqlite:///")))
    try:
        async with asyncio.timeout(_LONGEST_S):
            return await _postgresql(url)
    except (ValueError, ArgumentError):
        return Finding(
            "database", "failed", "its address is not valid", "Write KIVUKO_DATABASE_URL anew: see the README."
        )
    except (TimeoutError, *DATABASE_AWAY) as error:
        return Finding(
            "database",
            "failed",
            f"PostgreSQL does not answer ({type(error).__name__})",
            "Check KIVUKO_DATABASE_URL, the server, and that its pg_hba.conf lets this user in.",
        )


async def _postgresql(url: str) -> Finding:
    databases = [Database(url, service) for service in migrated_services()]
    try:
        async with databases[0].reading() as tx:
            skew = abs(utc_now() - (await tx.execute(sa.text("SELECT clock_timestamp()"))).scalar_one())
        missing = [each.service for each in databases if await pending(each, f"services.{each.service}")]
    except MigrationError as error:
        return Finding("database", "failed", str(error))
    finally:
        for database in databases:
            await database.close()
    if skew > _MOST_CLOCK_SKEW:
        return Finding(
            "database", "failed", f"its clock differs by {skew.total_seconds():.0f} s", "Set both clocks by NTP."
        )
    if missing:
        return Finding(
            "database", "failed", f"the tables of {', '.join(missing)} are not up to date", "Run `kivuko migrate`."
        )
    return Finding("database", "ok", "PostgreSQL answers, its tables are up to date")


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
        return _bus(Path(url.removeprefix("sqlite:///")), running=running)
    try:
        async with asyncio.timeout(_LONGEST_S):
            connection = await aio_pika.connect(url)
            await connection.close()
    except ValueError:
        return Finding("broker", "failed", "its address is not valid", "Write KIVUKO_BROKER_URL anew: see the README.")
    except (OSError, TimeoutError, aiormq.exceptions.AMQPError) as error:
        return Finding(
            "broker",
            "failed",
            f"RabbitMQ does not answer ({type(error).__name__})",
            "Check KIVUKO_BROKER_URL, the server, and that the user may use the virtual host.",
        )
    return Finding("broker", "ok", "RabbitMQ answers")


def _bus(path: Path, *, running: bool) -> Finding:
    if not path.exists():
        return Finding("broker", "ok", "made at the first start")
    damaged = _damage(path)
    if damaged is not None:
        return Finding(
            "broker", "failed", f"{path.name}: {damaged}", "Stop Kivuko and restore this file from a backup."
        )
    return Finding("broker", "ok", f"embedded, {path}" + (", in use by the running Kivuko" if running else ""))


async def _objects(settings: Settings) -> Finding:
    return await asyncio.to_thread(_store, settings.objects)


def _store(url: str) -> Finding:
    if url.startswith("file://") and not Path(url.removeprefix("file://")).exists():
        return Finding("object store", "ok", "made at the first start")
    try:
        store = open_store(url)
        try:
            store.check()
        finally:
            store.close()
    except ValueError as error:
        return Finding("object store", "failed", str(error), "Write KIVUKO_OBJECTS_URL anew: see the README.")
    except (StoreUnavailableError, StoreFullError) as error:
        return Finding("object store", "failed", str(error), "Check KIVUKO_OBJECTS_URL and that the store is up.")
    return Finding("object store", "ok", url.partition(":")[0] + " answers")
