"""What a node sees of the worklist, and why it does not see the rest: the two never contradict each other."""

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.definition import Definition
from services.worklist.identifier import Key
from services.worklist.query import STEPS, Query
from services.worklist.view import View, view_of
from services.worklist.why import Item, Question, Reason, reasons
from tests.unit.worklist.said import NOON

pytestmark = pytest.mark.unit


def definition(worklist: Any, **node: Any) -> Definition:
    return Definition.model_validate(
        {
            "kivuko": 1,
            "name": "n",
            "sites": {"s": {"name": "S"}, "t": {"name": "T"}, "u": {"name": "U", "tenant": "other"}},
            "nodes": {
                "CT1": {
                    "site": "s", "host": "10.0.0.1", "aet": "CTROOM", "may": ["worklist"], "worklist": worklist, **node,
                }
            },
        }
    )  # fmt: skip


def test_a_node_sees_its_own_site_and_anything_there() -> None:
    view = view_of(definition({}), "CT1")
    assert view is not None
    assert (view.tenant, view.sites, view.stations, view.modalities) == ("default", frozenset({"s"}), None, None)
    assert (view.charset, view.names) == (("auto",), "exact")


def test_what_the_definition_says_counts() -> None:
    worklist = {
        "sites": "all",
        "stations": "own",
        "modalities": ["CT"],
        "limit": 5,
        "names": "fold",
        "charset": "ASCII",
    }
    view = view_of(definition(worklist), "CT1")
    assert view == View(
        "default", frozenset({"s", "t"}), frozenset({"CTROOM"}), frozenset({"CT"}), ("ASCII",), 5, "fold"
    )
    only = view_of(definition({"sites": ["t", "u"]}), "CT1")
    # A site of another tenant is never seen.
    assert only is not None
    assert only.sites == frozenset({"t"})


@pytest.mark.parametrize("node", [{"may": ["store"]}, {"retired": True}])
def test_who_may_not_ask_sees_nothing(node: dict[str, Any]) -> None:
    assert view_of(definition({}, **node), "CT1") is None
    assert view_of(definition({}), "MR1") is None


some = st.sampled_from(["s", "t", "x"])
views = st.builds(
    View,
    st.just("a"),
    st.frozensets(some, min_size=1),
    st.one_of(st.none(), st.just(frozenset({"CT1"}))),
    st.one_of(st.none(), st.frozensets(st.sampled_from(["CT", "MR"]), min_size=1)),
    st.just(("auto",)),
    st.just(5),
    st.just("exact"),
)


@given(
    views, some, st.lists(st.sampled_from(["CT1", "CT2"]), unique=True, max_size=2), st.sampled_from(["", "CT", "US"])
)
def test_what_is_hidden_has_a_reason_and_what_is_seen_has_none(
    view: View, site: str, stations: list[str], modality: str
) -> None:
    found = view.objections("a", site, stations, modality)
    assert bool(found) is view.hides(site, stations, modality)
    seen = (
        site in view.sites
        and (view.modalities is None or modality in view.modalities)
        and (view.stations is None or not stations or "CT1" in stations)
    )
    assert view.hides(site, stations, modality) is not seen
    assert view.objections("b", site, stations, modality)[0].startswith("it belongs to another tenant")


def test_each_objection_says_what_it_is_and_what_is_seen() -> None:
    view = View("a", frozenset({"s", "t"}), frozenset({"CT1"}), frozenset({"MR", "CT"}), ("auto",), 5, "exact")
    for case, words in (
        (("s", ["CT1"], "CT"), ""),
        (("s", [], "MR"), ""),
        (("x", [], "CT"), "of the site x, and the node sees s, t "),
        (("s", [], "US"), "its modality is US, and the node sees CT, MR "),
        (("s", [], ""), "its modality is not said, "),
        (("s", ["CT2", "CT3"], "CT"), "it is scheduled for CT2, CT3, "),
    ):
        found = view.objections("a", *case)
        assert [words in each for each in found] == ([True] if words else [])
        assert view.hides(*case) is bool(words)


VIEW = View("a", frozenset({"s"}), None, None, ("auto",), 5, "exact")


def item(state: str = "scheduled", performed: str | None = None, site: str = "s", minutes: int = 0) -> Item:
    text = json.dumps({"PatientID": ["P1"], STEPS: [{"Modality": ["CT"], "ScheduledStationAETitle": ["CT1"]}]})
    return Item(1, "a", site, state, performed, "", NOON + timedelta(minutes=minutes), text)


def question(outcome: Any = "answered", patient: str = "P1", modality: str = "CT") -> Question:
    keys = [
        Key(0x00100020, "LO", (patient,)),
        Key(0x00400100, "SQ", items=((Key(0x00080060, "CS", (modality,)),),)),
    ]
    return Question(Query(keys), NOON, outcome)


@pytest.mark.parametrize(
    ("reasons_of", "kinds"),
    [
        ((item(), VIEW, None), []),
        ((item(), VIEW, question()), []),
        ((item("arrived", "in-progress"), VIEW, question()), []),
        ((item("cancelled"), VIEW, None), ["state"]),
        ((item("started", "completed"), VIEW, None), ["performed"]),
        ((item("completed", "completed"), VIEW, None), ["state", "performed"]),
        ((item(site="t"), VIEW, question()), ["view"]),
        ((item(), None, question()), ["view"]),
        ((item(), VIEW, question(patient="P2")), ["key"]),
        ((item(), VIEW, question(patient="P2", modality="MR")), ["key", "key"]),
        ((item("cancelled"), VIEW, question(patient="P2")), ["state", "key"]),
        # What came later was not there, whatever became of the answer.
        ((item(minutes=1), VIEW, question("limited")), ["later"]),
        ((item(minutes=0), VIEW, question("limited")), ["limit"]),
        ((item(minutes=1), VIEW, question(patient="P2")), ["key"]),
        ((item("cancelled", minutes=1), VIEW, question()), ["state"]),
        ((item(), VIEW, question("broken-off")), ["answer"]),
        ((item(), VIEW, question("refused")), ["answer"]),
        ((item(), VIEW, question("failed")), ["answer"]),
    ],
)
def test_why_an_item_is_not_shown(reasons_of: tuple[Any, Any, Any], kinds: list[str]) -> None:
    assert [each.kind for each in reasons(*reasons_of)] == kinds


def test_a_key_is_named_with_what_was_asked_and_what_is_there() -> None:
    (found,) = reasons(item(), VIEW, question(modality="MR"))
    path = f"{STEPS}.Modality"
    assert found == Reason("key", f"the query asks for {path} 'MR', and the item has 'CT'", path, "MR", ("CT",))
    keys = [Key(0x00080050, "SH", ("A1",))]
    (empty,) = reasons(item(), VIEW, Question(Query(keys), NOON, "answered"))
    assert empty.had == ()
    assert empty.text.endswith("the item has no value, which matches no key")
