"""A sender that puts on the wire exactly what it is given, right or wrong."""

import io
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydicom.uid import UID
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import build_context

from libs.dicom import part10


@contextmanager
def associated(
    port: int, contexts: Sequence[tuple[str, str]], *, calling: str = "CT1", called: str = "KIVUKO"
) -> Iterator[Association]:
    """Associate with presentation contexts (abstract syntax, transfer syntax)."""
    ae = AE(ae_title=calling)
    ae.dimse_timeout = 10
    ae.acse_timeout = 10
    proposed = [build_context(abstract, [syntax]) for abstract, syntax in dict.fromkeys(contexts)]
    association = ae.associate("127.0.0.1", port, contexts=proposed, ae_title=called)
    if association.is_established:
        wire: Any = association.dul.socket
        wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        yield association
    except BaseException:
        association.abort()
        raise
    if association.is_established:
        association.release()


def store(
    association: Association, context: tuple[str, str], dataset: bytes, *, sop_class: str, sop_uid: str, number: int = 1
) -> int | None:
    """Send a C-STORE request as given; gives the status, None if the association ended without an answer."""
    request = C_STORE()
    request.MessageID = number
    request.Priority = 2
    # Set past pynetdicom's own checks: a hostile sender has none.
    request._affected_sop_class_uid = UID(sop_class)
    request._affected_sop_instance_uid = UID(sop_uid)
    request.DataSet = io.BytesIO(dataset)
    (chosen,) = [
        int(each.context_id or 0)
        for each in association.accepted_contexts
        if (each.abstract_syntax, each.transfer_syntax[0]) == context
    ]
    # Otherwise the association's own loop takes the response. That it paused last time does not say that it does now.
    association._is_paused = False
    association._reactor_checkpoint.clear()
    while not association._is_paused:
        if not association.is_alive():
            # It has found its connection gone.
            return None
        association._reactor_checkpoint.wait(0.001)
    association.dimse.send_msg(request, chosen)
    _, response = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    status = getattr(response, "Status", None)
    return None if status is None else int(status)


def read(path: Path) -> tuple[part10.Meta, bytes]:
    """Give the file meta information of a Part 10 file, and its dataset."""
    with path.open("rb") as file:
        meta, _ = part10.decode(file)
        return meta, file.read()


def send(port: int, paths: Sequence[Path], *, calling: str = "CT1") -> list[int | None]:
    """Send Part 10 files byte for byte on one association; gives the statuses."""
    files = [read(path) for path in paths]
    with associated(port, [(m.sop_class_uid, m.transfer_syntax_uid) for m, _ in files], calling=calling) as association:
        return [
            store(
                association,
                (meta.sop_class_uid, meta.transfer_syntax_uid),
                dataset,
                sop_class=meta.sop_class_uid,
                sop_uid=meta.sop_instance_uid,
                number=number,
            )
            for number, (meta, dataset) in enumerate(files, 1)
        ]
