"""What is new, what was there, what contradicts."""

from hypothesis import given
from hypothesis import strategies as st

from services.ingest.sorting import Kept, Known, sort_out, strays
from tests.unit.ingest.entries import make_entry


def test_an_arrival_that_was_indexed_before_a_crash_keeps_its_object() -> None:
    entry = make_entry(1)
    known = {("default", entry.arrival.sop_instance_uid): Kept(entry.content_hash, entry.object_key)}
    found = sort_out([entry], known)
    assert [each for each, _ in found.duplicates] == [entry]
    assert strays(found.duplicates) == []


def test_a_duplicate_leaves_no_object_under_its_own_key() -> None:
    first, again = make_entry(1, sop_uid="1.2"), make_entry(2, sop_uid="1.2")
    found = sort_out([first, again], {})
    assert found.new == [first]
    assert strays(found.duplicates) == [again.object_key]
    assert again.object_key != first.object_key


@given(st.lists(st.tuples(st.sampled_from(["1.1", "1.2", "1.3"]), st.sampled_from("01"), st.sampled_from(["t", "u"]))))
def test_the_first_content_of_a_uid_stands_in_each_tenant(arriving: list[tuple[str, str, str]]) -> None:
    entries = [
        make_entry(number, sop_uid=sop_uid, content=content, tenant=tenant)
        for number, (sop_uid, content, tenant) in enumerate(arriving)
    ]
    known: Known = {}
    parts = [sort_out(entries[::2], known), sort_out(entries[1::2], known)]
    first: dict[tuple[str, str], str] = {}
    for entry in [*entries[::2], *entries[1::2]]:
        first.setdefault((entry.arrival.tenant, entry.arrival.sop_instance_uid), entry.content_hash)
    new = [entry for part in parts for entry in part.new]
    assert {(each.arrival.tenant, each.arrival.sop_instance_uid): each.content_hash for each in new} == first
    assert len(new) == len(first)
    for part in parts:
        assert all(entry.content_hash == kept.content_hash for entry, kept in part.duplicates)
        assert all(entry.content_hash != kept.content_hash for entry, kept in part.conflicts)
    assert sum(len(part.new) + len(part.duplicates) + len(part.conflicts) for part in parts) == len(entries)
