"""A running worklist, modalities that report to it, and a RIS that steps are passed on to: pynetdicom on both ends."""

import asyncio
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, Self

from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.uid import UID
from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import N_CREATE
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at run time
    ModalityPerformedProcedureStep,
    ModalityPerformedProcedureStepRetrieve,
)

from contracts.definition import Definition, Snapshot
from libs.clock import utc_now
from libs.messaging.broker import make_broker
from libs.service import Platform, Service
from libs.settings import Settings
from libs.snapshot import NetworkView
from libs.storage.database import Database
from libs.storage.objects import open_store
from services.worklist import app, dataset
from services.worklist.attributes import Attributes
from tests.support.migrated import migrate


def network(ris: int | None = None, **more: Any) -> dict[str, Any]:
    """Give a definition with a modality, and a RIS at a port."""
    return {
        "kivuko": 1,
        "name": "test",
        "timezone": "Africa/Malabo",
        "sites": {"malabo": {"name": "Malabo", "tenant": "minsabs"}},
        "nodes": {
            "CT1": {"site": "malabo", "host": "127.0.0.1", "may": ["mpps"]},
            "RIS": {"site": "malabo", "host": "127.0.0.1", "port": ris or 104},
        },
        "mpps": {"forward": "RIS" if ris else []},
        **more,
    }


class Running:
    """A running worklist."""

    def __init__(self, service: Service, database: Database) -> None:
        self.service = service
        self.database = database

    @property
    def port(self) -> int:
        """Port of DICOM."""
        assert self.service.addresses is not None
        return int(self.service.addresses()["worklist"].rpartition(":")[2])


@asynccontextmanager
async def running(
    home: Path, definition: dict[str, Any], database_url: str | None = None, version: int = 1, **settings: Any
) -> AsyncIterator[Running]:
    """Run worklist in a folder until the block ends."""
    own = Settings(home=home, worklist_port=0, hl7_port=0, database_url=database_url, _env_file=None, **settings)

    async def fetch() -> Snapshot:
        return Snapshot(version=version, document_hash="0" * 64, definition=Definition.model_validate(definition))

    async with AsyncExitStack() as stack:
        database = Database(own.database, "worklist")
        stack.push_async_callback(database.close)
        await migrate(database, "services.worklist")
        view = NetworkView(fetch, home / "network-snapshot.json")
        await view.refresh()
        platform = Platform(
            settings=own,
            broker=make_broker(own.broker, instance="test"),
            objects=open_store(own.objects),
            network=view,
            clock=utc_now,
            database=lambda _name: database,
        )
        service = app.build(platform)
        assert service.start is not None
        await service.start()
        tasks = [asyncio.ensure_future(loop()) for loop in service.loops]

        async def end() -> None:
            assert service.stop is not None
            await service.stop()
            for task in tasks:
                task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                assert isinstance(outcome, asyncio.CancelledError), outcome

        stack.push_async_callback(end)
        yield Running(service, database)


