"""Indexing with a million instances indexed already, beside an empty index: on SQLite and on PostgreSQL.

The indexer runs alone, in this process, on entries that were spooled before: nothing is received, and nobody hears the
events. UIDs are random, which is the hardest for an index: no two that follow each other are neighbours in it.
"""

import asyncio
import hashlib
import itertools
import json
import secrets
import shutil
import tempfile
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from rich.progress import Progress, TaskID
from sqlalchemy import text

from contracts.fact import Source
from libs.clock import utc_now
from libs.dicom import header, part10
from libs.messaging.outbox import Outbox
from libs.storage.database import Database
from libs.storage.objects import open_store
from libs.telemetry import log
from libs.telemetry.metric import REGISTRY
from services.ingest.arrival import Arrival, Entry, arrival_id
from services.ingest.evidence import Patience
from services.ingest.indexer import Indexer
from services.ingest.models import messaging
from services.ingest.settings import IngestSettings
from services.ingest.spool import Spool
from services.ingest.work import Work
from tests.bench.figure import Figure, beside
from tests.support.migrated import migrate
from tests.support.postgresql import PostgreSQL
from tests.support.synthetic import make_ct

_ALREADY = 1_000_000
_A_STUDY = 250
_ROUNDS = 5
_COUNT = 2000
_GOAL = 0.9
_SOURCE = Source(site="luba", node="CT1", calling_aet="CT1", called_aet="KIVUKO", address="127.0.0.1")
#: UIDs as long as those that are drawn.
_STUDY, _SERIES, _SOP = (f"2.25.{digit * 38}" for digit in "123")

#: What the two databases write differently: rows from 1, a random UID, an arrival's name, a document, a time.
_WORDS = {
    "sqlite": {
        "numbers": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})",
        "uid": "printf('2.25.1%018d%019d', abs(random() % 1000000000000000000), abs(random() % 1000000000000000000))",
        "name": "printf('%016x-%016x', i, i)",
        "json": "{}",
        "time": "'2026-01-15 10:00:00.000000'",
    },
    "postgresql": {
        "numbers": "WITH n(i) AS (SELECT generate_series(1, {count}))",
        "uid": "concat('2.25.1', lpad(CAST(CAST(floor(random() * 1e18) AS bigint) AS text), 18, '0'), "
        "lpad(CAST(CAST(floor(random() * 1e18) AS bigint) AS text), 19, '0'))",
        "name": "concat(lpad(to_hex(i), 16, '0'), '-', lpad(to_hex(i), 16, '0'))",
        "json": "CAST({} AS json)",
        "time": "TIMESTAMPTZ '2026-01-15 10:00:00+00'",
    },
}
_STUDIES = """INSERT INTO studies (id, tenant, study_uid, first_arrival, first_arrival_id, last_arrival, source,
sites, instance_count, series_count, revision, version)
SELECT i, 'default', {uid}, {time}, 'a', {time}, {source}, {sites}, {a_study}, 1, 1, 1 FROM n"""
_SERIES_OF = """INSERT INTO series (study_id, series_uid, modality, instance_count)
SELECT i, {uid}, 'CT', {a_study} FROM n"""
_INSTANCES = """INSERT INTO instances (id, study_id, tenant, sop_uid, sop_class_uid, series_uid, transfer_syntax_uid,
content_hash, object_key, size, received_at, batch_id, attributes)
SELECT i, 1 + (i - 1) / {a_study}, 'default', {uid}, '1.2.840.10008.5.1.4.1.1.2', '{series_uid}',
'1.2.840.10008.1.2.1', '{zeros}', '{object_key}', 9000, {time}, '{zeros}', {attributes} FROM n"""
_ARRIVALS = """INSERT INTO arrivals (id, study_id, sop_uid, outcome, association_id, source, received_at)
SELECT {name}, 1 + (i - 1) / {a_study}, {uid}, 'stored', '{zeros}', {source}, {time} FROM n"""
#: PostgreSQL does not see numbers that were given.
_NUMBER_ON = tuple(
    f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT max(id) FROM {table}))"  # noqa: S608 - two names
    for table in ("studies", "instances")
)


