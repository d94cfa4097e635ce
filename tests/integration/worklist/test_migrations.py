"""What earlier releases have written is understood after the revisions that came since."""

from typing import Any

import pytest
from sqlalchemy import Connection, MetaData, insert, select, text

from libs.storage.database import Database
from libs.storage.migration import migrate
from services.worklist.body import written
from services.worklist.change import Number, OrderChange
from services.worklist.models import changes, orders, patients
from tests.integration.worklist.conftest import make_desk
from tests.support.schema import upgrade_to
from tests.unit.worklist.said import JANE, NOON, order

pytestmark = pytest.mark.integration
BARE = Number("100")
#: Site, patient, and what the order says of it; the last is of a hospital that says who issued its identifiers.
ORDERS: tuple[tuple[str, int, Number, str], ...] = (
    ("malabo", 1, BARE, "DOE^JANE"),
    ("bata", 1, BARE, "ROE^JOHN"),
    ("bata", 1, BARE, "ROE^JOHNNY"),
    ("mongomo", 2, JANE, "POE^ANN"),
)


def said(number: int) -> OrderChange:
    site, _, patient, name = ORDERS[number]
    person = {"PatientName": (name,), "PatientWeight": ("70",)}
    return order(number, placer=f"P{number}", patient=patient, person=person, site=site, source=site)


def _fill(connection: Connection) -> None:
    upgrade_to(connection, "worklist", "0004")
    metadata = MetaData()
    metadata.reflect(connection)

    def add(table: str, *rows: dict[str, Any]) -> None:
        connection.execute(insert(metadata.tables[table]), rows)

    add("counters", {"name": "revision", "value": 9}, {"name": "rows", "value": 50})
    name = {"PatientName": [["2026-11-20T12:02:00.000000", "bata", "m2", 0], ["ROE^JOHNNY"]]}
    sex = {"PatientSex": [["2026-11-20T12:05:00.000000", "HIS", "m5", 0], ["F"]]}
    patient = {"tenant": "minsabs", "merged_into": None, "changed_at": NOON}
    add(
        "patients",
        {**patient, "id": 1, "value": "100", "issuer": "", "said": {**name, **sex}},
        {**patient, "id": 2, "value": "100", "issuer": "HIS", "said": name},
        {**patient, "id": 3, "value": "300", "issuer": "", "said": {}},
        {**patient, "id": 4, "value": "400", "issuer": "", "said": {}, "merged_into": 1},
        {**patient, "id": 5, "value": "500", "issuer": "", "said": {}, "merged_into": 4},
    )
    for number, (site, patient_id, _, _) in enumerate(ORDERS):
        change = said(number)
        add(
            "orders",
            {
                "id": 10 + number, "tenant": "minsabs", "site": site, "patient_id": patient_id, "placer": f"P{number}",
                "filler": None, "accession": f"A{number}", "study_instance_uid": f"1.{number}", "minted": [],
                "priority": "routine", "state": "scheduled", "start": "", "told": {}, "joined_into": None,
                "placed_at": NOON, "changed_at": NOON, "floating": False,
            },
        )  # fmt: skip
        add(
            "order_numbers",
            {"tenant": "minsabs", "kind": "placer", "value": f"P{number}", "scope": "HIS", "order_id": 10 + number},
        )
        add(
            "changes",
            {
                "tenant": "minsabs", "source": site, "message": change.origin.message, "part": 0,
                "stamp": change.origin.stamp, "kind": "order", "order_id": 10 + number, "patient_id": patient_id,
                "body": written(change),
            },
        )  # fmt: skip


async def test_an_identifier_that_several_sites_used_becomes_one_of_each(database_url: str) -> None:
    database = Database(database_url, "worklist")
    async with database.migrating() as connection:
        if database.dialect == "postgresql":
            await connection.execute(text('CREATE SCHEMA "worklist"'))
        await connection.run_sync(_fill)
    await migrate(database, "services.worklist")
    async with database.reading() as tx:
        rows = (await tx.execute(select(patients).order_by(patients.c.id))).all()
        assert [(row.id, row.value, row.issuer, row.site) for row in rows] == [
            (1, "100", "", "bata"),
            (2, "100", "HIS", ""),
            (3, "300", "", ""),
            (4, "400", "", "bata"),
            (5, "500", "", "bata"),
            (51, "100", "", "malabo"),
        ]
        names = {row.site: {name: values for name, (_, values) in row.said.items()} for row in rows if row.said}
        assert names["bata"] == {"PatientName": ["ROE^JOHNNY"], "PatientSex": ["F"]}
        assert names["malabo"] == {"PatientName": ["DOE^JANE"]}
        owners = select(orders.c.placer, orders.c.patient_id, changes.c.patient_id)
        found = await tx.execute(owners.where(changes.c.order_id == orders.c.id).order_by(orders.c.id))
        assert [tuple(row) for row in found] == [("P0", 51, 51), ("P1", 1, 1), ("P2", 1, 1), ("P3", 2, 2)]
    await database.close()
    desk = await make_desk(database_url)
    # What was said then, and what is said now, is of the same patient.
    await desk.take(order(9, "update", placer="P0", patient=Number("100", site="malabo"), about={"x": ()}))
    async with desk.database.reading() as tx:
        assert len((await tx.execute(select(patients.c.id))).all()) == 6
        assert len((await tx.execute(select(orders.c.id))).all()) == len(ORDERS)
    assert [item["attributes"]["PatientName"] for item in await desk.items()] == [["DOE^JANE"]]
    await desk.database.close()
