"""No statement of the indexer reads a table from end to end: what is indexed already must not slow what comes."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event

from contracts.fact import ObjectRef
from contracts.instances import StoredInstance
from libs.clock import utc_now
from libs.storage.database import Database
from services.ingest import repository
from services.ingest.evidence import Patience
from tests.support.migrated import migrate
from tests.unit.ingest.entries import make_entry

pytestmark = pytest.mark.integration


def batch(number: int, study: str) -> repository.Indexed:
    """Make a batch of one new instance and one duplicate."""
    new = make_entry(2 * number, study=study)
    duplicate = make_entry(2 * number + 1, study=study, sop_uid=f"1.2.3.{2 * (number % 2)}")
    instance = StoredInstance(
        sop_instance_uid=new.arrival.sop_instance_uid,
        sop_class_uid=new.arrival.sop_class_uid,
        series_instance_uid=new.series_uid,
        transfer_syntax_uid=new.arrival.transfer_syntax_uid,
        content_hash=new.content_hash,
        object_key=new.object_key,
        size=new.size,
        received_at=new.arrival.received_at,
        attributes={"Modality": "CT", "InstanceNumber": number},
    )
    headers = ObjectRef(key="headers/1", sha256="0" * 64, size=1)
    arrivals = {"stored": [new], "duplicate": [duplicate]}
    return repository.Indexed(f"b{number}", "default", study, (instance,), arrivals, headers)


async def test_every_statement_goes_by_an_index(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}", "ingest")
    await migrate(database, "services.ingest")
    statements: list[str] = []

    @event.listens_for(database.engine.sync_engine, "before_cursor_execute")
    def note(_connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    wanted = [("default", f"1.2.3.{number}") for number in range(20)]
    patience = Patience(timedelta(seconds=1))
    for round_ in (0, 2):
        async with database.transaction() as tx:
            known = await repository.known(tx, wanted)
            assert len(known) == round_
            batches = [batch(round_, "1.2.3"), batch(round_ + 1, "1.2.4")]
            await repository.index(tx, batches, now=utc_now(), patience=patience)
    hot = [each for each in statements if each.startswith(("SELECT", "UPDATE", "DELETE"))]
    assert len(set(hot)) >= 5
    async with database.reading() as tx:
        connection = await tx.connection()
        whole = await connection.exec_driver_sql("EXPLAIN QUERY PLAN SELECT attributes FROM instances")
        assert [row.detail.startswith("SCAN") for row in whole] == [True]
        for statement in hot:
            plan = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", ("1",) * statement.count("?"))
            steps = [row.detail for row in plan]
            assert steps
            assert not [step for step in steps if step.startswith("SCAN")], (statement, steps)
    await database.close()
