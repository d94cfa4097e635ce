"""What the acceptor of an association needs of its user, and what it tells him."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeAlias

from libs.dimse import command as commands
from libs.dimse.command import Command
from libs.dimse.negotiation import Acceptance, Context, Request
from libs.dimse.pdu import Rejection


class Ending(StrEnum):
    """How an association ended."""

    RELEASED = "released"
    #: The peer sent A-ABORT.
    ABORTED = "aborted"
    #: The connection closed or broke without a word.
    LOST = "lost"
    TIMED_OUT = "timed-out"
    #: The peer broke the protocol and was told so by A-ABORT.
    PROTOCOL_ERROR = "protocol-error"
    #: `Association.abort` was called.
    STOPPED = "stopped"
    #: Never accepted: A-ASSOCIATE-RJ was sent.
    REJECTED = "rejected"
    #: A defect of the provider, which raised.
    FAILED = "failed"


@dataclass(frozen=True)
class Peer:
    """Who called.

    Attributes
    ----------
    address, port
        Source of the connection.
    certificate
        DER of the certificate that a TLS client has shown and proved; none without TLS.
    """

    address: str
    port: int
    certificate: bytes | None = None


@dataclass(frozen=True)
class Options:
    """What an acceptor offers and bears.

    Attributes
    ----------
    implementation
        Our implementation class UID and version name, PS3.7 section D.3.3.2.
    max_pdu
        Longest P-DATA-TF offered, in bytes without the header; 0: any. Longer ones are taken all the same: they cost
        nothing.
    artim_timeout
        Seconds in total until the request has come, and again from our last word until the peer closes.
    network_timeout
        Seconds of silence that are borne once the association stands, and in which the peer has to take an answer.
    window
        Most operations that a requestor may have under way; 0: any. They are done one after the other.
    """

    implementation: tuple[str, str]
    max_pdu: int = 131072
    artim_timeout: float = 30.0
    network_timeout: float = 60.0
    window: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """A response that has a dataset.

    Attributes
    ----------
    command
        The response, which says that a dataset follows.
    dataset
        In the transfer syntax of the request's presentation context; of even length.
    """

    command: Command
    dataset: bytes


#: One response, or all of a request. Of a generator no more is asked than what the peer takes: it is closed when the
#: peer cancels, and when the association ends. A C-CANCEL is looked for after each response that is pending.
Said: TypeAlias = Command | Iterable[Command | Reply]


class Sink(Protocol):
    """Takes one dataset. Exactly one of `finish` and `abandon` is called, once."""

    def write(self, fragment: memoryview) -> None:
        """Take the next bytes, which stand there during the call only. Want of room is said by `finish`."""
        ...

    def finish(self) -> Said:
        """Give the response, or the responses: the dataset has come as a whole."""
        ...

    def abandon(self) -> None:
        """Forget it: the association ended before the dataset did."""
        ...


class Provider(Protocol):
    """The user of an association; all calls come from the thread of `run`.

    What it raises is a defect: the peer gets A-ABORT, the association ends as `failed`, and `run` raises it.
    """

    def admit(self, request: Request, peer: Peer) -> Acceptance | Rejection:
        """Decide about the association."""
        ...

    def receive(self, context: Context, command: Command) -> Sink:
        """Take a request with a dataset that has not come yet."""
        ...

    def answer(self, context: Context, command: Command) -> Iterable[Command | Reply]:
        """Give the responses to a request without dataset, one of type C-CANCEL excepted."""
        ...

    def ended(self, how: Ending) -> None:
        """Hear once how an accepted association ended, before the peer hears it."""
        ...


class Declined:
    """A sink for a request that is not served: the dataset is read past, and the response says why.

    Parameters
    ----------
    request
        What is answered.
    status, comment
        Of the response; PS3.7 annex C.
    """

    def __init__(self, request: Command, status: int = commands.UNRECOGNIZED_OPERATION, comment: str = "") -> None:
        self._response = commands.response(request, status, comment)

    def write(self, fragment: memoryview) -> None:
        """Read past it."""

    def finish(self) -> Command:
        """Give the refusal."""
        return self._response

    def abandon(self) -> None:
        """Nothing was kept."""


class Gathered:
    """A sink that keeps a whole dataset, as far as it is no longer than it may be.

    Parameters
    ----------
    request
        What is answered.
    most
        Bytes of the longest dataset that is kept. What is longer is read past and refused with 0213.
    answered
        Gives the response, or the responses, to the dataset.
    """

    def __init__(self, request: Command, most: int, answered: Callable[[bytes], Said]) -> None:
        self._request = request
        self._most = most
        self._answered = answered
        self._data = bytearray()
        self._length = 0

    def write(self, fragment: memoryview) -> None:
        """Keep more of it."""
        self._length += len(fragment)
        if self._length > self._most:
            self._data.clear()
        else:
            self._data += fragment

    def finish(self) -> Said:
        """Answer it."""
        if self._length > self._most:
            comment = f"a dataset of more than {self._most} bytes is not taken"
            return commands.response(self._request, commands.RESOURCE_LIMITATION, comment)
        return self._answered(bytes(self._data))

    def abandon(self) -> None:
        """Forget it."""
        self._data.clear()
