"""Orders over MLLP, from the bytes of a sender to the item and the answer."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import hl7
import pytest
from hl7.client import MLLPClient
from hl7.mllp import open_hl7_connection

from tests.integration.worklist.hl7_port import Port, hl7_port
from tests.support.hl7 import Line, fields, header, message, order

pytestmark = pytest.mark.integration


@pytest.fixture
async def port(tmp_path: Path) -> AsyncIterator[Port]:
    """A port on SQLite, with one node that sends from this machine."""
    async with hl7_port(f"sqlite:///{tmp_path / 'db'}", tmp_path) as made:
        yield made


async def test_order_is_an_item_before_it_is_acknowledged(port: Port) -> None:
    reader, writer = await open_hl7_connection(*port.address.rsplit(":", 1))
    writer.writemessage(hl7.parse(order().decode()))
    await writer.drain()
    answer = await reader.readmessage()
    assert (str(answer.segment("MSA")[1]), str(answer.segment("MSA")[2])) == ("AA", "M1")
    [item] = await port.items()
    assert (item["step_id"], item["modality"], item["station_aets"], item["start"]) == (
        "SPS1",
        "CT",
        ["CT1"],
        "20261120110000",
    )
    writer.close()
