"""Limits of a node, seen by the node: put off, not broken off."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import CTImageStorage  # type: ignore[attr-defined]  # made at run time
from sqlalchemy import select

from services.ingest.models import instances
from tests.integration.ingest.conftest import NETWORK, running
from tests.integration.ingest.peer import send
from tests.support.dicomset import dataset_bytes
from tests.support.process import wait_until
from tests.support.synthetic import PRIVATE_STORAGE, make_ct, make_study

pytestmark = pytest.mark.integration


def network(limits: dict[str, Any], **site: Any) -> dict[str, Any]:
    nodes, sites = NETWORK["nodes"], NETWORK["sites"]
    return NETWORK | {
        "nodes": nodes | {"CT1": nodes["CT1"] | {"limits": limits}},
        "sites": sites | {"luba": sites["luba"] | site},
    }


def associate(port: int, calling: str = "CT1") -> Association:
    return AE(ae_title=calling).associate("127.0.0.1", port, [build_context(CTImageStorage)], ae_title="KIVUKO")


async def test_one_association_too_many_is_rejected_for_now(tmp_path: Path) -> None:
    async with running(tmp_path / "home", network=network({"associations": 1})) as ingest:

        def go() -> None:
            first = associate(ingest.port)
            assert first.is_established
            second = associate(ingest.port)
            assert second.is_rejected
            answer: Any = second.acceptor.primitive
            # PS3.8 section 9.3.4: transient, presentation, local limit exceeded.
            assert (answer.result, answer.result_source, answer.diagnostic) == (2, 3, 2)
            other = associate(ingest.port, "MR1")
            assert other.is_established
            other.release()
            first.release()

            def let_in() -> bool:
                again = associate(ingest.port)
                established = again.is_established
                if established:
                    again.release()
                return established

            wait_until(let_in, "a place for the node")

        await asyncio.to_thread(go)
        (event,) = await ingest.events("association.refused")
        assert "which is its limit" in event["data"]["reason"]


async def test_an_object_too_long_is_refused_and_the_association_goes_on(tmp_path: Path) -> None:
    small = make_ct(tmp_path, rows=16, cols=16)
    large = make_ct(tmp_path, rows=256, cols=256)
    limit = len(dataset_bytes(small))
    async with running(tmp_path / "home", network=network({"object-size": limit})) as ingest:
        statuses = await asyncio.to_thread(send, ingest.port, [small, large, small])
        assert statuses == [0x0000, 0xA700, 0x0000]
        await ingest.until_indexed()
        rows = await ingest.rows(select(instances.c.content_hash))
        assert [row.content_hash for row in rows] == [hashlib.sha256(dataset_bytes(small)).hexdigest()]
        assert ingest.spool == []


async def test_all_arrive_at_whatever_rate(tmp_path: Path) -> None:
    paths = make_study(tmp_path, 8)
    async with running(tmp_path / "home", network=network({"associations": 4, "rate": 4})) as ingest:
        assert await asyncio.to_thread(send, ingest.port, paths) == [0x0000] * len(paths)
        await ingest.until_indexed()
        assert len(await ingest.rows(select(instances.c.id))) == len(paths)


async def test_a_site_may_take_standard_classes_only(tmp_path: Path) -> None:
    standard, private = make_ct(tmp_path), make_ct(tmp_path, sop_class=PRIVATE_STORAGE)
    async with running(tmp_path / "home", network=network({}, sop_classes="standard")) as ingest:
        assert await asyncio.to_thread(send, ingest.port, [standard]) == [0x0000]
        with pytest.raises(ValueError, match="unpack"):
            # The context of the private class is not accepted, so that there is nothing to send on.
            await asyncio.to_thread(send, ingest.port, [private, standard])
