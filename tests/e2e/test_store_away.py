"""The object store goes away and comes back, in both acknowledgement modes."""

import random
from pathlib import Path
from typing import Literal

import pytest

from tests.support.kivuko import embedded
from tests.support.outage import store_away
from tests.support.seaweedfs import SeaweedFS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.mark.parametrize("ack", ["spool", "object-store"])
def test_without_its_store_it_goes_on_or_refuses_and_loses_nothing(
    tmp_path: Path, ack: Literal["spool", "object-store"]
) -> None:
    s3 = SeaweedFS(tmp_path / "s3")
    s3.start()
    objects = s3.bucket()
    system = embedded(tmp_path, KIVUKO_ACK=ack, KIVUKO_OBJECTS_URL=objects, KIVUKO_INGEST_QUIET_SECONDS="1")
    try:
        assert store_away(system, ack, s3, objects, random.Random(7), least_s=3) == []
    finally:
        system.kill()
        s3.stop()
