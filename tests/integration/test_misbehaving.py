"""Destinations that misbehave do so as they say, seen by senders that nobody here wrote, or by bytes."""

import hashlib
import re
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import pytest
from pynetdicom import AE
from pynetdicom.dsutils import decode
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    AsynchronousOperationsWindowNegotiation,
    ImplementationClassUIDNotification,
    MaximumLengthNotification,
)
from pynetdicom.presentation import build_context
from pynetdicom.transport import AddressInformation

from tests.support import dul, requestor
from tests.support.authority import Authority
from tests.support.behaviour import (
    IMPLICIT_LITTLE_ENDIAN,
    NEVER,
    PERMANENT,
    SOONER_OR_LATER,
    TRANSIENT,
    Answers,
    Behaviour,
    Do,
    Fault,
    When,
    always,
    first,
    only,
)
from tests.support.dcmtk import echoscu, storescu
from tests.support.dicomset import dataset_bytes
from tests.support.misbehaving import Destination
from tests.support.process import wait_until
from tests.support.requestor import Association, BrokenError, NotAcceptedError
from tests.support.synthetic import CT_IMAGE_STORAGE, EXPLICIT_LITTLE_ENDIAN, make_ct, make_study

pytestmark = pytest.mark.integration

#: For answers that never come; for those that come, and are only late because the machine is busy.
_NEVER_S, _LATE_S = 0.5, 30.0


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Four images whose datasets take several PDUs."""
    return make_study(tmp_path, 4, rows=128, cols=128)


class Sender:
    """Sends files by bytes, over an association for each call, up to the first that goes wrong."""

    def __init__(
        self, destination: Destination, *, syntax: str = EXPLICIT_LITTLE_ENDIAN, patience_s: float = _LATE_S
    ) -> None:
        self._destination = destination
        self._syntax = syntax
        self._patience_s = patience_s

    def send(self, paths: Sequence[Path]) -> list[int]:
        """Give the statuses. Raises BrokenError, NotAcceptedError."""
        port = self._destination.port
        association = Association(port, sop_class=CT_IMAGE_STORAGE, syntax=self._syntax, timeout=self._patience_s)
        statuses = [association.store(framed(path, association)) for path in paths]
        association.release()
        return statuses


def framed(path: Path, association: Association) -> requestor.Request:
    """Frame a file for an association."""
    return requestor.Request(bytearray(dataset_bytes(path)), CT_IMAGE_STORAGE, path.stem, association.max_pdu)


def ended(destination: Destination) -> list[str | None]:
    """Tell how all connections ended, once they have."""
    wait_until(lambda: None not in destination.record.ended(), "the connections to end")
    return destination.record.ended()


def test_a_good_one_records_what_it_received(images: list[Path]) -> None:
    with Destination() as destination:
        assert Sender(destination).send(images) == [0, 0, 0, 0]
        assert Sender(destination).send(images[:1]) == [0]
        record = destination.record
        assert ended(destination) == ["released", "released"]

    assert [(each.sop_uid, each.association, each.order) for each in record.received] == [
        *((path.stem, 1, number) for number, path in enumerate(images, 1)),
        (images[0].stem, 2, 5),
    ]
    assert record.digests() == {path.stem: {hashlib.sha256(dataset_bytes(path)).hexdigest()} for path in images}
    assert {(each.sop_class, each.syntax, each.status) for each in record.received} == {
        (CT_IMAGE_STORAGE, EXPLICIT_LITTLE_ENDIAN, 0)
    }
    assert record.duplicates() == {images[0].stem: 2}
    assert record.confirmed() == {path.stem for path in images}
    assert record.violations == []


def test_senders_that_others_wrote_take_it_for_a_good_one(images: list[Path]) -> None:
    with Destination() as destination:
        assert storescu(destination.port, images).returncode == 0
        assert echoscu(destination.port).returncode == 0
        entity = AE("PYNETDICOM")
        entity.requested_contexts = [build_context(CT_IMAGE_STORAGE, [EXPLICIT_LITTLE_ENDIAN])]
        association = entity.associate("127.0.0.1", destination.port)
        assert association.is_established
        assert [association.send_c_store(str(each)).Status for each in images] == [0, 0, 0, 0]
        association.release()
        record = destination.record
        assert ended(destination) == ["released"] * 3

    assert record.counts() == {path.stem: 2 for path in images}
    assert [(met.echoes, len(met.begun)) for met in record.met] == [(0, 4), (1, 0), (0, 4)]
    assert record.violations == []


@pytest.mark.parametrize("name", NEVER)
def test_these_confirm_nothing(name: str, images: list[Path]) -> None:
    with Destination(NEVER[name]) as destination:
        statuses: list[int] = []
        answers = NEVER[name].answers
        with suppress(BrokenError, NotAcceptedError):
            statuses = Sender(destination, patience_s=_NEVER_S).send(images[:2])

        assert destination.record.confirmed() == set()
        # This sender does not look at what it is answered with, only at the status.
        assert 0 not in statuses or answers in (Answers.WRONG_ID, Answers.OTHER_COMMAND)
        assert destination.record.violations == []


# The sender of these tests says its commands in one PDU, longer than this one takes.
@pytest.mark.parametrize("name", sorted(SOONER_OR_LATER.keys() - {"takes tiny PDUs only"}))
def test_these_confirm_everything_to_who_goes_on(name: str, images: list[Path], tmp_path: Path) -> None:
    behaviour = SOONER_OR_LATER[name]
    syntax = EXPLICIT_LITTLE_ENDIAN
    if behaviour.syntaxes is not None:
        syntax = IMPLICIT_LITTLE_ENDIAN
        images = [make_ct(tmp_path, rows=128, cols=128, implicit=True) for _ in range(4)]

    with Destination(behaviour) as destination:
        record = destination.record
        tries = 0
        while missing := [path for path in images if path.stem not in record.confirmed()]:
            tries += 1
            assert tries < 5
            with suppress(BrokenError):
                Sender(destination, syntax=syntax, patience_s=2.0).send(missing)

        assert record.confirmed() == {path.stem for path in images}
        assert record.digests() == {path.stem: {hashlib.sha256(dataset_bytes(path)).hexdigest()} for path in images}
        assert record.violations == []


@pytest.mark.parametrize(
    ("behaviour", "said", "ends"),
    [
        (Behaviour(Fault(Do.ABORT, When.BETWEEN, after=2)), "Peer aborted", "aborted by the destination"),
        # Which of its calls fails first is up to the kernel.
        (Behaviour(Fault(Do.CLOSE, When.BETWEEN, after=2)), "Peer aborted|TCP I/O Error", "closed by the destination"),
        (Behaviour(Fault(Do.RESET, When.DATASET, after=2)), "Peer aborted|TCP I/O Error", "reset by the destination"),
        (Behaviour(Fault(Do.RELEASE, When.BETWEEN, after=2)), "Peer requested release", "aborted by the sender"),
    ],
)
def test_the_third_object_finds_nobody(behaviour: Behaviour, said: str, ends: str, images: list[Path]) -> None:
    with Destination(behaviour) as destination:
        sent = storescu(destination.port, images)
        record = destination.record
        assert ended(destination) == [ends]

    assert sent.returncode != 0
    assert re.search(said, sent.stderr)
    assert record.confirmed() == {path.stem for path in images[:2]}
    assert record.violations == []


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        (Behaviour(answers=Answers.WRONG_ID), "Unexpected Response MsgId"),
        (Behaviour(answers=Answers.OTHER_COMMAND), "Unexpected Response Command Field"),
        (Behaviour(rejection=PERMANENT), "Called AE Title Not Recognized"),
        (Behaviour(rejection=TRANSIENT), "Local Limit Exceeded"),
        (Behaviour(syntaxes=()), "No Acceptable Presentation Contexts"),
        (Behaviour(status=always(0xA700)), "Refused: OutOfResources"),
        (Behaviour(status=always(0xA900)), "DataSetDoesNotMatchSOPClass"),
        (Behaviour(status=always(0xC000)), "CannotUnderstand"),
        (Behaviour(Fault(Do.GARBAGE, When.WHOLE)), "Unrecognized PDU type"),
    ],
)
def test_dcmtk_says_what_is_wrong_with_it(behaviour: Behaviour, said: str, images: list[Path]) -> None:
    with Destination(behaviour) as destination:
        sent = storescu(destination.port, images[:1])

        assert sent.returncode != 0
        assert said in sent.stderr
        assert destination.record.confirmed() == set()
        assert destination.record.violations == []


def test_tiny_pdus_are_enough(images: list[Path]) -> None:
    with Destination(SOONER_OR_LATER["takes tiny PDUs only"]) as destination:
        entity = AE("PYNETDICOM")
        entity.requested_contexts = [build_context(CT_IMAGE_STORAGE, [EXPLICIT_LITTLE_ENDIAN])]
        association = entity.associate("127.0.0.1", destination.port)
        assert association.send_c_store(str(images[0])).Status == 0
        association.release()

        assert destination.record.confirmed() == {images[0].stem}
        assert destination.record.violations == []


def test_it_goes_on_where_a_fault_has_struck_often_enough(images: list[Path]) -> None:
    with Destination(Behaviour(Fault(Do.ABORT, When.WHOLE, times=2))) as destination:
        for _ in range(2):
            with pytest.raises(BrokenError):
                Sender(destination).send(images)
        assert Sender(destination).send(images) == [0, 0, 0, 0]
        destination.behave(Behaviour(status=always(0xA700)))
        assert Sender(destination).send(images[:1]) == [0xA700]
        record = destination.record

    assert [each.status for each in record.received] == [None, None, 0, 0, 0, 0, 0xA700]
    assert record.duplicates() == {images[0].stem: 4}
    assert [met.begun for met in record.met][:2] == [[images[0].stem]] * 2


def test_statuses_are_as_told(images: list[Path]) -> None:
    with Destination(Behaviour(status=first(3, 0xA700))) as destination:
        assert Sender(destination).send(images) == [0xA700, 0xA700, 0xA700, 0]
        destination.behave(Behaviour(status=only(images[1].stem, 0xC000)))
        assert Sender(destination).send(images) == [0, 0xC000, 0, 0]
        destination.behave(Behaviour(status=always(0xB000)))
        assert Sender(destination).send(images[:1]) == [0xB000]


def test_who_stops_reading_stops_the_sender(tmp_path: Path) -> None:
    large = make_ct(tmp_path, rows=1024, cols=1024)
    with Destination(Behaviour(Fault(Do.HANG, When.DATASET))) as destination:
        association = Association(destination.port, sop_class=CT_IMAGE_STORAGE, syntax=EXPLICIT_LITTLE_ENDIAN)
        association._socket.settimeout(_NEVER_S)

        # Not in waiting for the answer: it never came to the end of the dataset.
        with pytest.raises(TimeoutError):
            framed(large, association).send(association._socket)
        association.close()


def test_an_early_answer_comes_before_the_dataset(images: list[Path]) -> None:
    with Destination(Behaviour(answers=Answers.EARLY)) as destination:
        association = Association(destination.port, sop_class=CT_IMAGE_STORAGE, syntax=EXPLICIT_LITTLE_ENDIAN)
        request = framed(images[0], association)
        association._socket.sendall(bytes(request._command))
        assert association._status() == 0
        assert destination.record.received == []
        requestor.send_all(association._socket, request._parts[1:])
        association.release()

        assert destination.record.confirmed() == {images[0].stem}


@pytest.mark.parametrize("collides", [False, True])
def test_it_can_release_itself(collides: bool, images: list[Path]) -> None:
    with Destination(Behaviour(Fault(Do.RELEASE, When.BETWEEN, after=1))) as destination:
        association = Association(destination.port, sop_class=CT_IMAGE_STORAGE, syntax=EXPLICIT_LITTLE_ENDIAN)
        assert association.store(framed(images[0], association)) == 0
        if collides:
            association._socket.sendall(dul.pdu(dul.RELEASE_RQ, bytes(4)))
        assert association._pdu() == (dul.RELEASE_RQ, bytes(4))
        association._socket.sendall(dul.pdu(dul.RELEASE_RP, bytes(4)))
        if collides:
            assert association._pdu() == (dul.RELEASE_RP, bytes(4))
        association.close()

        assert ended(destination) == ["released by the destination"]
        assert destination.record.violations == []


def test_garbage_is_no_dicom(images: list[Path]) -> None:
    for when in (When.CONNECTED, When.REQUESTED):
        with (
            Destination(Behaviour(Fault(Do.GARBAGE, when))) as destination,
            pytest.raises(BrokenError, match="timed out"),
        ):
            Sender(destination, patience_s=_NEVER_S).send(images)


def test_tls_with_an_expired_certificate(images: list[Path], tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    context = ssl.create_default_context(cafile=authority.certificate)
    with Destination(tls=authority.issue("expired", days=-1)) as destination:
        with (
            socket.create_connection(("127.0.0.1", destination.port)) as plain,
            pytest.raises(ssl.SSLCertVerificationError, match="certificate has expired"),
        ):
            context.wrap_socket(plain, server_hostname="localhost")
        flags = ["+tla", "+cf", str(authority.certificate)]
        assert storescu(destination.port, images[:1], flags=flags).returncode != 0
        assert all("broken: [SSL" in (each or "") for each in ended(destination))
        assert [met.asked for met in destination.record.met] == [None, None]

    with Destination(tls=authority.issue("good")) as destination:
        sent = storescu(destination.port, images[:1], flags=flags)
        assert sent.returncode == 0, sent.stderr
        assert destination.record.confirmed() == {images[0].stem}


def request_with_window(window: int) -> bytes:
    """Encode an A-ASSOCIATE-RQ for CT that asks for a window, as pynetdicom does it."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.calling_ae_title, primitive.called_ae_title = "SENDER", "DESTINATION"
    primitive.calling_presentation_address = AddressInformation("127.0.0.1", 1)
    primitive.called_presentation_address = AddressInformation("127.0.0.1", 2)
    context = build_context(CT_IMAGE_STORAGE, [EXPLICIT_LITTLE_ENDIAN])
    context.context_id = 1
    primitive.presentation_context_definition_list = [context]
    longest, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    longest.maximum_length_received, implementation.implementation_class_uid = 16384, "1.2.3.4"
    operations = AsynchronousOperationsWindowNegotiation()
    operations.maximum_number_operations_invoked = window
    primitive.user_information = [longest, implementation, operations]
    request = A_ASSOCIATE_RQ()
    request.from_primitive(primitive)
    return bytes(request.encode())


