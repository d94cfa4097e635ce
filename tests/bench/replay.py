"""The time machine: recorded studies against a proposal of 100 rules, on each database.

The records are made, a million of them, straight into the tables, as the service would have written them: about sixty
attributes an instance, one to four kinds of instances a study.
"""

import asyncio
import json
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import asyncpg
from pydantic import SecretStr
from rich.progress import Progress
from sqlalchemy import make_url

from contracts.definition import Definition
from libs.storage.database import Database
from services.rules.replaying import Order
from tests.bench.figure import Figure, at_most, measured
from tests.bench.gauge import Gauge
from tests.support.migrated import migrate
from tests.support.postgresql import PostgreSQL

STUDIES: Final = 1_000_000
_RULES: Final = 100
_WORKERS: Final = 2
_LONGEST_S: Final = 300
_BEGIN: Final = datetime(2026, 10, 21, tzinfo=UTC)
_CHUNK: Final = 5000
SITES: Final = [f"site{number:02}" for number in range(24)]
DESTINATIONS: Final = ["archive", *(f"reader{number:02}" for number in range(20))]
MODALITIES: Final = ("CT", "MR", "CR", "DX", "US", "MG", "XA", "NM")
PARTS: Final = ("HEAD", "CHEST", "ABDOMEN", "KNEE", "SPINE", "PELVIS", "BREAST", "NECK", "HAND", "HIP")
REASONS: Final = ("TRAUMA", "FOLLOW UP", "SCREENING", "PAIN", "FEVER", "TB", "STROKE", "PRE-OP", "FRACTURE", "ROUTINE")


def run(progress: Progress) -> list[Figure]:
    """Make the records and replay them, on SQLite and on PostgreSQL."""
    figures = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures += measure(f"sqlite:///{folder / 'db'}", folder, "SQLite", progress)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        server = PostgreSQL(folder / "postgresql")
        server.start()
        try:
            figures += measure(server.database(), folder, "PostgreSQL", progress)
        finally:
            server.stop()
    return figures


def measure(url: str, folder: Path, name: str, progress: Progress, studies: int = STUDIES) -> list[Figure]:
    """Give the figures of one database."""
    making = progress.add_task(f"replay: records into {name}", total=studies)
    asyncio.run(make(url, studies, lambda count: progress.advance(making, count)))
    replaying = progress.add_task(f"replay: {name}", total=studies)
    took = replay(url, folder, studies, lambda done: progress.update(replaying, completed=done))
    what = f"{name}: {studies:,} studies against {_RULES} rules".replace(",", " ")
    scale = studies / STUDIES
    return [
        at_most(what, "s", [took.seconds], _LONGEST_S * scale),
        measured(f"{name}: studies", "studies/s", [studies / took.seconds]),
        measured(f"{name}: processor time of all its processes", "s", [took.cpu]),
        measured(f"{name}: memory of all its processes, at a fifth of the way", "MB", [took.early]),
        measured(f"{name}: memory of all its processes, the most", "MB", [took.most]),
    ]


@dataclass(frozen=True)
class Took:
    """What a replay took: seconds, processor seconds, and megabytes at a fifth of the way and at most."""

    seconds: float
    cpu: float
    early: float
    most: float


def replay(url: str, folder: Path, studies: int, done: Any) -> Took:
    """Replay all, in processes of its own as the service has it done."""
    order = Order(
        database_url=SecretStr(url),
        since=_BEGIN,
        until=_BEGIN + timedelta(days=31),
        proposed=definition(_RULES),
        folder=folder,
        workers=_WORKERS,
    )
    early = 0.0
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "services.rules.replaying"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the process has no pipes")
        with Gauge(process.pid, resident=True) as gauge:
            process.stdin.write(order.line())
            process.stdin.close()
            looked, cpu = 0, 0.0
            for line in process.stdout:
                looked = json.loads(line)["done"]
                done(looked)
                cpu = max(cpu, gauge.cpu)
                if looked >= studies / 5 and not early:
                    early = gauge.peak / 1e6
    if process.returncode != 0 or looked != studies:
        raise RuntimeError(f"the replay ended with {process.returncode} after {looked} studies")
    return Took(time.perf_counter() - began, cpu, early, gauge.peak / 1e6)


