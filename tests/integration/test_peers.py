"""The peers of the other tests take the whole set, so that a failure there is never the peer's or the set's."""

from pathlib import Path

import pytest

from tests.conftest import StoreScpFactory
from tests.support.dcmtk import echoscu, storescu
from tests.support.dicomset import dataset_bytes, real_set, rt_set
from tests.support.orthanc import Orthanc
from tests.support.synthetic import PRIVATE_STORAGE, make_ct

pytestmark = pytest.mark.integration


@pytest.fixture
def everything(tmp_path: Path) -> list[Path]:
    made = [make_ct(tmp_path), make_ct(tmp_path, implicit=True), make_ct(tmp_path, sop_class=PRIVATE_STORAGE)]
    return [*real_set(), *rt_set(tmp_path), *made]


def test_storescp_takes_the_whole_set(storescp: StoreScpFactory, everything: list[Path]) -> None:
    node = storescp()
    sent = storescu(node.port, everything, called=node.aet)
    assert sent.returncode == 0, sent.stderr
    assert len(node.files()) == len(everything)


def test_orthanc_takes_the_whole_set(orthanc: Orthanc, everything: list[Path]) -> None:
    sent = storescu(orthanc.dicom_port, everything, called=orthanc.aet)
    assert sent.returncode == 0, sent.stderr
    assert len(orthanc.instances()) == len(everything)


def test_storescp_keeps_a_dataset_as_it_came(storescp: StoreScpFactory, tmp_path: Path) -> None:
    first, second = storescp(), storescp()
    path = make_ct(tmp_path)
    storescu(first.port, [path], called=first.aet)
    storescu(second.port, first.files(), called=second.aet)
    assert dataset_bytes(second.files()[0]) == dataset_bytes(first.files()[0])


def test_storescp_can_be_down_and_come_back(storescp: StoreScpFactory) -> None:
    node = storescp()
    node.stop()
    assert echoscu(node.port, called=node.aet).returncode != 0
    node.start()
    assert echoscu(node.port, called=node.aet).returncode == 0
