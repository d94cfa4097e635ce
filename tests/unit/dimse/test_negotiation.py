import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ

from libs.dimse import associate, negotiation
from libs.dimse.negotiation import (
    Acceptance,
    Agreement,
    CommonExtended,
    Context,
    Extended,
    Proposed,
    RefusedContext,
    Request,
    Role,
    UserIdentity,
)
from libs.dimse.pdu import HEADER, Kind, MalformedError

uids = st.lists(st.integers(0, 99999), min_size=1, max_size=8).map(lambda parts: ".".join(map(str, ("1", *parts))))
titles = st.text(st.sampled_from("ABCXYZ_019"), min_size=1, max_size=16)
information = st.binary(min_size=1, max_size=20)
windows = st.none() | st.tuples(st.integers(0, 65535), st.integers(0, 65535))
roles = st.lists(st.builds(Role, uids, st.booleans(), st.booleans()), max_size=3).map(tuple)
extended = st.lists(st.builds(Extended, uids, information), max_size=3).map(tuple)
identities = st.builds(
    UserIdentity, st.sampled_from([1, 3, 4, 5]), st.booleans(), information, st.just(b"")
) | st.builds(UserIdentity, st.just(2), st.booleans(), information, information)


@st.composite
def proposals(draw: st.DrawFn) -> tuple[Proposed, ...]:
    ids = draw(st.lists(st.sampled_from(range(1, 256, 2)), unique=True, max_size=5))
    return tuple(Proposed(each, draw(uids), tuple(draw(st.lists(uids, min_size=1, max_size=3)))) for each in ids)


requests = st.builds(
    Request,
    called_aet=titles,
    calling_aet=titles,
    contexts=proposals(),
    max_pdu=st.integers(0, 2**32 - 1),
    implementation_class_uid=uids,
    implementation_version=titles | st.just(""),
    window=windows,
    identity=st.none() | identities,
    roles=roles,
    extended=extended,
    common_extended=st.lists(
        st.builds(CommonExtended, uids, uids, st.lists(uids, max_size=2).map(tuple)), max_size=2
    ).map(tuple),
)
agreements = st.builds(
    Agreement,
    called_aet=titles,
    calling_aet=titles,
    contexts=proposals().map(
        lambda each: tuple(
            Context(one.id, "", one.transfer_syntaxes[0]) if one.id % 4 == 1 else RefusedContext(one.id, 3)
            for one in each
        )
    ),
    max_pdu=st.integers(0, 2**32 - 1),
    implementation_class_uid=uids,
    implementation_version=titles | st.just(""),
    window=windows,
    identity_response=st.none() | st.binary(max_size=20),
    roles=roles,
    extended=extended,
)


def body(whole: bytes, kind: Kind) -> bytes:
    assert HEADER.unpack_from(whole) == (kind, len(whole) - HEADER.size)
    return whole[HEADER.size :]


@given(requests)
def test_a_request_survives(request_: Request) -> None:
    assert associate.decode_request(body(associate.encode_request(request_), Kind.ASSOCIATE_RQ)) == request_


@given(agreements)
def test_an_agreement_survives(agreement: Agreement) -> None:
    assert associate.decode_agreement(body(associate.encode_agreement(agreement), Kind.ASSOCIATE_AC)) == agreement


@given(requests, st.data())
def test_a_damaged_request_is_read_or_malformed(request_: Request, data: st.DataObject) -> None:
    raw = bytearray(body(associate.encode_request(request_), Kind.ASSOCIATE_RQ))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    for read in (associate.decode_request, associate.decode_agreement):
        with suppress(MalformedError):
            read(bytes(raw[: data.draw(st.integers(0, len(raw)))]))


@given(requests)
def test_another_implementation_reads_our_request(request_: Request) -> None:
    theirs = A_ASSOCIATE_RQ()
    theirs.decode(associate.encode_request(request_))
    assert (theirs.called_ae_title, theirs.calling_ae_title) == (request_.called_aet, request_.calling_aet)
    assert [
        (each.context_id, str(each.abstract_syntax), tuple(map(str, each.transfer_syntax)))
        for each in theirs.presentation_context
    ] == [(each.id, each.abstract_syntax, each.transfer_syntaxes) for each in request_.contexts]
    assert theirs.encode() == associate.encode_request(request_)


@given(agreements)
def test_another_implementation_reads_our_agreement(agreement: Agreement) -> None:
    theirs = A_ASSOCIATE_AC()
    theirs.decode(associate.encode_agreement(agreement))
    assert [(each.context_id, each.result) for each in theirs.presentation_context] == [
        (each.id, 0 if isinstance(each, Context) else each.reason) for each in agreement.contexts
    ]
    assert theirs.encode() == associate.encode_agreement(agreement)


PLAIN = Request("KIVUKO", "MODALITY", (Proposed(1, "1.2.3", ("1.2.840.10008.1.2",)),), 16384, "1.2.3.4")