def definition(count: int) -> Definition:
    """Give a definition with so many rules, of the kinds that people write."""
    kinds = (
        ("study", 'study.Modality == "{modality}" && source.site == "{site}"'),
        ("study", 'study.Modality in ["{modality}", "SR"] && study.BodyPartExamined == "{part}"'),
        ("study", 'study.StudyDescription.upperAscii().contains("{reason}") && study.Modality == "{modality}"'),
        ("study", 'source.site == "{site}" && !calendars["office"]'),
        ("study", 'study.PatientID.startsWith("{site}-9") && study.Modality == "{modality}"'),
        ("study", '"{modality}" in study.ModalitiesInStudy && study.NumberOfStudyRelatedInstances > {number}'),
        ("study", 'study.ReferringPhysicianName.startsWith("DR{number}") || study.InstitutionName == "{site}"'),
        ("instance", 'instance.Modality == "{modality}" && source.site == "{site}"'),
        (
            "instance",
            'instance.Rows >= 512 && instance.BodyPartExamined == "{part}" && instance.SeriesNumber < {number}',
        ),
        ("instance", 'instance.SliceThickness < 1.5 && instance.Manufacturer == "Maker {number}"'),
    )
    rules: list[dict[str, Any]] = [{"name": "all", "trigger": "instance", "deliver": "archive"}]
    for number in range(1, count):
        trigger, text = kinds[number % len(kinds)]
        when = text.format(
            modality=MODALITIES[number % len(MODALITIES)],
            site=SITES[number % len(SITES)],
            part=PARTS[number % len(PARTS)],
            reason=REASONS[number % len(REASONS)],
            number=number,
        )
        deliver = DESTINATIONS[number % len(DESTINATIONS)]
        rules.append({"name": f"rule {number}", "trigger": trigger, "when": when, "deliver": deliver})
    return Definition.model_validate(
        {
            "kivuko": 1,
            "name": "Benchmark",
            "timezone": "Africa/Malabo",
            "sites": {site: {"name": site} for site in SITES},
            "calendars": {"office": {"days": "Mon-Fri", "hours": "08:00-16:00", "holidays": "GQ"}},
            "nodes": {
                **{f"{site.upper()}": {"site": site, "host": f"10.0.{place}.1"} for place, site in enumerate(SITES)},
                **{
                    name.upper(): {"site": SITES[0], "host": f"10.1.0.{place + 1}", "port": 104}
                    for place, name in enumerate(DESTINATIONS)
                },
            },
            "destinations": {name: {"node": name.upper()} for name in DESTINATIONS},
            "rules": rules,
        }
    )


def records(studies: int) -> Iterator[tuple[int, str, datetime, str]]:
    """Make records: row, Study Instance UID, when it was decided, and the record as JSON."""
    chance = random.Random(5)
    step = timedelta(days=30) / studies
    for number in range(1, studies + 1):
        at = _BEGIN + number * step
        yield number, f"1.2.826.0.1.3680043.8.498.{number}", at, json.dumps(_record(number, at, chance))


