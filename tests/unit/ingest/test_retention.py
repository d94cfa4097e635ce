from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.definition import Retention
from services.ingest.retention import Copy, Delivered, judge, keep_time

pytestmark = pytest.mark.unit
NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAY = 86_400
RETENTION = (
    Retention(modality=("CT", "MR"), keep=5 * DAY),
    Retention(modality=("MG",), keep=10 * DAY),
    Retention(keep=2 * DAY),
)
COPY = Copy(
    version=2,
    decided=2,
    settled=True,
    modalities=("CT",),
    last_arrival=NOW - timedelta(days=6),
    deliveries=(Delivered("archive", 2, 2), Delivered("viewer", 1, 1)),
    flags=0,
    quarantined=0,
)


def kinds(copy: Copy) -> list[str]:
    return [hold.kind for hold in judge(copy, RETENTION).holds]


@pytest.mark.parametrize(
    ("modalities", "days"),
    [((), 2), (("US",), 2), (("CT",), 5), (("CT", "SR"), 5), (("MG", "CT"), 10), (("US", "SR"), 2)],
)
def test_the_first_entry_counts_for_a_modality_and_the_longest_for_a_study(
    modalities: tuple[str, ...], days: int
) -> None:
    assert keep_time(RETENTION, modalities) == days * DAY


def test_what_no_entry_is_for_is_kept() -> None:
    only_ct = RETENTION[:1]
    assert keep_time(only_ct, ("CT", "SR")) is None
    assert keep_time(only_ct, ()) is None
    assert keep_time((), ("CT",)) is None
    assert kinds(replace(COPY, modalities=("XA",))) == []
    assert [hold.kind for hold in judge(replace(COPY, modalities=("XA",)), only_ct).holds] == ["unlimited"]


def test_a_keep_time_beyond_the_calendar_never_ends() -> None:
    verdict = judge(COPY, (Retention(keep=10**12),))
    assert [hold.kind for hold in verdict.holds] == ["unlimited"]
    assert not verdict.may_go(NOW)


def test_a_copy_goes_when_its_time_is_over_and_not_before() -> None:
    verdict = judge(COPY, RETENTION)
    assert (verdict.keep, verdict.until) == (5 * DAY, NOW - timedelta(days=1))
    assert verdict.destinations == ("archive",)
    assert verdict.may_go(NOW)
    assert verdict.may_go(NOW - timedelta(days=1))
    assert not verdict.may_go(NOW - timedelta(days=1, microseconds=1))


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"settled": False}, "receiving"),
        ({"version": 0, "decided": 0}, "receiving"),
        ({"decided": 1}, "undecided"),
        ({"deliveries": (Delivered("archive", 2, 1),)}, "undelivered"),
        ({"deliveries": (Delivered("archive", 2, 2), Delivered("viewer", 1, 0))}, "undelivered"),
        ({"deliveries": ()}, "nowhere"),
        ({"deliveries": (Delivered("archive", 1, 1),)}, "nowhere"),
        ({"deliveries": (Delivered("archive", 0, 2),)}, "nowhere"),
        # Cancelled everywhere, nobody else has it; and an old cancellation says nothing of the last version.
        ({"deliveries": (Delivered("archive", 2, 0, 2),)}, "nowhere"),
        ({"deliveries": (Delivered("archive", 2, 0, 1),)}, "undelivered"),
        ({"deliveries": (Delivered("archive", 2, 0, 1, "other"),)}, "undelivered"),
        ({"deliveries": (Delivered("archive", 2, 2), Delivered("viewer", 2, 0, 1, "other"))}, "undelivered"),
        ({"flags": 1}, "flagged"),
        ({"quarantined": 1}, "quarantined"),
    ],
)
def test_each_doubt_keeps_it(change: dict[str, object], kind: str) -> None:
    copy = replace(COPY, **change)  # type: ignore[arg-type]  # fields by name
    assert kinds(copy) == [kind]
    assert not judge(copy, RETENTION).may_go(datetime.max.replace(tzinfo=UTC))


@pytest.mark.parametrize(
    ("deliveries", "having"),
    [
        ((Delivered("archive", 2, 2), Delivered("viewer", 2, 0, 2)), ("archive",)),
        ((Delivered("archive", 2, 0, 2, "other"),), ("other",)),
        ((Delivered("archive", 2, 1, 2, "other"), Delivered("other", 2, 2)), ("other",)),
    ],
)
def test_what_was_cancelled_or_has_arrived_elsewhere_does_not_keep_it(
    deliveries: tuple[Delivered, ...], having: tuple[str, ...]
) -> None:
    verdict = judge(replace(COPY, deliveries=deliveries), RETENTION)
    assert verdict.destinations == having
    assert verdict.may_go(NOW)


def test_what_was_discarded_goes_after_its_time_and_not_before_whoever_else_should_get_it_has_it() -> None:
    discarded = replace(COPY, deliveries=(), discarded="no patient (rule `tests`)")
    assert judge(discarded, RETENTION).may_go(NOW)
    assert not judge(discarded, RETENTION).may_go(NOW - timedelta(days=2))
    assert kinds(replace(discarded, deliveries=(Delivered("archive", 1, 0),))) == ["undelivered"]
    assert kinds(replace(discarded, quarantined=1)) == ["quarantined"]
    assert kinds(replace(discarded, decided=1)) == ["undecided"]


versions = st.integers(0, 3)
others = st.none() | st.just("d")
deliveries = st.lists(st.builds(Delivered, st.sampled_from("abc"), versions, versions, versions, others), max_size=3)


@given(
    st.builds(
        Copy,
        version=versions,
        decided=versions,
        settled=st.booleans(),
        modalities=st.lists(st.sampled_from(["CT", "US", "MG"]), max_size=2).map(tuple),
        last_arrival=st.datetimes(timezones=st.just(UTC)),
        deliveries=deliveries.map(tuple),
        flags=st.integers(0, 1),
        quarantined=st.integers(0, 1),
    ),
    st.datetimes(timezones=st.just(UTC)),
)
def test_nothing_goes_that_is_owed_to_anyone(copy: Copy, now: datetime) -> None:
    verdict = judge(copy, RETENTION)
    if verdict.may_go(now):
        assert all(max(each.done, each.waived) >= each.wanted for each in copy.deliveries)
        assert any(
            each.done >= copy.version > 0 or (each.waived >= copy.version > 0 and each.instead)
            for each in copy.deliveries
        )
        assert copy.settled
        assert copy.decided == copy.version
        assert now >= copy.last_arrival + timedelta(days=2)
        assert not copy.flags
        assert not copy.quarantined
