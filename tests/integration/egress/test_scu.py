"""The edge to receivers, against dcmtk, Orthanc and receivers that misbehave."""

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from pynetdicom.presentation import build_context

from libs.dicom import part10
from libs.dicom.reencode import reencoded
from libs.storage.folder import FolderStore
from services.egress.calling import Ending, Timeouts, echo
from services.egress.outcome import NO_ANSWER, NO_CONTEXT, OBJECT_DAMAGED, Outcome, Verdict
from services.egress.parcel import Parcel
from services.egress.reach import Target
from services.egress.scu import Call
from services.egress.shelf import Shelf
from tests.conftest import StoreScpFactory
from tests.integration.egress.peer import at, keep, mute, receiver
from tests.support.behaviour import Behaviour
from tests.support.dicomset import dataset_bytes, real_set
from tests.support.misbehaving import Destination
from tests.support.orthanc import Orthanc
from tests.support.port import free_port
from tests.support.synthetic import (
    CT_IMAGE_STORAGE,
    IMPLICIT_LITTLE_ENDIAN,
    PRIVATE_STORAGE,
    make_ct,
    make_study,
)

pytestmark = pytest.mark.integration
PATIENT = Timeouts(connect=5, acse=20, response=30, network=30)
HASTY = Timeouts(connect=0.5, acse=0.5, response=0.5, network=0.5)


@pytest.fixture
def objects(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "objects")


def send(
    objects: FolderStore, target: Target, parcels: Sequence[Parcel], timeouts: Timeouts = PATIENT
) -> tuple[Ending, list[Outcome]]:
    told: list[Outcome] = []
    shelf = Shelf(0, lambda: None)
    shelf.put(parcels)
    ending = Call(target, shelf, objects, timeouts, lambda _parcel, outcome: told.append(outcome)).run()
    return ending, told


def even(dataset: bytes) -> bytes:
    """End a deflated dataset of odd length as PS3.5 section A.5 asks; pydicom ships one without."""
    return dataset + b"\0" * (len(dataset) % 2)


def test_every_real_file_arrives_with_the_same_bytes(objects: FolderStore, storescp: StoreScpFactory) -> None:
    paths = real_set()
    parcels = [keep(objects, path, number) for number, path in enumerate(paths)]
    server = storescp()
    ending, told = send(objects, at(server.port), parcels)
    assert ending == Ending("finished")
    assert {outcome.status for outcome in told} == {"0000"}
    assert sorted(map(dataset_bytes, server.files())) == sorted(even(dataset_bytes(path)) for path in paths)


def test_orthanc_takes_a_study(objects: FolderStore, orthanc: Orthanc, tmp_path: Path) -> None:
    parcels = [keep(objects, path, n) for n, path in enumerate(make_study(tmp_path, 5))]
    ending, told = send(objects, at(orthanc.dicom_port, "ORTHANC"), parcels)
    assert ending.kind == "finished"
    assert [outcome.verdict for outcome in told] == [Verdict.SENT] * 5
    assert len(orthanc.instances()) == 5


def test_a_private_sop_class_and_implicit_syntax_keep_their_own_context(
    objects: FolderStore, storescp: StoreScpFactory, tmp_path: Path
) -> None:
    paths = [
        make_ct(tmp_path),
        make_ct(tmp_path, implicit=True),
        make_ct(tmp_path, sop_class=PRIVATE_STORAGE),
    ]
    server = storescp()
    _, told = send(objects, at(server.port), [keep(objects, path, n) for n, path in enumerate(paths)])
    assert [outcome.verdict for outcome in told] == [Verdict.SENT] * 3
    assert sorted(map(dataset_bytes, server.files())) == sorted(map(dataset_bytes, paths))