def _record(number: int, at: datetime, chance: random.Random) -> dict[str, Any]:
    modality = chance.choice(MODALITIES)
    site = SITES[min(int(chance.expovariate(0.25)), len(SITES) - 1)]
    part, reason = chance.choice(PARTS), chance.choice(REASONS)
    patient = f"{site}-{chance.randrange(400_000)}"
    minute = int(at.timestamp()) // 60 - 5
    study = {
        "StudyInstanceUID": f"1.2.826.0.1.3680043.8.498.{number}",
        "NumberOfStudyRelatedSeries": 3,
        "SOPClassesInStudy": ["1.2.840.10008.5.1.4.1.1.2"],
        "ModalitiesInStudy": [modality, "SR"] if number % 7 == 0 else [modality],
        "Modality": modality,
        "Sites": [site],
        "StudyDate": f"{at:%Y%m%d}",
        "StudyTime": f"{at:%H%M%S}",
        "StudyDescription": f"{modality} {part} {reason} {chance.randrange(300)}",
        "StudyID": str(number),
        "AccessionNumber": f"A{number:09}",
        "ReferringPhysicianName": f"DR{chance.randrange(900)}^ANA",
        "PatientName": f"FAMILY{chance.randrange(90_000)}^GIVEN",
        "PatientID": patient,
        "IssuerOfPatientID": site.upper(),
        "PatientBirthDate": f"19{chance.randrange(30, 99)}0101",
        "PatientSex": chance.choice("MF"),
        "PatientAge": f"{chance.randrange(100):03}Y",
        "InstitutionName": f"Hospital {site}",
        "Manufacturer": f"Maker {chance.randrange(8)}",
        "ManufacturerModelName": f"Model {chance.randrange(40)}",
        "StationName": f"{site.upper()}-{modality}",
        "BodyPartExamined": part,
        "ProtocolName": f"{part} {chance.randrange(60)}",
        "RequestedProcedureDescription": f"{modality} {part}",
        "RequestedProcedureID": f"P{number}",
    }
    shared = {
        **{keyword: value for keyword, value in study.items() if keyword not in _OF_STUDIES},
        **_SHARED,
        "StudyInstanceUID": study["StudyInstanceUID"],
        "SeriesDate": study["StudyDate"],
        "AcquisitionDate": study["StudyDate"],
        "ContentDate": study["StudyDate"],
        "DeviceSerialNumber": f"{chance.randrange(100):06}",
        "FrameOfReferenceUID": f"1.2.826.0.1.3680043.8.498.{number}.9",
        "PerformedProcedureStepID": f"S{number}",
        "OperatorsName": f"TECH{chance.randrange(200)}",
    }
    kinds: list[dict[str, Any]] = [
        {
            "since": 1,
            "own": {
                "SeriesInstanceUID": f"1.2.826.0.1.3680043.8.498.{number}.{series}",
                "SeriesNumber": series,
                "SeriesDescription": f"{part} {series}",
                "SliceThickness": chance.choice((0.6, 1.0, 2.0, 5.0)),
                "SeriesTime": f"{at:%H%M%S}",
                "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"] if series < 3 else ["DERIVED", "SECONDARY"],
            },
            "arrivals": [[minute + series, count, count * 526_000]],
        }
        for series in range(1, chance.randrange(1, 5) + 1)
        for count in (chance.randrange(1, 200),)
    ]
    count = sum(kind["arrivals"][0][1] for kind in kinds)
    study["NumberOfStudyRelatedInstances"] = count
    node = site.upper()
    return {
        "versions": [
            {
                "number": 1,
                "decided_at": at.isoformat(),
                "network_version": 1,
                "last_arrival": at.isoformat(),
                "source": {
                    "site": site,
                    "node": node,
                    "calling_aet": node,
                    "called_aet": "KIVUKO",
                    "address": "10.0.0.1",
                },
                "study": study,
                "shared": shared,
                "kinds": kinds,
                "left": {"InstanceNumber": 1, "SOPInstanceUID": "1.2.3", "ContentTime": "100000"},
                "looked_for": [],
            }
        ],
        "routes": {
            "archive": {"priority": "routine", "transforms": [""], "hours": [[minute // 60, count, count * 526_000]]}
        },
    }


_OF_STUDIES: Final = {"Sites", "ModalitiesInStudy", "NumberOfStudyRelatedSeries", "SOPClassesInStudy"}
_SHARED: Final = {
    "SpecificCharacterSet": "ISO_IR 100",
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
    "TransferSyntaxUID": "1.2.840.10008.1.2.1",
    "Rows": 512,
    "Columns": 512,
    "BitsAllocated": 16,
    "BitsStored": 12,
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "BurnedInAnnotation": "NO",
    "LossyImageCompression": "00",
    "SoftwareVersions": ["syngo 1.2", "VB20"],
    "PatientWeight": 70.0,
    "PatientSize": 1.7,
    "AcquisitionNumber": 1,
    "PresentationIntentType": "FOR PRESENTATION",
}


async def make(url: str, studies: int, advance: Any) -> None:
    """Make the tables and fill them."""
    database = Database(url, "rules")
    await migrate(database, "services.rules")
    await database.close()
    if database.dialect == "sqlite":
        await asyncio.to_thread(_into_sqlite, Path(str(database.engine.url.database)), studies, advance)
    else:
        await _into_postgresql(url, studies, advance)


def _into_sqlite(path: Path, studies: int, advance: Any) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous=OFF")
    for chunk in _chunks(studies):
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO studies (id, tenant, study_instance_uid, site, waiting, expired_version) "
            "VALUES (?, 'default', ?, ?, 0, 0)",
            [(row, uid, SITES[0]) for row, uid, _, _ in chunk],
        )
        connection.executemany(
            "INSERT INTO history (study_id, decided_at, record) VALUES (?, ?, ?)",
            [(row, f"{at:%Y-%m-%d %H:%M:%S.%f}", text) for row, _, at, text in chunk],
        )
        connection.execute("COMMIT")
        advance(len(chunk))
    connection.close()


async def _into_postgresql(url: str, studies: int, advance: Any) -> None:
    connection = await asyncpg.connect(make_url(url).render_as_string(hide_password=False))
    for chunk in _chunks(studies):
        await connection.copy_records_to_table(
            "studies",
            schema_name="rules",
            columns=("id", "tenant", "study_instance_uid", "site", "waiting", "expired_version"),
            records=[(row, "default", uid, SITES[0], False, 0) for row, uid, _, _ in chunk],
        )
        await connection.copy_records_to_table(
            "history",
            schema_name="rules",
            columns=("study_id", "decided_at", "record"),
            records=[(row, at, text) for row, _, at, text in chunk],
        )
        advance(len(chunk))
    await connection.execute("ANALYZE rules.history; ANALYZE rules.studies")
    await connection.close()


def _chunks(studies: int) -> Iterator[list[tuple[int, str, datetime, str]]]:
    chunk = []
    for one in records(studies):
        chunk.append(one)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
