"""The raw sender against a receiver that nobody here wrote: what measures others must itself be right."""

import hashlib

import pytest

from tests.conftest import StoreScpFactory
from tests.support.bulk import Bulk, bulk
from tests.support.dicomset import dataset_bytes
from tests.support.orthanc import Orthanc
from tests.support.port import free_port
from tests.support.requestor import Association, BrokenError, NotAcceptedError
from tests.support.sender import Kind, Load, Sender, SendingError
from tests.support.template import SYNTAX, small, uid

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("kind", ["ct512", "small"])
def test_each_association_is_a_study_of_its_own_and_every_instance_differs(
    storescp: StoreScpFactory, kind: Kind
) -> None:
    server = storescp()

    with Sender() as sender:
        sent = sender.send(Load(server.port, kind, 24, 4, called="STORESCP"))

    datasets = [dataset_bytes(path) for path in server.files()]
    assert len(datasets) == len(sent.responses) == 24
    assert sum(map(len, datasets)) == sent.size
    assert len({hashlib.sha256(each).digest() for each in datasets}) == 24
    assert [sum(study.encode() in each for each in datasets) for study in sent.studies] == [6, 6, 6, 6]
    assert sent.began < sent.ended


def test_the_digest_of_an_image_is_that_of_what_arrives(storescp: StoreScpFactory) -> None:
    server, image = storescp(), small().image()
    image.become(uid(1), uid(2), uid(3), 1)

    association = Association(server.port, sop_class=image.sop_class, syntax=SYNTAX, called="STORESCP")
    status = association.stream(image.sop_class, image.sop_uid, [bytes(image.dataset)])
    association.release()

    assert status == 0x0000
    (arrived,) = [dataset_bytes(path) for path in server.files()]
    assert hashlib.sha256(arrived).hexdigest() == image.digest


@pytest.mark.parametrize("form", ["native", "encapsulated"])
def test_a_large_object_arrives_as_it_is_said_to_be(storescp: StoreScpFactory, form: str) -> None:
    server, large = storescp(), bulk("native" if form == "native" else "encapsulated", 40_000_000)

    status, digest, length = large.send(server.port)

    assert status == 0x0000
    (arrived,) = [dataset_bytes(path) for path in server.files()]
    assert (hashlib.sha256(arrived).hexdigest(), len(arrived)) == (digest, length)


@pytest.mark.parametrize("form", ["native", "encapsulated"])
def test_a_large_object_is_valid_to_orthanc(orthanc: Orthanc, form: str) -> None:
    large: Bulk = bulk("native" if form == "native" else "encapsulated", 40_000_000)

    assert large.send(orthanc.dicom_port)[0] == 0x0000

    assert len(orthanc.instances()) == 1


def test_failures_are_told_not_counted_as_sent(storescp: StoreScpFactory) -> None:
    aborting, refusing = storescp(flags=["--abort-after"]), storescp(flags=["--refuse"])
    nobody = free_port()

    with Sender() as sender:
        for port in (aborting.port, refusing.port, nobody):
            with pytest.raises(SendingError, match="1 of 1 associations failed"):
                sender.send(Load(port, "small", 2, 1, called="STORESCP"))
    with pytest.raises(NotAcceptedError, match="result"):
        Association(refusing.port, sop_class=small().sop_class, syntax=SYNTAX)
    with pytest.raises(BrokenError, match="no connection"):
        Association(nobody, sop_class=small().sop_class, syntax=SYNTAX)
