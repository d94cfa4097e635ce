"""Many associations at once from a process of its own: `Sender` starts it, gives it loads and gets what it measured.

In a process of its own so that neither the starting, nor the sampling of who measures is part of what is measured.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Literal, Self
from uuid import uuid4

from tests.support.requestor import Association, BrokenError, NotAcceptedError, Request
from tests.support.template import SYNTAX, Image, Template, ct512, small, uid

Kind = Literal["ct512", "small"]
_TEMPLATES: Mapping[Kind, Callable[[], Template]] = {"ct512": ct512, "small": small}


@dataclass(frozen=True)
class Load:
    """What is sent: each association is a study of one series.

    Attributes
    ----------
    kind
        Template of every instance.
    count
        Instances in all.
    associations
        At a time; `count` is a multiple of it.
    """

    port: int
    kind: Kind
    count: int
    associations: int
    called: str = "KIVUKO"


@dataclass(frozen=True)
class Sent:
    """What became of a load. Times are those of `time.monotonic`, which all processes share.

    Attributes
    ----------
    began
        Before the first association was requested.
    ended
        After the last response.
    responses
        Seconds from the first byte of each request to its response.
    size
        Bytes of all datasets.
    studies
        Study Instance UIDs.
    """

    began: float
    ended: float
    responses: list[float]
    size: int
    studies: list[str]


class SendingError(Exception):
    """Not everything was answered with success. The text says what was not."""


class Sender:
    """The process, from its start to the end of the block."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.sender"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def send(self, load: Load) -> Sent:
        """Send a load and wait for its end. Raises SendingError."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(load)) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SendingError(f"the sending process ended with {self._process.wait()}")
        found = json.loads(answer)
        if "failure" in found:
            raise SendingError(found["failure"])
        return Sent(**found)


def send(load: Load) -> Sent:
    """Send a load from threads of this process. Raises SendingError."""
    if load.count % load.associations:
        raise ValueError(f"{load.count} instances are not the same number for each of {load.associations} associations")
    template = _TEMPLATES[load.kind]()
    stations = [_Station(load, template) for _ in range(load.associations)]
    began = time.monotonic()
    for station in stations:
        station.thread.start()
    for station in stations:
        station.thread.join()
    ended = time.monotonic()
    failures = [station.failure for station in stations if station.failure]
    if failures:
        raise SendingError(f"{len(failures)} of {load.associations} associations failed, one by: {failures[0]}")
    responses = [each for station in stations for each in station.responses]
    return Sent(began, ended, responses, load.count * len(template.dataset), [station.study for station in stations])


class _Station:
    """One association. All that can be made before the clock runs is made before."""

    def __init__(self, load: Load, template: Template) -> None:
        self._load = load
        self._image = template.image()
        base = uuid4().int >> 32 << 20
        self.study, self._series = uid(base), uid(base + 1)
        self._uids = [uid(base + 2 + number) for number in range(load.count // load.associations)]
        self.responses: list[float] = []
        self.failure: str | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self._send()
        except (BrokenError, NotAcceptedError, SendingError) as error:
            self.failure = f"{error}, after {len(self.responses)} instances"

    def _send(self) -> None:
        image: Image = self._image
        association = Association(self._load.port, sop_class=image.sop_class, syntax=SYNTAX, called=self._load.called)
        request = Request(image.dataset, image.sop_class, image.sop_uid, association.max_pdu)
        for number, each in enumerate(self._uids, 1):
            image.become(self.study, self._series, each, number)
            request.name(each.encode())
            before = time.perf_counter()
            status = association.store(request)
            self.responses.append(time.perf_counter() - before)
            if status != 0:
                raise SendingError(f"status 0x{status:04X}")
        association.release()


def main() -> None:
    """Take loads as lines of JSON, and answer each with a line."""
    for line in sys.stdin:
        try:
            answer = asdict(send(Load(**json.loads(line))))
        except SendingError as error:
            answer = {"failure": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