def with_item(request: Request, kind: int, value: bytes) -> bytes:
    """Add an item at the end of the user information."""
    raw = body(associate.encode_request(request), Kind.ASSOCIATE_RQ)
    at = raw.rindex(b"\x50\0", 0, raw.rindex(b"\x51\0\0\4"))
    (length,) = struct.unpack_from(">H", raw, at + 2)
    item = struct.pack(">BxH", kind, len(value)) + value
    return raw[: at + 2] + struct.pack(">H", length + len(item)) + raw[at + 4 :] + item


def test_items_of_unknown_type_are_passed_over() -> None:
    raw = with_item(PLAIN, 0x5F, b"news") + struct.pack(">BxH", 0x99, 3) + b"new"
    assert associate.decode_request(raw) == PLAIN


def test_a_context_with_a_bad_name_is_kept_to_be_refused() -> None:
    raw = body(associate.encode_request(PLAIN), Kind.ASSOCIATE_RQ)
    damaged = raw.replace(b"\x30\0\0\x051.2.3", b"\x30\0\0\x051.2\xff3")
    assert damaged != raw
    [context] = associate.decode_request(damaged).contexts
    assert context.id == 1
    agreement = negotiation.agree(PLAIN, Acceptance(()), max_pdu=0, window=0, implementation=("1.2", "X"))
    assert agreement.contexts == (RefusedContext(1, negotiation.ABSTRACT_SYNTAX_NOT_SUPPORTED),)


def test_an_odd_implementation_name_is_no_ground_to_refuse() -> None:
    request = associate.decode_request(
        with_item(PLAIN, 0x55, "SCANNER-\N{LATIN SMALL LETTER E WITH ACUTE}".encode("latin-1"))
    )
    assert request.implementation_version == "SCANNER-\\xe9"


def test_padded_and_empty_titles_are_read() -> None:
    raw = bytearray(body(associate.encode_request(PLAIN), Kind.ASSOCIATE_RQ))
    raw[4:36] = b" KIVUKO\0".ljust(16) + b" " * 16
    request = associate.decode_request(bytes(raw))
    assert (request.called_aet, request.calling_aet) == ("KIVUKO", "")


@pytest.mark.parametrize(
    "raw",
    [
        with_item(PLAIN, 0x51, b"\0\1"),
        with_item(PLAIN, 0x53, b"\0"),
        with_item(PLAIN, 0x54, b"\0\x401.2"),
        with_item(PLAIN, 0x58, b"\1\0\0\x40x"),
        body(associate.encode_request(PLAIN), Kind.ASSOCIATE_RQ).replace(b"\x20\0\0\x22\1", b"\x20\0\0\x22\2"),
        body(associate.encode_request(PLAIN), Kind.ASSOCIATE_RQ)[:-1],
    ],
)
def test_items_that_cannot_be_read_are_malformed(raw: bytes) -> None:
    assert raw != body(associate.encode_request(PLAIN), Kind.ASSOCIATE_RQ)
    with pytest.raises(MalformedError):
        associate.decode_request(raw)


@pytest.mark.parametrize(
    ("wanted", "granted", "answer"),
    [
        (None, 0, None),
        ((8, 1), 0, (8, 1)),
        ((8, 1), 4, (4, 1)),
        ((2, 2), 4, (2, 1)),
        ((0, 0), 4, (4, 1)),
        ((0, 1), 0, (0, 1)),
    ],
)
def test_a_window_is_granted_as_far_as_we_go(
    wanted: tuple[int, int] | None, granted: int, answer: tuple[int, int] | None
) -> None:
    request = Request("K", "M", (), 0, "1.2", window=wanted)
    agreement = negotiation.agree(request, Acceptance(()), max_pdu=0, window=granted, implementation=("1.2", "X"))
    assert agreement.window == answer


@pytest.mark.parametrize(("wanted", "answer"), [(True, b""), (False, None)])
def test_a_user_identity_is_answered_where_it_asks_for_it(*, wanted: bool, answer: bytes | None) -> None:
    request = Request("K", "M", (), 0, "1.2", identity=UserIdentity(2, wanted, b"reader", b"secret"))
    agreement = negotiation.agree(request, Acceptance(()), max_pdu=0, window=0, implementation=("1.2", "X"))
    assert agreement.identity_response == answer
    assert "secret" not in repr(request)


def test_a_context_that_was_not_proposed_is_a_defect() -> None:
    with pytest.raises(ValueError, match="not proposed"):
        negotiation.agree(PLAIN, Acceptance((Context(3, "1", "2"),)), max_pdu=0, window=0, implementation=("1.2", "X"))


def test_two_contexts_of_one_identifier_are_malformed() -> None:
    twice = Request("K", "M", (PLAIN.contexts[0], PLAIN.contexts[0]), 0, "1.2")
    with pytest.raises(MalformedError):
        associate.decode_request(body(associate.encode_request(twice), Kind.ASSOCIATE_RQ))
