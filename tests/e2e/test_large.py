"""Objects far larger than the memory that they may take, in both acknowledgement modes."""

from pathlib import Path
from typing import Literal

import pytest

from tests.support.bulk import bulk
from tests.support.kivuko import embedded
from tests.support.process import wait_until
from tests.support.resident import Resident
from tests.support.stored import NETWORK, indexed, kept

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

_SIZE = 300 << 20
_MOST_GROWTH = 64 << 20


# The other pairs, and gigabytes: `make bench ONLY=large`.
@pytest.mark.parametrize(
    ("form", "ack", "objects"), [("native", "spool", "folder"), ("encapsulated", "object-store", "s3")]
)
def test_an_object_of_300_mb_takes_less_than_64_mb_of_memory_and_is_kept_as_sent(
    request: pytest.FixtureRequest, tmp_path: Path, form: Literal["native", "encapsulated"], ack: str, objects: str
) -> None:
    url = request.getfixturevalue("s3").bucket() if objects == "s3" else f"file://{tmp_path / 'objects'}"
    system = embedded(tmp_path, KIVUKO_ACK=ack, KIVUKO_OBJECTS_URL=url)
    try:
        system.start()
        system.apply(NETWORK)
        # What is made once at the first object of all is not the size of an object.
        first = bulk("native", 1)
        assert first.send(system.dicom_port)[0] == 0x0000
        wait_until(lambda: indexed(system.of("ingest").home, first.sop_uid) is not None, "the first to be indexed")
        memory = Resident(system.of("ingest").pid)
        large = bulk(form, _SIZE)

        status, digest, length = large.send(system.dicom_port)

        assert status == 0x0000
        wait_until(lambda: indexed(system.of("ingest").home, large.sop_uid) is not None, "it to be indexed", 120)
        grown = memory.growth()
        found = indexed(system.of("ingest").home, large.sop_uid)
        assert found is not None
        assert found[0] == digest
        assert kept(url, found[1]) == (digest, length)
        assert grown < _MOST_GROWTH, f"grown by {grown / 1e6:.0f} MB"
    finally:
        system.kill()
