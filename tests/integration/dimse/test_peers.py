"""The acceptor against programs that others wrote, and against connections that misbehave."""

import os
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from pydicom.filereader import dcmread, read_file_meta_info
from pynetdicom import AE
from pynetdicom.pdu_primitives import AsynchronousOperationsWindowNegotiation, UserIdentityNegotiation

from libs.dimse import associate
from libs.dimse.pdu import HEADER, Kind, Rejection
from libs.dimse.provider import Ending
from tests.integration.dimse.conftest import PATIENCE, Acceptor
from tests.support.association import CT, EXPLICIT, REQUEST, VERIFICATION, echo, store
from tests.support.dcmtk import ENVIRONMENT, echoscu, storescu
from tests.support.dicomset import real_set
from tests.support.process import program
from tests.support.synthetic import PRIVATE_STORAGE, make_ct

pytestmark = pytest.mark.integration

RQ = associate.encode_request(REQUEST)


def test_storescu_sends_every_kind_of_object(acceptor: Acceptor, tmp_path: Path) -> None:
    paths = [*real_set(), make_ct(tmp_path), make_ct(tmp_path, implicit=True)]
    paths.append(make_ct(tmp_path, sop_class=PRIVATE_STORAGE))
    sent = storescu(acceptor.port, paths)
    assert sent.returncode == 0, sent.stderr
    assert acceptor.endings.get(timeout=PATIENCE) is Ending.RELEASED
    metas = [read_file_meta_info(path) for path in paths]
    assert set(acceptor.stored) == {
        (str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID), str(meta.MediaStorageSOPInstanceUID))
        for meta in metas
    }


def test_dcmsend_sends(acceptor: Acceptor, tmp_path: Path) -> None:
    paths = [make_ct(tmp_path) for _ in range(3)]
    command = [program("dcmsend", "dcmtk"), "-v", "127.0.0.1", str(acceptor.port), *map(str, paths)]
    sent = subprocess.run(
        command, env={**os.environ, **ENVIRONMENT}, capture_output=True, check=False, timeout=PATIENCE
    )
    assert sent.returncode == 0, sent.stderr
    assert acceptor.endings.get(timeout=PATIENCE) is Ending.RELEASED
    assert len(acceptor.stored) == 3


def test_echoscu_is_answered(acceptor: Acceptor) -> None:
    assert echoscu(acceptor.port).returncode == 0
    assert acceptor.endings.get(timeout=PATIENCE) is Ending.RELEASED


def test_storescu_that_aborts_at_its_end_has_stored(acceptor: Acceptor, tmp_path: Path) -> None:
    storescu(acceptor.port, [make_ct(tmp_path)], flags=["--abort"])
    assert acceptor.endings.get(timeout=PATIENCE) is Ending.ABORTED
    assert len(acceptor.stored) == 1


def test_storescu_hears_a_rejection(acceptor: Acceptor, tmp_path: Path) -> None:
    acceptor.rejection = Rejection(1, 1, 7)
    sent = storescu(acceptor.port, [make_ct(tmp_path)])
    assert sent.returncode != 0
    assert "Called AE Title Not Recognized" in sent.stdout + sent.stderr
    assert acceptor.ran.get(timeout=PATIENCE) is Ending.REJECTED
    assert acceptor.endings.empty()


def test_pynetdicom_negotiates_window_identity_and_small_pdus(acceptor: Acceptor, tmp_path: Path) -> None:
    entity = AE()
    entity.add_requested_context(CT, EXPLICIT)
    entity.maximum_pdu_size = 256
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked, window.maximum_number_operations_performed = 5, 1
    identity = UserIdentityNegotiation()
    identity.user_identity_type, identity.positive_response_requested = 2, True
    identity.primary_field, identity.secondary_field = b"reader", b"word"
    path = make_ct(tmp_path)
    association = entity.associate("127.0.0.1", acceptor.port, ext_neg=[window, identity], max_pdu=256)
    assert association.is_established
    assert association.acceptor.user_identity is not None
    assert association.acceptor.asynchronous_operations == (5, 1)
    assert association.send_c_store(dcmread(path)).Status == 0
    association.release()
    assert acceptor.endings.get(timeout=PATIENCE) is Ending.RELEASED
    assert acceptor.requests[0].window == (5, 1)
    assert acceptor.requests[0].max_pdu == 256


