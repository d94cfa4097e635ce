"""Receipts: whatever is changed in one is found, and what is said of it is right."""

import base64
import json
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from contracts.manifest import set_hash
from services.egress import canonical
from services.egress.receipt import (
    NotAKeyError,
    NotAReceiptError,
    Receipt,
    ReceiptItem,
    canonical_bytes,
    export,
    key_id,
    public_pem,
    read,
    read_keys,
)
from services.egress.verification import Finding, copies, verify

pytestmark = pytest.mark.unit

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEYS = {key_id(KEY.public_key()): KEY.public_key()}
ASKED = datetime(2026, 11, 20, 10, tzinfo=UTC)

uids = st.from_regex(r"[1-9][0-9]{0,8}(\.[1-9][0-9]{0,8}){1,4}", fullmatch=True)
slugs = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,8}", fullmatch=True)
moments = st.integers(0, 10**9).map(lambda n: ASKED + timedelta(microseconds=n))


def item(uid: str, digest: str, sent_at: datetime, **values: Any) -> ReceiptItem:
    return ReceiptItem.model_validate(
        {"sop_instance_uid": uid, "content_hash": digest, "size": 526, "state": "sent", "status": "0000"}
        | {"sent_at": sent_at, **values}
    )


items = st.builds(
    item,
    uids,
    st.binary(min_size=32, max_size=32).map(bytes.hex),
    moments,
    size=st.integers(0, 2**40),
    status=st.sampled_from(["0000", "B000", "B006", "B007", None, "stored"]),
    transform=st.none() | slugs,
)


def made(listed: list[ReceiptItem], **values: Any) -> Receipt:
    """Make a receipt that holds for these instances."""
    fields: dict[str, Any] = {
        "region": "north",
        "delivery_id": "0" * 32,
        "tenant": "default",
        "study_instance_uid": "1.2.3",
        "destination": "archive",
        "study_version": 1,
        "expected_count": len(listed),
        "expected_hash": set_hash((each.sop_instance_uid, each.content_hash) for each in listed),
        "network_version": 3,
        "requested_at": ASKED,
        "completed_at": max([ASKED, *(each.sent_at for each in listed if each.sent_at)]),
        "attempts": 1,
        "items": tuple(listed),
    }
    return Receipt.model_validate(fields | values)


receipts = st.builds(
    made,
    st.lists(items, min_size=1, max_size=5, unique_by=lambda each: each.sop_instance_uid),
    region=slugs,
    destination=slugs,
    study_version=st.integers(1, 2**31),
)
THREE = made([item(f"1.2.3.{n}", f"{n:064x}", ASKED + timedelta(seconds=n)) for n in range(1, 4)])


def problems(content: bytes) -> list[str]:
    """Tell all that differs in an exported receipt."""
    try:
        return [problem for finding in verify(read(content), KEYS) for problem in finding.problems]
    except NotAReceiptError as error:
        return [str(error)]


def failing(receipt: Receipt) -> dict[str, tuple[str, ...]]:
    """Sign a receipt as egress would, and give the checks that fail."""
    found = verify(read(export(receipt, KEY)), KEYS)
    return {finding.check: finding.problems for finding in found if not finding.holds}


def shuffled(value: Any, luck: random.Random) -> Any:
    if isinstance(value, list):
        return [shuffled(each, luck) for each in value]
    if isinstance(value, dict):
        names = list(value)
        luck.shuffle(names)
        return {name: shuffled(value[name], luck) for name in names}
    return value


def places(value: Any) -> list[tuple[Any, Any]]:
    """Give each place in a document that holds a value, as its container and its name or index there."""
    named = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    return [(value, name) for name, _ in named] + [place for _, inner in named for place in places(inner)]


@given(receipts)
def test_what_was_exported_is_read_as_it_was_and_holds(receipt: Receipt) -> None:
    exported = read(export(receipt, KEY))
    assert exported.receipt == receipt
    assert all(finding.holds for finding in verify(exported, KEYS))
    assert export(receipt, KEY) == export(exported.receipt, KEY)


@given(receipts, st.randoms(use_true_random=False), st.sampled_from([None, 1, "\t"]))
def test_order_of_members_and_whitespace_do_not_matter(receipt: Receipt, luck: random.Random, indent: Any) -> None:
    document = shuffled(json.loads(export(receipt, KEY)), luck)
    again = json.dumps(document, indent=indent).encode()
    assert read(again).signed_bytes == canonical_bytes(receipt)
    assert not problems(again)


@given(receipts, st.data())
def test_any_byte_that_is_changed_is_found(receipt: Receipt, data: st.DataObject) -> None:
    content = bytearray(export(receipt, KEY))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    assert problems(bytes(content))


