"""An archive that commits itself to instances, or does not, as it is told; and tells what it has."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from pydicom import Dataset, dcmread
from pynetdicom import AE, evt
from pynetdicom.presentation import build_context

from libs.dimse.commitment import SOP_CLASS, SOP_INSTANCE
from tests.support.synthetic import CT_IMAGE_STORAGE, EXPLICIT_LITTLE_ENDIAN

STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
_FAILURES_EXIST, _ALL_COMMITTED = 2, 1
#: SOP Instance UID to Failure Reason (0008,1197); 0: committed.
Reason = Callable[[str], int]


@dataclass
class Request:
    """A request for storage commitment that came: SOP class by SOP Instance UID."""

    transaction_uid: str
    instances: dict[str, str]


@dataclass
class Keeper:
    """What an archive has and was asked.

    Attributes
    ----------
    has
        Series and study of each instance, by SOP Instance UID. What is taken out is not there any more.
    requests
        For storage commitment, in order.
    reason
        What it says of an instance; by default it commits itself to what it has.
    reports
        Whether it reports on the association of the request.
    status
        Of its answer to a request.
    answers
        Statuses of the answers to its reports.
    image_level
        Whether it answers C-FIND below the level of studies.
    """

    has: dict[str, tuple[str, str]] = field(default_factory=dict)
    stored: list[str] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    reason: Reason | None = None
    reports: bool = True
    status: int = 0
    answers: list[int] = field(default_factory=list)
    image_level: bool = True
    port: int = 0
    threads: list[threading.Thread] = field(default_factory=list)

    def verdict(self, uid: str) -> int:
        """Say what it says of an instance."""
        if self.reason is not None:
            return self.reason(uid)
        return 0 if uid in self.has else 0x0112

    def store(self, event: evt.Event) -> int:
        """Answer C-STORE."""
        instance = dcmread(BytesIO(event.encoded_dataset()), stop_before_pixels=True)
        uid = str(instance.SOPInstanceUID)
        self.has[uid] = (str(instance.SeriesInstanceUID), str(instance.StudyInstanceUID))
        self.stored.append(uid)
        return 0

    def action(self, event: evt.Event) -> tuple[int, None]:
        """Answer N-ACTION; report in a thread, which waits until the association has nothing else to do."""
        asked = event.action_information
        found = {
            str(each.ReferencedSOPInstanceUID): str(each.ReferencedSOPClassUID) for each in asked[0x00081199].value
        }
        request = Request(str(asked.TransactionUID), found)
        self.requests.append(request)
        if self.reports and not self.status:
            thread = threading.Thread(target=self._report, args=(event.assoc, request))
            self.threads.append(thread)
            thread.start()
        return self.status, None

    def _report(self, association: Any, request: Request) -> None:
        said = self.report(request)
        event_type = _FAILURES_EXIST if said.get("FailedSOPSequence") else _ALL_COMMITTED
        status, _ = association.send_n_event_report(said, event_type, SOP_CLASS, SOP_INSTANCE)
        self.answers.append(int(status.Status) if "Status" in status else -1)

    def report(self, request: Request) -> Dataset:
        """Make the report about a request."""
        said = Dataset()
        said.TransactionUID = request.transaction_uid
        committed: list[Dataset] = []
        failed: list[Dataset] = []
        for uid, sop_class in request.instances.items():
            each = Dataset()
            each.ReferencedSOPClassUID, each.ReferencedSOPInstanceUID = sop_class, uid
            reason = self.verdict(uid)
            if reason:
                each.FailureReason = reason
            (failed if reason else committed).append(each)
        if committed:
            said.ReferencedSOPSequence = committed
        if failed:
            said.FailedSOPSequence = failed
        return said

    def find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        """Answer C-FIND at the levels of study, series and image, PS3.4 section C.4.1."""
        wanted = event.identifier
        level, study = wanted.QueryRetrieveLevel, str(wanted.StudyInstanceUID)
        mine = {uid: series for uid, (series, of_study) in self.has.items() if of_study == study}
        if level == "STUDY":
            if mine:
                yield 0xFF00, _answer(wanted, NumberOfStudyRelatedInstances=str(len(mine)))
            return
        if not self.image_level:
            yield 0xA900, None
            return
        if level == "SERIES":
            for series in sorted(set(mine.values())):
                yield 0xFF00, _answer(wanted, SeriesInstanceUID=series)
            return
        for uid, series in mine.items():
            if series == str(wanted.SeriesInstanceUID):
                yield 0xFF00, _answer(wanted, SOPInstanceUID=uid)


def _answer(wanted: Dataset, **values: str) -> Dataset:
    found = Dataset()
    found.update(wanted)
    for name, value in values.items():
        setattr(found, name, value)
    return found


@contextmanager
def keeper(*, commits: bool = True, finds: bool = True, port: int = 0) -> Iterator[Keeper]:
    """Run an archive."""
    found = Keeper()
    entity = AE("STORESCP")
    entity.supported_contexts = [build_context(CT_IMAGE_STORAGE, [EXPLICIT_LITTLE_ENDIAN])]
    if commits:
        entity.add_supported_context(SOP_CLASS)
    if finds:
        entity.add_supported_context(STUDY_ROOT_FIND)
    handlers: list[Any] = [
        (evt.EVT_C_STORE, found.store),
        (evt.EVT_N_ACTION, found.action),
        (evt.EVT_C_FIND, found.find),
    ]
    server: Any = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
    found.port = server.server_address[1]
    try:
        yield found
    finally:
        for thread in found.threads:
            thread.join(30)
        server.shutdown()
