from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from services.ingest.arrival import arrival_id
from services.ingest.work import Work

pytestmark = pytest.mark.unit
NOW = datetime(2026, 1, 1, tzinfo=UTC)
associations = st.sampled_from(["a", "b"])
arrivals = st.integers(0, 5).map(str)
studies = st.sampled_from([("t", "1.2"), ("t", "1.3")])


class WorkMachine(RuleBasedStateMachine):
    """Work against the plain definition: an association that sent of the study is open, or an entry is unindexed."""

    def __init__(self) -> None:
        super().__init__()
        self.work = Work(lambda: None)
        self.open: dict[str, set[tuple[str, str]]] = {}
        self.entries: dict[str, tuple[str, str]] = {}

    @rule(name=associations)
    def opened(self, name: str) -> None:
        if name not in self.open:
            self.work.opened(name)
            self.open[name] = set()

    @rule(name=associations)
    def closed(self, name: str) -> None:
        self.work.closed(name)
        self.open.pop(name, None)

    @rule(arrival=arrivals, name=associations, study=studies)
    def spooled(self, arrival: str, name: str, study: tuple[str, str]) -> None:
        if arrival not in self.entries:
            self.work.spooled(arrival, name, study, NOW)
            self.entries[arrival] = study
            if name in self.open:
                self.open[name].add(study)

    @rule(arrival=arrivals)
    def indexed(self, arrival: str) -> None:
        self.work.indexed(arrival)
        self.entries.pop(arrival, None)

    @invariant()
    def in_hand_exactly_while_there_is_work(self) -> None:
        expected = Counter([*self.entries.values(), *(study for sent in self.open.values() for study in sent)])
        assert sorted(self.work.studies()) == sorted(expected)
        assert all(self.work.has(study) for study in expected)
        assert self.work.depth() == len(self.entries)


TestWork = WorkMachine.TestCase


def test_names_of_arrivals_sort_by_time() -> None:
    later = NOW.replace(microsecond=1)
    assert arrival_id(NOW, b"\xff") < arrival_id(later, b"\0")


def test_what_a_broken_association_brought_last_is_told_once_and_when_all_of_it_is_indexed() -> None:
    work = Work(lambda: None)
    work.opened("a")
    for arrival, second in (("1", 5), ("2", 3)):
        work.spooled(arrival, "a", ("t", "1.2"), NOW + timedelta(seconds=second))
    work.closed("a", broken=True)
    work.indexed("1")
    assert work.broken() == {}
    work.indexed("2")
    found = {("t", "1.2"): NOW + timedelta(seconds=5)}
    # Until it is written down: the database may be away.
    assert work.broken() == work.broken() == found
    work.noted(found)
    assert work.broken() == {}


def test_an_association_keeps_only_what_it_has_brought_lately() -> None:
    work = Work(lambda: None)
    work.opened("a")
    for arrival, study, second in (("1", "1.2", 0), ("2", "1.3", 60)):
        work.spooled(arrival, "a", ("t", study), NOW + timedelta(seconds=second))
        work.indexed(arrival)
    work.let_go(NOW + timedelta(seconds=30))
    assert work.studies() == [("t", "1.3")]
    # Something more of it: it is this association's again.
    work.spooled("3", "a", ("t", "1.2"), NOW + timedelta(seconds=90))
    work.indexed("3")
    assert work.has(("t", "1.2"))
    work.closed("a")
    assert work.studies() == []