def test_each_bit_of_a_signature_counts() -> None:
    content = export(THREE, KEY)
    start = content.index(b'"value":"') + len(b'"value":"')
    for place in range(start, content.index(b'"', start)):
        for bit in range(8):
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            assert problems(bytes(changed)), (place, bit)


@given(receipts, st.data())
def test_any_value_that_is_changed_is_found(receipt: Receipt, data: st.DataObject) -> None:
    document = json.loads(export(receipt, KEY))
    container, name = data.draw(st.sampled_from(places(document)))
    was = container[name]
    others: list[Any] = [1, "1", None, [], {}, "2026-11-20T10:00:00Z", "0000", f"{was}0"]
    container[name] = data.draw(st.sampled_from([other for other in others if other != was]))
    assert problems(json.dumps(document).encode())


@given(receipts, st.data())
def test_a_member_that_is_taken_away_or_added_is_found(receipt: Receipt, data: st.DataObject) -> None:
    document = json.loads(export(receipt, KEY))
    container, name = data.draw(st.sampled_from(places(document)))
    if data.draw(st.booleans()):
        del container[name]
    elif isinstance(container, dict):
        container["note"] = "approved"
    else:
        container.append(container[name])
    assert problems(json.dumps(document).encode())


def test_a_receipt_that_another_signed_is_found() -> None:
    other = Ed25519PrivateKey.generate()
    found = verify(read(export(THREE, other)), KEYS)
    [problem] = [problem for finding in found for problem in finding.problems]
    assert key_id(other.public_key()) in problem
    # Nor does it help to claim to be somebody else.
    document = json.loads(export(THREE, other))
    document["signature"]["key_id"] = key_id(KEY.public_key())
    assert "was changed after it was signed" in problems(json.dumps(document).encode())[0]


def test_of_several_keys_the_one_that_signed_is_taken() -> None:
    old = Ed25519PrivateKey.generate()
    pem = (public_pem(old.public_key()) + public_pem(KEY.public_key())).encode()
    for key in (old, KEY):
        assert all(finding.holds for finding in verify(read(export(THREE, key)), read_keys(pem)))


def replaced(index: int, **values: Any) -> tuple[ReceiptItem, ...]:
    listed = list(THREE.items)
    listed[index] = listed[index].model_copy(update=values)
    return tuple(listed)


@pytest.mark.parametrize(
    ("changes", "checks", "said"),
    [
        ({"items": THREE.items[:2]}, {"set", "count"}, "3 instances were to be delivered, and it lists 2."),
        ({"items": (*THREE.items, THREE.items[0])}, {"count"}, "Instance 1.2.3.1 is listed 2 times."),
        ({"items": replaced(1, content_hash="f" * 64)}, {"set"}, "not those that were to be delivered"),
        ({"items": replaced(1, state="pending", status="A700")}, {"outcomes"}, "1.2.3.2 is not sent: it is pending"),
        ({"items": replaced(1, status="A700")}, {"outcomes"}, "with the status A700"),
        ({"items": replaced(1, status="C000")}, {"outcomes"}, "with the status C000"),
        ({"items": replaced(2, sent_at=None)}, {"times"}, "1.2.3.3 has no time"),
        ({"items": replaced(2, sent_at=ASKED - timedelta(hours=1))}, {"times"}, "before it was asked for"),
        ({"items": replaced(2, sent_at=ASKED + timedelta(hours=1))}, {"times"}, "after all was complete"),
        ({"items": replaced(2, committed_at=ASKED - timedelta(hours=1))}, {"times"}, "before it was sent"),
        ({"completed_at": ASKED - timedelta(hours=1)}, {"times"}, "before it was asked for"),
        ({"expected_count": 4}, {"count"}, "4 instances were to be delivered, and it lists 3."),
        ({"expected_hash": "0" * 64}, {"set"}, "was to be 000"),
    ],
)
def test_what_contradicts_itself_does_not_hold_however_well_it_is_signed(
    changes: dict[str, Any], checks: set[str], said: str
) -> None:
    found = failing(THREE.model_copy(update=changes))
    assert set(found) == checks
    assert said in " ".join(problem for problems in found.values() for problem in problems)


def test_clocks_of_two_machines_may_differ_a_little() -> None:
    early = replaced(0, sent_at=ASKED - timedelta(seconds=30), committed_at=ASKED - timedelta(seconds=40))
    assert not failing(THREE.model_copy(update={"items": early}))


