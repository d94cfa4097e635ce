"""An arrival's way into the object store, out of its spool file, before it is acknowledged. Runs in a receiver.

A large one goes in parts while it is still coming, read back from the spool file, one part in memory at a time. The
first part goes last, as the seal is in it. Whatever comes to nothing is cleaned up by the supervisor, who was asked
before there was an object.
"""

import os
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol

from libs.storage.objects import ObjectStore, StoreFullError, StoreUnavailableError, Upload
from libs.telemetry.failure import described
from services.ingest.channel import ChannelClosedError

#: Parts that may wait in the spool file; then the sender waits, so that little is left when its last byte has come.
_BEHIND: Final = 4


class NotRecordedError(Exception):
    """The supervisor has not recorded an arrival, which must not be uploaded then. The text says why."""

    safe_to_log = True


class Asks(Protocol):
    """The way to the supervisor."""

    def expected(self, arrival: Mapping[str, Any]) -> str:
        """Have an arrival recorded that is about to be uploaded; gives its key. Raises NotRecordedError."""
        ...

    def dropped(self, arrival_id: str, why: str | None, *, doubtful: bool) -> None:
        """Tell that a recorded arrival is not acknowledged: because of the object store, if `why` is given."""
        ...

    def log(self, level: str, event: str, **said: Any) -> None:
        """Have a line logged."""
        ...


class Uplink:
    """The object store as one receiver sees it; safe to use from many threads.

    Parameters
    ----------
    store
        This process's own.
    asks
        The way to the supervisor.
    """

    def __init__(self, store: ObjectStore, asks: Asks) -> None:
        self._store = store
        self._asks = asks

    def put(self, path: Path, arrival: Mapping[str, Any]) -> str | None:
        """Store a sealed file; gives why it could not be."""
        try:
            key = self._asks.expected(arrival)
        except NotRecordedError as error:
            return str(error)
        try:
            self._store.keep({key: path})
        except (StoreUnavailableError, StoreFullError) as error:
            self._asks.dropped(arrival["id"], str(error), doubtful=_doubtful(error))
            return str(error)
        except BaseException:
            # By a defect; it is refused, and the record must not stay.
            self._asks.dropped(arrival["id"], None, doubtful=True)
            raise
        return None

    def stream(self, path: Path, arrival: Mapping[str, Any]) -> "Stream":
        """Begin to store a file that is still growing. Raises OSError."""
        return Stream(self._store, self._asks, path, arrival)


class Stream:
    """One object on its way in parts, in a thread of its own; the methods are for the thread that writes the file.

    Attributes
    ----------
    failure
        Why the object can't be stored; None while it can.
    """

    def __init__(self, store: ObjectStore, asks: Asks, path: Path, arrival: Mapping[str, Any]) -> None:
        self._store = store
        self._asks = asks
        self._path = path
        self._arrival = arrival
        self._changed = threading.Condition()
        self._part = 0
        #: Bytes that are in the file, and those up to the end of the last part that the store has.
        self._landed = self._stored = 0
        self._whole = self._given_up = False
        self._recorded = self._ended = False
        self.failure: str | None = None
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="upload", daemon=True)
        self._thread.start()

    def came(self, landed: int) -> None:
        """Say how many bytes are in the file; returns when not too many of them wait."""
        if landed - self._landed < self._part:
            return
        with self._changed:
            self._landed = landed
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: self._ended or not self._part or landed - self._stored <= _BEHIND * self._part
            )

    def finish(self, size: int) -> str | None:
        """Say that the file is sealed, and its length; returns when it is an object, or gives why it is not."""
        with self._changed:
            self._landed, self._whole = size, True
            self._changed.notify_all()
        self._thread.join()
        return self.failure

    def abandon(self) -> None:
        """Say that nothing will come of it; does not wait for a store that may hang."""
        with self._changed:
            self._given_up = True
            self._changed.notify_all()
            stored = self._ended and self._recorded and self.failure is None
        if stored:
            self._asks.dropped(self._arrival["id"], None, doubtful=False)

    def _run(self) -> None:
        doubtful = False
        try:
            self._upload()
        except NotRecordedError as error:
            self.failure = str(error)
        except (StoreUnavailableError, StoreFullError) as error:
            self.failure, doubtful = str(error), _doubtful(error)
        except ChannelClosedError:
            # The whole process ends, and the supervisor that would hear of it is gone.
            self.failure = "the process is ending: send again"
        except Exception as error:  # noqa: BLE001 (whatever it is: nothing was promised, and the sender is to come again)
            self.failure, doubtful = "a defect", True
            with suppress(ChannelClosedError):
                self._asks.log("error", "upload ended by a defect", **described(error))
        os.close(self._file)
        with self._changed:
            self._ended = True
            dropped = self._recorded and (self._given_up or self.failure is not None)
            self._changed.notify_all()
        if dropped:
            with suppress(ChannelClosedError):
                self._asks.dropped(self._arrival["id"], self.failure, doubtful=doubtful)

    def _upload(self) -> None:
        key = self._asks.expected(self._arrival)
        self._recorded = True
        upload = self._store.begin(key)
        if upload is None:
            # Linked, not copied, and at once.
            if self._come(sys.maxsize):
                self._store.keep({key: self._path})
            return
        with self._changed:
            self._part = part = upload.part
        number = 2
        while self._come(number * part) and self._landed > (number - 1) * part:
            self._put(upload, number)
            number += 1
        if self._come(sys.maxsize):
            self._put(upload, 1)
            upload.finish()

    def _come(self, length: int) -> bool:
        """Wait for so many bytes, or for all; False if nothing is to come of them."""
        with self._changed:
            self._changed.wait_for(lambda: self._given_up or self._whole or self._landed >= length)
            return not self._given_up

    def _put(self, upload: Upload, number: int) -> None:
        offset = (number - 1) * upload.part
        data = os.pread(self._file, upload.part, offset)
        if len(data) != min(upload.part, self._landed - offset):
            # Never an object with a hole, whatever the reason.
            raise OSError("the spool file is shorter than what was said to have landed")
        upload.put(number, data)
        with self._changed:
            self._stored = max(self._stored, number * upload.part)
            self._changed.notify_all()


def _doubtful(error: StoreUnavailableError | StoreFullError) -> bool:
    """Tell whether something of it may still come after the error."""
    return not isinstance(error, StoreFullError)
