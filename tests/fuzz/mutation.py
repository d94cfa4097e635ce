"""Cases by the thousand: streams that are nearly right, from a seed, so that each can be had again."""

import random
from collections.abc import Sequence

from libs.dimse import associate, pdu
from libs.dimse import command as commands
from tests.support.association import ABORT, CT, RELEASE, REQUEST, echo, fragment, p_data, store

_REQUEST = associate.encode_request(REQUEST)
_STORE = commands.encode(commands.store_request(1, CT, "1.2.3"))
_ECHO = commands.encode(commands.echo_request(2))
_PARTS = (
    store(1, b"dataset!"),
    echo(2),
    p_data(fragment(1, _STORE, 3)),
    p_data(fragment(1, _STORE[:30], 1)),
    p_data(fragment(1, _STORE[30:], 3) + fragment(1, b"half", 0)),
    p_data(fragment(1, b"data", 2)),
    p_data(fragment(3, _ECHO, 3)),
    p_data(),
    RELEASE,
    pdu.encode_release_rp(),
    ABORT,
    _REQUEST,
)
_LENGTHS = (b"\0\0\0\0", b"\0\0\0\1", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\0\1", b"\xff\xff")


def case(source: random.Random, corpus: Sequence[bytes]) -> bytes:
    """Make one case: parts in some order, or one of the corpus, then damaged in some places or none."""
    if source.random() < 0.25:
        made = bytearray(source.choice(corpus))
    else:
        made = bytearray([source.getrandbits(8)])
        for _ in range(source.randrange(7)):
            made += source.choice(_PARTS)
    for _ in range(source.choice((0, 1, 1, 2, 4))):
        _damage(made, source)
    return bytes(made)


def _damage(made: bytearray, source: random.Random) -> None:
    at = source.randrange(len(made) + 1)
    match source.randrange(6):
        case 0:
            made[at : at + 1] = bytes([source.getrandbits(8)])
        case 1:
            length = source.choice(_LENGTHS)
            made[at : at + len(length)] = length
        case 2:
            del made[at : at + source.randrange(1, 9)]
        case 3:
            made[at:at] = source.randbytes(source.randrange(1, 9))
        case 4:
            made[at:at] = source.choice(_PARTS)
        case _:
            del made[at:]
