"""Requests merge into the same delivery, in any order and repeated; migrations make the tables."""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from contracts.delivery import DeliveryItem
from services.egress.models import deliveries, items, metadata
from tests.integration.egress.stand import Stand, request
from tests.support.migrated import migrate
from tests.support.postgresql import PostgreSQL
from tests.support.schema import assert_migrated

pytestmark = pytest.mark.integration


def instance(number: int) -> DeliveryItem:
    return DeliveryItem(
        sop_instance_uid=f"1.2.9.{number}",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        content_hash=f"{number:064x}",
        object_key=f"t/{number}.dcm",
        size=number,
    )


requests = st.fixed_dictionaries(
    {
        "wanted": st.lists(st.integers(0, 5), max_size=4, unique=True),
        "closes": st.booleans(),
        "study_version": st.integers(1, 3),
        "expected": st.integers(1, 6),
        "expected_hash": st.sampled_from([None, "a" * 64, "b" * 64]),
        "priority": st.sampled_from(["stat", "high", "routine", "bulk"]),
        "transform": st.sampled_from([None, "lossless"]),
        "later": st.integers(0, 9),
    }
)


async def merged(asked: list[dict[str, Any]]) -> tuple[Any, ...]:
    with TemporaryDirectory() as folder:
        egress = Stand(f"sqlite://{folder}/db", Path(folder), None)
        await migrate(egress.database, "services.egress")
        for each in asked:
            values = {key: value for key, value in each.items() if key != "wanted"}
            async with egress.database.transaction() as tx:
                await egress.deliveries.merge(request([instance(n) for n in each["wanted"]], **values), tx)
        row, kept = deliveries.c, items.c
        async with egress.database.reading() as tx:
            found = await tx.execute(
                select(
                    row.id,
                    row.state,
                    row.lane,
                    row.requested_at,
                    row.source_node,
                    row.study_version,
                    row.expected_count,
                    row.expected_hash,
                )
            )
            parts = await tx.execute(
                select(kept.sop_instance_uid, kept.content_hash, kept.transform, kept.state, kept.object_key).order_by(
                    kept.sop_instance_uid, kept.transform
                )
            )
            state = (found.all(), parts.all())
        await egress.database.close()
        return state


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(requests, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_any_order_and_repetition_give_the_same_delivery(asked: list[dict[str, Any]], luck: Any) -> None:
    again = [*asked, asked[0]]
    luck.shuffle(again)
    assert asyncio.run(merged(again)) == asyncio.run(merged(asked))


async def test_revisions_make_the_tables_on_sqlite(tmp_path: Path) -> None:
    await assert_migrated(f"sqlite://{tmp_path}", "egress", metadata)


async def test_revisions_make_the_tables_on_postgresql(postgresql: PostgreSQL) -> None:
    await assert_migrated(postgresql.database(), "egress", metadata)