class _Index:
    """An index with an indexer of its own."""

    def __init__(self, url: str, home: Path) -> None:
        self.database = Database(url, "ingest")
        self.home = home
        home.mkdir()

    async def fill(self, count: int, attributes: str) -> None:
        """Have a number of instances in it; each row has the attributes of a header, as JSON."""
        dialect = self.database.dialect
        words = _WORDS[dialect]
        documents = {"attributes": attributes, "source": _SOURCE.model_dump_json(), "sites": "[]"}
        filled = {
            **words,
            **{name: words["json"].format(f":{name}") for name in documents},
            "a_study": _A_STUDY,
            "series_uid": _SERIES,
            "zeros": "0" * 64,
            "object_key": f"default/{_STUDY}/{_SERIES}/{_SOP}.{'0' * 33}.dcm",
        }
        async with self.database.transaction() as tx:
            if dialect == "sqlite":
                await tx.execute(text("PRAGMA cache_size = -1000000"))
            else:
                await tx.execute(text("SET LOCAL statement_timeout = 0"))
            for rows, statement in (
                (count // _A_STUDY, _STUDIES),
                (count // _A_STUDY, _SERIES_OF),
                (count, _INSTANCES),
                (count, _ARRIVALS),
            ):
                made = text(f"{words['numbers'].format(count=rows)} {statement.format(**filled)}")
                await tx.execute(made, {name: value for name, value in documents.items() if f":{name}" in made.text})
            if dialect == "sqlite":
                await tx.execute(text("PRAGMA cache_size = -2000"))
            else:
                for statement in ("ANALYZE", *_NUMBER_ON):
                    await tx.execute(text(statement))

    async def rest(self) -> None:
        """Have PostgreSQL do now what filling it has left to do: it must not fall into the rounds."""
        if self.database.dialect != "postgresql":
            return
        async with self.database.engine.connect() as connection:
            outside = await connection.execution_options(isolation_level="AUTOCOMMIT")
            for statement in ("SET statement_timeout = 0", "VACUUM (ANALYZE)", "CHECKPOINT", "RESET statement_timeout"):
                await outside.execute(text(statement))

    async def rate(self, entries: Sequence[Entry]) -> float:
        """Index entries; give how many a second."""
        done = asyncio.Event()
        work = Work(lambda: None)
        objects = open_store(f"file://{self.home}/objects")
        indexer = Indexer(
            self.database,
            objects,
            Spool(self.home / "spool", 0),
            work,
            Outbox("ingest", "local", utc_now, messaging),
            run=secrets.token_hex(8),
            settings=IngestSettings(),
            definition=lambda: None,
            patience=lambda: Patience(timedelta(seconds=30)),
            clock=utc_now,
            changed=lambda: None if work.depth() else done.set(),
        )
        for entry in entries:
            work.spooled(entry.arrival.id, entry.arrival.association_id, entry.study, entry.arrival.received_at)
        running = asyncio.create_task(indexer.run())
        start = time.perf_counter()
        failed = _failures()
        for entry in entries:
            indexer.submit(entry)
        await done.wait()
        seconds = time.perf_counter() - start
        if _failures() > failed:
            raise RuntimeError("batches failed and were tried again: what was measured is not indexing; see the log")
        running.cancel()
        await asyncio.wait({running})
        objects.close()
        return len(entries) / seconds


def run(progress: Progress) -> list[Figure]:
    """Index the same number of instances into an empty and into a full index, in turn."""
    log.configure("warning")
    figures = []
    task = progress.add_task("index: a million instances", total=2 * (1 + 2 * _ROUNDS))
    with tempfile.TemporaryDirectory(prefix="kivuko-index-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        server = PostgreSQL(folder / "postgresql")
        server.start()
        try:
            for dialect in ("sqlite", "postgresql"):
                urls = [
                    f"sqlite:///{folder}/{each}" if dialect == "sqlite" else server.database()
                    for each in ("empty", "full")
                ]
                empty, full = (_Index(url, folder / f"{dialect}-{n}") for n, url in enumerate(urls))
                rates = asyncio.run(_compare(empty, full, progress, task))
                figure = beside(
                    f"{dialect}, {_ALREADY:,} indexed", "instances/s", rates[1], "empty index", rates[0], least=_GOAL
                )
                figures.append(figure)
                shutil.rmtree(empty.home)
                shutil.rmtree(full.home)
        finally:
            server.stop()
    return figures


async def _compare(empty: _Index, full: _Index, progress: Progress, task: TaskID) -> tuple[list[float], list[float]]:
    rates: tuple[list[float], list[float]] = ([], [])
    try:
        for index in (empty, full):
            await migrate(index.database, "services.ingest")
        sample = make_ct(full.home, study_uid=_STUDY, series_uid=_SERIES, sop_uid=_SOP, rows=64, cols=64)
        await full.fill(_ALREADY, _attributes(sample))
        for index in (empty, full):
            await index.rest()
        progress.advance(task)
        for number in range(_ROUNDS):
            # Whoever is first finds a colder machine, so they take turns.
            for which in (0, 1) if number % 2 else (1, 0):
                index = (empty, full)[which]
                rates[which].append(await index.rate(_entries(index.home / "spool", sample)))
                progress.advance(task)
    finally:
        await empty.database.close()
        await full.database.close()
    return rates


def _attributes(sample: Path) -> str:
    with sample.open("rb") as file:
        meta, _ = part10.decode(file)
        return json.dumps(header.read(file, meta.transfer_syntax_uid).attributes)


def _entries(folder: Path, sample: Path) -> list[Entry]:
    """Write the files of new arrivals: eight studies, one association each."""
    with sample.open("rb") as file:
        meta, _ = part10.decode(file)
        dataset = file.read()
    folder.mkdir(exist_ok=True)
    studies = itertools.cycle([(_uid(), _uid(), secrets.token_hex(16)) for _ in range(8)])
    entries = []
    for study_uid, series_uid, association in itertools.islice(studies, _COUNT):
        sop_uid = _uid()
        data = dataset
        for old, new in ((_STUDY, study_uid), (_SERIES, series_uid), (_SOP, sop_uid)):
            data = data.replace(old.encode(), new.encode())
        now = utc_now()
        arrival = Arrival(
            id=arrival_id(now, secrets.token_bytes(8)),
            tenant="default",
            source=_SOURCE,
            association_id=association,
            sop_class_uid=meta.sop_class_uid,
            sop_instance_uid=sop_uid,
            transfer_syntax_uid=meta.transfer_syntax_uid,
            received_at=now,
        )
        path = folder / f"{arrival.id}.in"
        size = path.write_bytes(part10.encode(arrival.meta()) + data)
        entries.append(
            Entry(arrival, study_uid, series_uid, path, hashlib.sha256(data).hexdigest(), size, accepted=True)
        )
    return entries


def _failures() -> float:
    kinds = ("index", "alarm")
    return sum(REGISTRY.get_sample_value("kivuko_ingest_failures_total", {"kind": kind}) or 0 for kind in kinds)


def _uid() -> str:
    return f"2.25.1{secrets.randbelow(10**37):037d}"