def test_pynetdicom_hears_our_abort(acceptor: Acceptor) -> None:
    entity = AE()
    entity.add_requested_context(VERIFICATION)
    association = entity.associate("127.0.0.1", acceptor.port)
    assert association.is_established
    acceptor.associations.get(timeout=PATIENCE).abort()
    assert acceptor.endings.get(timeout=PATIENCE) is Ending.STOPPED
    association.join(PATIENCE)
    assert association.is_aborted


def connect(acceptor: Acceptor) -> socket.socket:
    return socket.create_connection(("127.0.0.1", acceptor.port), timeout=PATIENCE)


def everything(connected: socket.socket) -> bytes:
    """Read until the acceptor aborts or closes."""
    found = bytearray()
    while found[-10:-4] != HEADER.pack(Kind.ABORT, 4) and (part := connected.recv(65536)):
        found += part
    return bytes(found)


def test_a_dataset_cut_off_is_abandoned(acceptor: Acceptor) -> None:
    with connect(acceptor) as connected:
        connected.sendall(RQ + store(1, bytes(4000))[:-100])
        acceptor.writing.wait(PATIENCE)
    assert acceptor.endings.get(timeout=PATIENCE) is Ending.LOST
    assert acceptor.ran.get(timeout=PATIENCE) is Ending.LOST
    assert (acceptor.abandoned, acceptor.stored) == (1, {})


def test_an_abort_while_a_dataset_comes_reaches_the_peer(acceptor: Acceptor) -> None:
    with connect(acceptor) as connected:
        connected.sendall(RQ + store(1, bytes(4000))[:-100])
        acceptor.writing.wait(PATIENCE)
        acceptor.associations.get(timeout=PATIENCE).abort()
        assert everything(connected)[-10:] == HEADER.pack(Kind.ABORT, 4) + bytes(4)
    assert acceptor.ran.get(timeout=PATIENCE) is Ending.STOPPED
    assert acceptor.abandoned == 1


def test_a_silent_peer_is_aborted(acceptor: Acceptor) -> None:
    acceptor.impatient(network=0.05, artim=0.05)
    with connect(acceptor) as connected:
        connected.sendall(RQ + echo(1))
        assert everything(connected)[-10:] == HEADER.pack(Kind.ABORT, 4) + b"\0\0\2\0"
    assert acceptor.endings.get(timeout=PATIENCE) is Ending.TIMED_OUT


def test_a_peer_that_says_nothing_is_left(acceptor: Acceptor) -> None:
    acceptor.impatient(artim=0.05)
    with connect(acceptor) as connected:
        assert everything(connected) == b""
    assert acceptor.ran.get(timeout=PATIENCE) is Ending.TIMED_OUT
    assert acceptor.endings.empty()


def test_a_peer_that_never_takes_its_answers_is_left(acceptor: Acceptor) -> None:
    acceptor.impatient(network=0.2, artim=0.2)
    with connect(acceptor) as connected:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connected.sendall(RQ)
        # The acceptor stops reading when its answers are not taken; then this end can't send any more, either.
        with suppress(ConnectionError):
            while True:
                connected.sendall(echo(1) * 1000)
    assert acceptor.endings.get(timeout=PATIENCE) is Ending.TIMED_OUT


def test_half_open_connections_do_not_stop_a_good_sender(acceptor: Acceptor) -> None:
    slow = [connect(acceptor) for _ in range(50)]
    try:
        for index, each in enumerate(slow):
            each.sendall(RQ[: index * 4])
        assert echoscu(acceptor.port).returncode == 0
        assert acceptor.endings.get(timeout=PATIENCE) is Ending.RELEASED
    finally:
        for each in slow:
            each.close()
    assert sorted(acceptor.ran.get(timeout=PATIENCE) for _ in range(51)) == [Ending.LOST] * 50 + [Ending.RELEASED]
