"""One case: bytes of a peer, how the network cuts them, and what is held against the association that got them."""

from libs.dimse import associate
from libs.dimse.acceptor import LONGEST_COMMAND, LONGEST_REQUEST, Association
from libs.dimse.pdu import Kind
from libs.dimse.provider import Ending
from tests.support.association import BREAKS, CLOSES, OPTIONS, PEER, REQUEST, SILENT, Recorder, Scripted, split

RQ = associate.encode_request(REQUEST)
_ENDS = (CLOSES, SILENT, BREAKS)
_KNOWN = frozenset(Kind)


def run(data: bytes) -> Ending:
    """Let a peer send these bytes; raises whatever is not a classified ending.

    The first byte says how: bit 0 puts a valid request before the rest, bits 1 and 2 how the connection ends, the
    others how many bytes come at a time (0: all).
    """
    head, stream = (data[0], data[1:]) if data else (0, b"")
    stream = RQ + stream if head & 1 else stream
    connected = Scripted(stream, [head >> 3] * len(stream) if head >> 3 else (), _ENDS[(head >> 1 & 3) % len(_ENDS)])
    recorder = Recorder()
    association = Association(connected, PEER, recorder, OPTIONS, now=lambda: 0.0, waiting=lambda: True)
    ending = association.run()
    _check(association, ending, connected, recorder)
    return ending


def _check(association: Association, ending: Ending, connected: Scripted, recorder: Recorder) -> None:
    assert ending is association.ending
    assert ending is not Ending.FAILED
    assert connected.closed == 1
    assert not recorder.open
    pdus = split(bytes(connected.sent))
    accepted = bool(pdus) and pdus[0][0] == Kind.ASSOCIATE_AC
    assert recorder.endings == ([ending] if accepted else [])
    assert all(kind in _KNOWN for kind, _ in pdus)
    stored = sum(call[0] == "stored" for call in recorder.calls)
    answered = sum(call[0] == "answer" for call in recorder.calls)
    assert sum(kind == Kind.P_DATA for kind, _ in pdus) >= stored + answered
    assert len(association._partial) <= LONGEST_COMMAND
    assert sum(len(body) for _, body in pdus) <= LONGEST_REQUEST + 400 * (stored + answered)