def test_many_problems_are_told_by_the_first_and_their_number() -> None:
    many = made([item(f"1.2.3.{n}", f"{n:064x}", ASKED, state="failed") for n in range(1, 101)])
    told = failing(many)["outcomes"]
    assert len(told) == 6
    assert "95 more" in told[-1]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not JSON"),
        (b"\xff", "not text in UTF-8"),
        (b"[]", "no member `receipt`"),
        (b'{"receipt": 1}', "no member `receipt`"),
        (b'{"receipt": {}}', "Field required"),
        (b'{"receipt": {"size": 1.5}}', "other than texts"),
        (b'{"receipt": {"size": NaN}}', "a number that JSON does not have"),
        (b'{"receipt": {"size": 9007199254740992}}', "other than texts"),
        (b'{"receipt": {"region": "\\ud800"}}', "half of a surrogate pair"),
        (b'{"receipt": {}, "receipt": {}}', "two members of the same name"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"receipt": ' + b"[" * 900 + b"]" * 900 + b"}", "no member `receipt`"),
        (b'{"receipt": {"a": ' + b"[" * 900 + b"]" * 900 + b"}}", ""),
        (export(THREE, KEY).replace(b"kivuko.receipt.v1", b"kivuko.receipt.v2"), "format"),
        (export(THREE, KEY).replace(b'"archive"', b'"\x1b[31m"'), "not JSON"),
        (export(THREE, KEY).replace(b'"archive"', b'"\\u001b[31m"'), "destination"),
        (export(THREE, KEY)[:-1] + b',"approved":true}', "approved"),
    ],
)
def test_what_is_no_receipt_is_refused_without_repeating_it(content: bytes, said: str) -> None:
    with pytest.raises(NotAReceiptError) as refused:
        read(content)
    assert said in str(refused.value)
    assert "\x1b" not in str(refused.value)


def test_the_same_signature_in_another_spelling_is_found() -> None:
    document = json.loads(export(THREE, KEY))
    value = document["signature"]["value"]
    # 64 bytes leave four bits of the last digit unused.
    spelled = value[:-3] + chr(ord(value[-3]) + 1) + "=="
    assert base64.b64decode(spelled) == base64.b64decode(value)
    document["signature"]["value"] = spelled
    assert "proper form" in problems(json.dumps(document).encode())[0]


def pem_of(key: Any) -> bytes:
    return bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


@pytest.mark.parametrize(
    ("pem", "said"),
    [
        (b"", "holds no public key"),
        (pem_of(KEY).replace(b"PUBLIC", b"PRIVATE"), "holds no public key"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "cannot be read"),
        (pem_of(X25519PrivateKey.generate()), "not for Ed25519"),
    ],
)
def test_what_is_no_key_is_refused(pem: bytes, said: str) -> None:
    with pytest.raises(NotAKeyError, match=said):
        read_keys(pem)


def test_copies_are_compared_by_content() -> None:
    whole = {each.content_hash: each.sop_instance_uid for each in THREE.items}
    assert copies(THREE, {**whole, "e" * 64: "1.9"}, "/x").holds
    told: Callable[[dict[str, str]], Finding] = lambda found: copies(THREE, found, "/x")  # noqa: E731 # used twice
    first, *others = whole.items()
    assert told(dict(others)).problems == ("Instance 1.2.3.1 is not in /x.",)
    [other] = told({**dict(others), "e" * 64: first[1]}).problems
    assert other == "Instance 1.2.3.1 in /x has other content than the one that was kept."
    changed = THREE.model_copy(update={"items": replaced(0, transform="pseudonyms")})
    [why] = copies(changed, {**dict(others), "e" * 64: first[1]}, "/x").problems
    assert "The transform pseudonyms changed it" in why


def test_members_are_in_the_order_of_rfc_8785_and_texts_in_its_form() -> None:
    # Section 3.2.3, and the text of section 3.2.2.2.
    names = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    text = canonical.encode(dict.fromkeys(names, 1)).decode()
    assert list(json.loads(text)) == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]
    assert canonical.encode('\u20ac$\u000f\nA\'B"\\\\"/') == '"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"'.encode()
    assert canonical.encode({"b": [True, False, None, -3], "a": {}}) == b'{"a":{},"b":[true,false,null,-3]}'


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(values, st.randoms(use_true_random=False))
def test_canonical_bytes_do_not_depend_on_order_and_say_the_same(value: Any, luck: random.Random) -> None:
    content = canonical.encode(value)
    assert canonical.decode(content) == value
    assert canonical.encode(shuffled(value, luck)) == content


@pytest.mark.parametrize("value", [1.0, 2**53, float("nan"), b"x", {1: 2}, ["\ud800"], {"\ud800": 1}])
def test_what_has_no_canonical_form_is_refused(value: Any) -> None:
    with pytest.raises(canonical.NotCanonicalError):
        canonical.encode(value)
