"""What destinations can do, found out from peers that nobody here wrote, and from some that misbehave."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pynetdicom.presentation import build_context

from libs.dicom.uid import new_uid
from services.egress.calling import Timeouts
from services.egress.examination import EXPLICIT, IMPLICIT, SERVICES, SYNTAXES, VERIFICATION, common_pairs, examine
from services.egress.outcome import Verdict
from services.egress.specimen import PATIENT_ID, SECONDARY_CAPTURE, specimen
from tests.conftest import StoreScpFactory
from tests.integration.egress.peer import at, mute, receiver
from tests.support.orthanc import Orthanc
from tests.support.port import free_port
from tests.support.synthetic import CT_IMAGE_STORAGE

pytestmark = pytest.mark.integration
BRIEF = Timeouts(connect=5, acse=1, response=1, network=5)
PATIENT = Timeouts(5, 10, 10, 10)
NOW = datetime(2026, 11, 20, 10, tzinfo=UTC)
JPEG_2000 = "1.2.840.10008.1.2.4.90"


def test_dcmtk_takes_all_that_it_knows_and_keeps_a_test_object(storescp: StoreScpFactory) -> None:
    server = storescp()
    sent = specimen(NOW)
    found = examine(at(server.port), PATIENT, common_pairs(), sent, time.perf_counter)
    assert found.problem is None
    assert "OFFIS_DCMTK" in found.implementation[1]
    assert found.implementation[0].startswith("1.2.276.0.7230010")
    assert (found.max_pdu, found.window) == (16_384, 1)
    assert found.round_trip is not None
    assert found.connected_in is not None
    # More pairs than one association can have.
    assert set(found.contexts) == set(common_pairs())
    assert {syntax for (_, syntax), taken in found.contexts.items() if taken} >= {IMPLICIT, EXPLICIT, JPEG_2000}
    assert not any(found.services.values())
    assert found.stored is not None
    assert (found.stored.outcome.verdict, found.stored.transfer_syntax_uid) == (Verdict.SENT, EXPLICIT)
    [file] = server.files()
    kept = dcmread(file)
    assert (kept.PatientID, kept.SOPInstanceUID) == (PATIENT_ID, sent.sop_instance_uid)
    assert "may be deleted" in kept.StudyDescription
    assert len(kept.PixelData) == kept.Rows * kept.Columns


def test_queries_are_tried_where_we_are_known(tmp_path: Path) -> None:
    orthanc = Orthanc(tmp_path / "orthanc", settings={"DicomModalities": {"us": ["KIVUKO", "127.0.0.1", free_port()]}})
    with ExitStack() as stack:
        stack.callback(orthanc.close)
        orthanc.start()
        found = examine(at(orthanc.dicom_port, "ORTHANC"), PATIENT, [], None, time.perf_counter, new_uid())
    assert found.problem is None
    assert found.tried == {"C-FIND (study root)": None, "C-MOVE (study root)": None}


def test_orthanc_offers_queries(orthanc: Orthanc) -> None:
    found = examine(
        at(orthanc.dicom_port, "ORTHANC"), PATIENT, common_pairs(), specimen(NOW), time.perf_counter, new_uid()
    )
    assert found.problem is None
    # It does not know us, and lets nobody ask whom it does not know.
    assert "KIVUKO" in (found.tried["C-FIND (study root)"] or "")
    assert "KIVUKO" in (found.tried["C-MOVE (study root)"] or "")
    assert found.services["C-FIND (study root)"]
    assert found.services["C-MOVE (study root)"]
    assert not found.services["C-FIND (worklist)"]
    [instance] = orthanc.instances()
    assert dcmread(BytesIO(orthanc.file(instance))).PatientID == PATIENT_ID


def test_what_a_narrow_receiver_takes_and_why_not_the_rest() -> None:
    contexts = [
        build_context(VERIFICATION),
        build_context(CT_IMAGE_STORAGE, [IMPLICIT]),
        build_context(SECONDARY_CAPTURE, [IMPLICIT]),
        build_context(SERVICES["C-FIND (study root)"]),
    ]
    with receiver(contexts=contexts) as peer:
        found = examine(at(peer.port), PATIENT, common_pairs(), specimen(NOW), time.perf_counter)
    assert found.problem is None
    taken = {pair for pair, accepted in found.contexts.items() if accepted}
    assert taken == {(CT_IMAGE_STORAGE, IMPLICIT), (SECONDARY_CAPTURE, IMPLICIT)}
    # PS3.8 table 9-18: 3 abstract syntax, 4 transfer syntaxes not supported.
    assert found.results[(CT_IMAGE_STORAGE, JPEG_2000)] == 4
    assert found.results[("1.2.840.10008.5.1.4.1.1.4", IMPLICIT)] == 3
    assert set(found.results) == set(found.contexts) - taken
    assert [name for name, offered in found.services.items() if offered] == ["C-FIND (study root)"]
    assert found.stored is not None
    assert found.stored.transfer_syntax_uid == IMPLICIT
    assert len(peer.received) == 1


def test_without_being_asked_nothing_is_stored() -> None:
    contexts = [build_context(VERIFICATION), build_context(SECONDARY_CAPTURE)]
    with receiver(contexts=contexts) as peer:
        found = examine(at(peer.port), PATIENT, [(SECONDARY_CAPTURE, IMPLICIT)], None, time.perf_counter)
    assert (found.problem, found.stored, peer.received) == (None, None, [])


def test_a_test_object_that_is_refused_is_told_with_its_status() -> None:
    contexts = [build_context(VERIFICATION), build_context(SECONDARY_CAPTURE)]
    with receiver(lambda _uid: 0xA700, contexts) as peer:
        found = examine(at(peer.port), PATIENT, [], specimen(NOW), time.perf_counter)
    assert found.problem is None
    assert found.stored is not None
    assert (found.stored.outcome.verdict, found.stored.outcome.status) == (Verdict.LATER, "A700")


def test_what_was_found_out_before_it_broke_is_kept() -> None:
    with receiver(contexts=[build_context(VERIFICATION)]) as peer:
        found = examine(at(peer.port), PATIENT, [(CT_IMAGE_STORAGE, EXPLICIT)], specimen(NOW), time.perf_counter)
    assert found.problem == "the receiver does not take Secondary Capture images, which the test object is"
    assert found.contexts == {(CT_IMAGE_STORAGE, EXPLICIT): False}
    assert found.round_trip is not None


def test_one_that_does_not_take_echo() -> None:
    with receiver() as peer:
        found = examine(at(peer.port), PATIENT, common_pairs(), None, time.perf_counter)
    assert found.problem == "the receiver takes the association, but not C-ECHO"
    assert found.contexts == {}


def test_one_that_is_away_or_says_nothing() -> None:
    away = examine(at(free_port()), BRIEF, common_pairs(), specimen(NOW), time.perf_counter)
    assert "nothing takes connections" in (away.problem or "")
    with mute() as port:
        silent = examine(at(port), BRIEF, common_pairs(), specimen(NOW), time.perf_counter)
    assert "does not answer the association request" in (silent.problem or "")
    for found in (away, silent):
        assert (found.round_trip, found.contexts, found.stored) == (None, {}, None)


@pytest.mark.parametrize("answer", [b"", b"\x07\x00\x00\x00\x00\x04\x00\x00\x00\x00"])
def test_one_that_hangs_or_aborts_after_the_association_stands(answer: bytes) -> None:
    with receiver(contexts=[build_context(VERIFICATION)]) as peer, _cut(peer.port, answer) as port:
        found = examine(at(port), BRIEF, common_pairs(), None, time.perf_counter)
    assert "the receiver takes the association but does not answer C-ECHO" in (found.problem or "")
    assert found.connected_in is not None


@contextmanager
def _cut(port: int, answer: bytes) -> Iterator[int]:
    """Pass the association request and its answer on to a receiver; to what follows answer with these bytes."""
    done = threading.Event()

    def serve(listening: socket.socket) -> None:
        caller, _ = listening.accept()
        with caller, socket.create_connection(("127.0.0.1", port)) as peer:
            peer.sendall(caller.recv(1 << 16))
            caller.sendall(peer.recv(1 << 16))
            caller.recv(1 << 16)
            caller.sendall(answer)
            done.wait(60)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            done.set()
            thread.join()


def test_every_transfer_syntax_has_a_short_name_of_its_own() -> None:
    assert len(set(SYNTAXES.values())) == len(SYNTAXES)
    assert all(len(name) <= 16 for name in SYNTAXES.values())
