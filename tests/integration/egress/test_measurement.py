"""Figures of the queues, with a destination that takes things and one that is away."""

from pathlib import Path

import pytest

from libs.clock import utc_now
from libs.telemetry import metric
from services.egress.measurement import Measurement
from services.egress.orders import Given
from tests.integration.egress.peer import receiver
from tests.integration.egress.stand import network, stand
from tests.support.port import free_port
from tests.support.synthetic import make_study

pytestmark = pytest.mark.integration


def figure(name: str, destination: str) -> float | None:
    return metric.REGISTRY.get_sample_value(f"kivuko_egress_{name}", {"destination": destination})


async def test_each_queue_is_told_with_its_forecast_where_that_is_known(tmp_path: Path) -> None:
    destinations = {key: {"node": key.upper()} for key in ("up", "away", "off")}
    with receiver() as peer:
        nodes = {"UP": {"port": peer.port}, "AWAY": {"port": free_port()}, "OFF": {"port": free_port()}}
        async with stand(tmp_path, network(1, destinations, nodes)) as egress:
            measurement = Measurement(egress.database, utc_now)
            await egress.orders.pause("off", "op", None)
            wanted = {key: egress.keep(make_study(tmp_path, 4)) for key in destinations}
            for key, kept in wanted.items():
                await egress.request(kept, destination=key)
            await egress.until_state("done", destination="up")
            await egress.until_state("waiting", destination="away")
            await egress.until_state("held", destination="off")
            await measurement.measure()
            for key, held in (("away", 0), ("off", 1)):
                assert figure("queue_instances", key) == 4
                assert figure("queue_bytes", key) == sum(item.size for item in wanted[key])
                assert figure("queue_held", key) == held
                assert figure("backlog", key) == 1
                assert (figure("backlog_age_seconds", key) or 0) > 0
                assert figure("queue_forecast_seconds", key) is None
            assert (figure("destination_paused", "off"), figure("destination_paused", "away")) == (1, None)
            assert figure("queue_instances", "up") is None
            # What people hold goes nowhere, so the rest is there at once; what is cancelled is no queue.
            row = await egress.delivery(destination="off")
            assert row is not None
            await egress.orders.resume("off")
            await egress.orders.give(Given("cancel", "op"), [row.id])
            await measurement.measure()
            assert (figure("queue_instances", "off"), figure("destination_paused", "off")) == (None, None)