class Modality:
    """pynetdicom as MPPS SCU, in these transfer syntaxes, or in its own. Blocking: call it from a thread.

    Raises ConnectionError if it is not let in.
    """

    def __init__(self, port: int, aet: str = "CT1", *syntaxes: str) -> None:
        self._entity = AE(ae_title=aet)
        self._entity.acse_timeout = self._entity.dimse_timeout = self._entity.network_timeout = 60
        for each in (ModalityPerformedProcedureStep, ModalityPerformedProcedureStepRetrieve):
            self._entity.add_requested_context(each, list(syntaxes) or None)
        self._association = self._entity.associate("127.0.0.1", port, ae_title="KIVUKO")
        if not self._association.is_established:
            raise ConnectionError("no association")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._association.release()

    def create(self, said: Dataset | Attributes, uid: str | None) -> tuple[Dataset, Dataset | None]:
        """Send an N-CREATE; give status and attribute list."""
        asked = None if uid is None else UID(uid)
        status, answer = self._association.send_n_create(native(said), ModalityPerformedProcedureStep, asked)
        return status, answer

    def create_raw(self, data: bytes, uid: str) -> Dataset:
        """Send an N-CREATE with these bytes for a dataset; give its status."""
        request = N_CREATE()
        request.MessageID = 1
        request.AffectedSOPClassUID = ModalityPerformedProcedureStep
        request.AffectedSOPInstanceUID = UID(uid)
        request.AttributeList = BytesIO(data)
        context = self._association.accepted_contexts[0].context_id
        # As pynetdicom does it itself: only one thread may read at a time.
        self._association._reactor_checkpoint.clear()
        while not self._association._is_paused:
            threading.Event().wait(0.01)
        assert context is not None
        self._association.dimse.send_msg(request, context)
        _, answer = self._association.dimse.get_msg(block=True)
        self._association._reactor_checkpoint.set()
        assert isinstance(answer, N_CREATE)
        status = Dataset()
        status.Status, status.ErrorID = answer.Status, answer.ErrorID
        return status

    def set(self, said: Dataset | Attributes, uid: str) -> tuple[Dataset, Dataset | None]:
        """Send an N-SET."""
        status, answer = self._association.send_n_set(native(said), ModalityPerformedProcedureStep, UID(uid))
        return status, answer

    def get(self, uid: str, tags: list[BaseTag]) -> tuple[Dataset, Dataset | None]:
        """Send an N-GET."""
        status, answer = self._association.send_n_get(
            tags, ModalityPerformedProcedureStep, UID(uid), meta_uid=ModalityPerformedProcedureStepRetrieve
        )
        return status, answer


def native(said: Dataset | Attributes) -> Dataset:
    """Give attributes as pydicom has them."""
    if isinstance(said, Dataset):
        return said
    made = Dataset()
    for keyword, values in said.items():
        items = [value for value in values if not isinstance(value, str)]
        texts = [value for value in values if isinstance(value, str)]
        if keyword.endswith("Sequence"):
            setattr(made, keyword, [native(item) for item in items])
        else:
            setattr(made, keyword, texts[0] if len(texts) == 1 else texts or None)
    if any(not text.isascii() for text in _texts(said)):
        made.SpecificCharacterSet = dataset.UTF_8
    return made


def _texts(said: Attributes) -> list[str]:
    return [
        text
        for values in said.values()
        for each in values
        for text in ([each] if isinstance(each, str) else _texts(each))
    ]


class Ris:
    """pynetdicom as MPPS SCP: keeps what it is told, in order, and answers as it is told to.

    Parameters
    ----------
    syntaxes
        Transfer syntaxes that it takes; those that pynetdicom takes by itself if none is given.
    context
        For TLS.
    """

    def __init__(self, port: int = 0, *syntaxes: str, context: ssl.SSLContext | None = None) -> None:
        #: Operation, SOP Instance UID and dataset.
        self.heard: list[tuple[str, str, Dataset]] = []
        #: Gives the status of an answer to an operation on a step, with an error identifier or none.
        self.answers: Callable[[str, str], tuple[int, int | None]] = lambda _operation, _uid: (0, None)
        self._changed = threading.Condition()
        entity = AE(ae_title="RIS")
        entity.add_supported_context(ModalityPerformedProcedureStep, list(syntaxes) or None)
        handlers: list[Any] = [(evt.EVT_N_CREATE, self._created), (evt.EVT_N_SET, self._set)]
        self._server: Any = entity.start_server(
            ("127.0.0.1", port), block=False, evt_handlers=handlers, ssl_context=context
        )

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Go away."""
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def until(self, count: int) -> list[tuple[str, str, Dataset]]:
        """Wait until it has heard so much; fails after a minute."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.heard) >= count, 10), f"heard {len(self.heard)} of {count}"
            return list(self.heard)

    def _created(self, event: Any) -> tuple[Dataset, Dataset | None]:
        return self._hear("N-CREATE", event.request.AffectedSOPInstanceUID, event.attribute_list)

    def _set(self, event: Any) -> tuple[Dataset, Dataset | None]:
        return self._hear("N-SET", event.request.RequestedSOPInstanceUID, event.modification_list)

    def _hear(self, operation: str, uid: str, said: Dataset) -> tuple[Dataset, Dataset | None]:
        status, error_id = self.answers(operation, uid)
        with self._changed:
            self.heard.append((operation, str(uid), said))
            self._changed.notify_all()
        answer = Dataset()
        answer.Status = status
        if error_id is not None:
            answer.ErrorID = error_id
        return answer, None
