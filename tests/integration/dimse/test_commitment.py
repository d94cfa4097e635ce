"""Storage commitment asked of programs that others wrote."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom.events import Event

from libs.dimse import commitment
from libs.dimse.commitment import EXPLICIT, IMPLICIT, Failure, Reference
from libs.dimse.commitment_scu import Asking, offered
from libs.dimse.negotiation import Request
from libs.dimse.requestor import Association, Patience
from tests.support.association import CT, VERIFICATION
from tests.support.authority import Authority

pytestmark = pytest.mark.integration

PATIENCE = Patience(acse=30, response=30, network=30)
KEPT, LOST = Reference(CT, "1.2.3.4"), Reference(CT, "1.2.3.5")


class Archive:
    """Commits to `KEPT` alone, and reports on the same association."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.may_report = threading.Event()
        self.may_report.set()
        self.answered = threading.Event()

    def asked(self, event: Event) -> tuple[int, None]:
        threading.Thread(target=self._report, args=(event.assoc, event.action_information)).start()
        return 0x0000, None

    def _report(self, association: Any, asked: Dataset) -> None:
        assert self.may_report.wait(30)
        said = Dataset()
        said.TransactionUID = asked.TransactionUID
        kept = [each for each in asked.ReferencedSOPSequence if each.ReferencedSOPInstanceUID == KEPT.sop_instance_uid]
        lost = [each for each in asked.ReferencedSOPSequence if each not in kept]
        for each in lost:
            each.FailureReason = 0x0112
        if lost:
            said.FailedSOPSequence = lost
        if kept:
            said.ReferencedSOPSequence = kept
        answer, _ = association.send_n_event_report(
            said, 2 if lost else 1, commitment.SOP_CLASS, commitment.SOP_INSTANCE
        )
        self.answers.append(answer.Status)
        self.answered.set()


@contextmanager
def served(action: Callable[[Event], Any], syntax: str, context: ssl.SSLContext | None = None) -> Iterator[int]:
    entity = AE("ARCHIVE")
    entity.add_supported_context(commitment.SOP_CLASS, syntax)
    entity.add_supported_context(VERIFICATION)
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, ssl_context=context, evt_handlers=[(evt.EVT_N_ACTION, action)]
    )
    assert server is not None
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


def associated(port: int, context: ssl.SSLContext | None = None) -> Association:
    connected = socket.create_connection(("127.0.0.1", port))
    if context is not None:
        connected = context.wrap_socket(connected, server_hostname="localhost")
    association = Association(connected, PATIENCE)
    association.ask(Request("ARCHIVE", "KIVUKO", (commitment.proposed(1),), 1 << 16, "1.2.3.4"))
    return association


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
@pytest.mark.parametrize("asked", [(KEPT,), (LOST,), (KEPT, LOST)])
def test_pynetdicom_reports_on_the_same_association(syntax: str, asked: tuple[Reference, ...]) -> None:
    archive = Archive()
    with served(archive.asked, syntax) as port:
        association = associated(port)
        assert offered(association)
        asking = Asking(association)
        transaction = str(generate_uid(None))
        assert asking.ask(1, transaction, asked).status == 0
        found = asking.report(30)
        assert found is not None
        assert found.report.transaction_uid == transaction
        assert found.report.committed == tuple(each for each in asked if each is KEPT)
        lost = tuple(each for each in asked if each is LOST)
        assert found.report.failed == tuple(Failure(*_named(each), 0x0112) for each in lost)
        asking.answer(found, 0)
        assert archive.answered.wait(30)
        assert archive.answers == [0]
        association.release()


@pytest.mark.parametrize("tls", [False, True])
def test_the_association_stands_while_nothing_is_reported_yet(tmp_path: Path, tls: bool) -> None:
    ours, theirs = contexts(tmp_path) if tls else (None, None)
    archive = Archive()
    archive.may_report.clear()
    with served(archive.asked, IMPLICIT, theirs) as port:
        association = associated(port, ours)
        asking = Asking(association)
        assert asking.ask(1, "1.2.9", (KEPT,)).status == 0
        # The archive can't: it waits for us.
        assert asking.report(0.05) is None
        assert asking.report(0.05) is None
        archive.may_report.set()
        found = asking.report(30)
        assert found is not None
        assert found.report.committed == (KEPT,)
        asking.answer(found, 0x0110)
        assert archive.answered.wait(30)
        assert archive.answers == [0x0110]
        association.release()


def contexts(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Give the TLS contexts of both sides."""
    authority = Authority(folder)
    issued = authority.issue("archive")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(issued.certificate, issued.key)
    return ssl.create_default_context(cafile=authority.certificate), server


def test_pynetdicom_that_refuses_says_so() -> None:
    with served(lambda _: (0x0213, None), IMPLICIT) as port:
        association = associated(port)
        assert Asking(association).ask(1, "1.2.3", (KEPT,)).status == 0x0213
        association.release()


def _named(reference: Reference) -> tuple[str, str]:
    return reference.sop_class_uid, reference.sop_instance_uid