def test_one_that_the_receiver_does_not_take_is_in_nobodys_way(objects: FolderStore, tmp_path: Path) -> None:
    paths = [make_ct(tmp_path, implicit=True), make_ct(tmp_path), make_ct(tmp_path)]
    parcels = [keep(objects, path, n) for n, path in enumerate(paths)]
    bad = parcels[1].sop_instance_uid
    with receiver(lambda uid: 0xC001 if uid == bad else 0xB000) as peer:
        ending, told = send(objects, at(peer.port), parcels)
    assert ending.kind == "finished"
    assert [(o.item, o.verdict, o.status) for o in told] == [
        (0, Verdict.WARNING, "B000"),
        (1, Verdict.REFUSED, "C001"),
        (2, Verdict.WARNING, "B000"),
    ]


def test_uncompressed_data_go_in_the_syntax_that_is_taken(objects: FolderStore, tmp_path: Path) -> None:
    paths = [make_ct(tmp_path), make_ct(tmp_path, implicit=True)]
    parcels = [keep(objects, path, n) for n, path in enumerate(paths)]
    with Destination(Behaviour(syntaxes=(IMPLICIT_LITTLE_ENDIAN,))) as peer:
        ending, told = send(objects, at(peer.port), parcels)
        assert peer.record.violations == []
        received = {each.sop_uid: each.sha256 for each in peer.record.received}
    assert ending == Ending("finished")
    assert [(outcome.item, outcome.status) for outcome in told] == [(0, "0000"), (1, "0000")]
    assert IMPLICIT_LITTLE_ENDIAN in told[0].reason
    assert told[1].reason == ""
    assert received[parcels[1].sop_instance_uid] == parcels[1].content_hash
    with objects.open(parcels[0].object_key) as file:
        part10.decode(file)
        implicit = b"".join(reencoded(file, parcels[0].transfer_syntax_uid, IMPLICIT_LITTLE_ENDIAN))
    assert received[parcels[0].sop_instance_uid] == hashlib.sha256(implicit).hexdigest()


def test_a_receiver_that_takes_none_of_the_classes_refuses_each(objects: FolderStore, tmp_path: Path) -> None:
    parcel = keep(objects, make_ct(tmp_path), 7)
    with receiver(contexts=[build_context("1.2.840.10008.1.1")]) as peer:
        ending, told = send(objects, at(peer.port), [parcel])
    assert ending.kind == "finished"
    assert [(o.item, o.verdict, o.status) for o in told] == [(7, Verdict.REFUSED, NO_CONTEXT)]


def test_more_than_128_contexts_are_for_the_next_association(
    objects: FolderStore, storescp: StoreScpFactory, tmp_path: Path
) -> None:
    classes = [f"1.2.826.0.1.3680043.9.9999.{n}" for n in range(130)]
    parcels = [keep(objects, make_ct(tmp_path, sop_class=uid), n) for n, uid in enumerate(classes)]
    ending, told = send(objects, at(storescp().port), parcels)
    assert ending.kind == "finished"
    assert [(outcome.item, outcome.status) for outcome in told] == [(n, "0000") for n in range(128)]


def test_a_full_receiver_is_left_alone_after_three_answers(objects: FolderStore, tmp_path: Path) -> None:
    parcels = [keep(objects, path, n) for n, path in enumerate(make_study(tmp_path, 6))]
    with receiver(lambda _uid: 0xA700) as peer:
        ending, told = send(objects, at(peer.port), parcels)
    assert ending.kind == "busy"
    assert [outcome.verdict for outcome in told] == [Verdict.LATER] * 3


def test_nobody_at_the_port(objects: FolderStore, tmp_path: Path) -> None:
    ending, told = send(objects, at(free_port()), [keep(objects, make_ct(tmp_path), 0)])
    assert ending.kind == "unreachable"
    assert told == []


def test_an_unknown_host_name(objects: FolderStore, tmp_path: Path) -> None:
    target = Target("no-such-host.invalid", 104, "A", "KIVUKO", 1)
    ending, told = send(objects, target, [keep(objects, make_ct(tmp_path), 0)])
    assert ending.kind == "unreachable"
    assert "no-such-host.invalid" in (ending.problem or "")
    assert told == []