class Windowed:
    """An association that asked for a window, by bytes."""

    def __init__(self, destination: Destination, window: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", destination.port), 30)
        self._socket.sendall(request_with_window(window))
        self.accepted = self._pdu()

    def store(self, *numbered: tuple[int, Path]) -> None:
        """Send these at once, by message id, one PDU each for command and dataset."""
        data = b""
        for number, path in numbered:
            for control, part in (3, requestor.command(CT_IMAGE_STORAGE, path.stem, number)), (2, dataset_bytes(path)):
                data += dul.pdu(dul.P_DATA, (len(part) + 2).to_bytes(4, "big") + bytes((1, control)) + part)
        self._socket.sendall(data)

    def answers(self, count: int) -> list[tuple[int, int]]:
        """Read so many responses: message id that they answer, and status."""
        found = [decode(BytesIO(self._pdu()[12:]), is_implicit_vr=True, is_little_endian=True) for _ in range(count)]
        return [(int(each.MessageIDBeingRespondedTo), int(each.Status)) for each in found]

    def close(self) -> None:
        self._socket.close()

    def closed(self) -> bool:
        return self._socket.recv(1) == b""

    def _pdu(self) -> bytes:
        head = self._socket.recv(6, socket.MSG_WAITALL)
        return head + self._socket.recv(int.from_bytes(head[2:], "big"), socket.MSG_WAITALL)


@pytest.mark.parametrize(("asked", "granted", "window"), [(8, 4, 4), (2, 4, 2), (0, 4, 4), (8, 0, 8)])
def test_a_window_is_what_both_allow(asked: int, granted: int, window: int) -> None:
    with Destination(Behaviour(window=granted)) as destination:
        association = Windowed(destination, asked)
        association.close()

        assert association.accepted.endswith(bytes((0x53, 0, 0, 4, 0, window, 0, 1)))


def test_within_a_window_the_last_is_answered_first(tmp_path: Path) -> None:
    paths = make_study(tmp_path, 6)
    with Destination(SOONER_OR_LATER["grants a window and answers the last first"]) as destination:
        association = Windowed(destination, 8)
        association.store(*enumerate(paths[:4], 1))
        assert association.answers(4) == [(4, 0), (3, 0), (2, 0), (1, 0)]
        association.store(*enumerate(paths[4:], 5))
        # The window is not full: once nothing more comes.
        assert association.answers(2) == [(6, 0), (5, 0)]
        association.close()

        assert destination.record.confirmed() == {path.stem for path in paths}
        assert destination.record.violations == []


def test_some_break_with_who_asks_for_a_window(images: list[Path]) -> None:
    with Destination(Behaviour(window_breaks=True)) as destination:
        assert Sender(destination).send(images) == [0, 0, 0, 0]
        association = Windowed(destination, 8)
        association.store((1, make_ct(images[0].parent)))
        with suppress(ConnectionResetError):
            assert association.closed()
        association.close()

        assert len(destination.record.received) == 4


def test_violations_are_noted(tmp_path: Path) -> None:
    path, other = make_study(tmp_path, 2)
    with Destination(Behaviour(Fault(Do.IGNORE, When.COMMAND), max_pdu=256)) as destination:
        association = Windowed(destination, 1)
        association.store((1, path), (1, other))
        wait_until(lambda: len(destination.record.received) == 2, "both")
        association.close()

    assert destination.record.violations == [
        f"association 1: P-DATA-TF of {len(dataset_bytes(path)) + 6} bytes, not 256 at most",
        "association 1: more than 1 requests at a time",
        "association 1: message id 1 again before its answer",
        f"association 1: P-DATA-TF of {len(dataset_bytes(other)) + 6} bytes, not 256 at most",
    ]