def test_a_rejected_association_says_so(objects: FolderStore, storescp: StoreScpFactory, tmp_path: Path) -> None:
    ending, told = send(objects, at(storescp(flags=["--refuse"]).port), [keep(objects, make_ct(tmp_path), 0)])
    assert ending.kind == "unreachable"
    assert "rejects the association" in (ending.problem or "")
    assert told == []


@pytest.mark.parametrize("flag", ["--abort-during", "--abort-after"])
def test_an_abort_costs_the_one_under_way_and_no_other(
    objects: FolderStore, storescp: StoreScpFactory, tmp_path: Path, flag: str
) -> None:
    parcels = [keep(objects, path, n) for n, path in enumerate(make_study(tmp_path, 3, rows=256, cols=256))]
    ending, told = send(objects, at(storescp(flags=[flag]).port), parcels)
    assert ending.kind == "unreachable"
    unsure = [outcome for outcome in told if outcome.verdict is Verdict.LATER]
    assert [outcome.status for outcome in unsure] == [NO_ANSWER]
    assert len(told) < 3


def test_a_receiver_that_says_nothing_is_given_up(objects: FolderStore, tmp_path: Path) -> None:
    with mute() as port:
        ending, told = send(objects, at(port), [keep(objects, make_ct(tmp_path), 0)], HASTY)
    assert ending.kind == "unreachable"
    assert told == []


def test_a_receiver_that_never_answers_a_store_is_given_up(objects: FolderStore, tmp_path: Path) -> None:
    answer = threading.Event()
    with receiver(lambda _uid: int(not answer.wait(60))) as peer:
        ending, told = send(objects, at(peer.port), [keep(objects, make_ct(tmp_path), 0)], HASTY)
        answer.set()
    assert ending.kind == "unreachable"
    assert [(outcome.verdict, outcome.status) for outcome in told] == [(Verdict.LATER, NO_ANSWER)]


def test_what_is_damaged_or_missing_is_never_sent(objects: FolderStore, tmp_path: Path) -> None:
    parcels = [keep(objects, path, n) for n, path in enumerate(make_study(tmp_path, 4))]
    flipped = bytearray(objects.open(parcels[0].object_key).read())
    flipped[-1] ^= 1
    objects.put(parcels[0].object_key, bytes(flipped))
    objects.delete(parcels[1].object_key)
    objects.put(parcels[2].object_key, b"not DICOM")
    with receiver() as peer:
        ending, told = send(objects, at(peer.port), parcels)
    assert ending.kind == "finished"
    assert [(o.item, o.status) for o in told] == [*((n, OBJECT_DAMAGED) for n in range(3)), (3, "0000")]
    assert peer.received == [parcels[3].sop_instance_uid]


def test_stopping_ends_after_the_instance_under_way(objects: FolderStore, tmp_path: Path) -> None:
    parcels = [keep(objects, path, n) for n, path in enumerate(make_study(tmp_path, 4))]
    told: list[Outcome] = []
    shelf = Shelf(0, lambda: None)
    shelf.put(parcels)

    def tell(_parcel: Parcel, outcome: Outcome) -> None:
        told.append(outcome)
        call.stop()

    with receiver() as peer:
        call = Call(at(peer.port), shelf, objects, PATIENT, tell)
        ending = call.run()
    assert ending.kind == "stopped"
    assert [outcome.item for outcome in told] == [0]


def test_echo(storescp: StoreScpFactory) -> None:
    assert echo(at(storescp().port), PATIENT) == Ending("finished")
    assert echo(at(free_port()), PATIENT).kind == "unreachable"
    with receiver(contexts=[build_context(CT_IMAGE_STORAGE)]) as peer:
        assert "not C-ECHO" in (echo(at(peer.port), PATIENT).problem or "")
