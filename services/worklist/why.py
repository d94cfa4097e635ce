"""Why a modality does not see an item: its state, what the node sees at all, and the keys of what it asked. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from services.worklist.attributes import Attributes
from services.worklist.finding import Outcome
from services.worklist.index import ENDED, SHOWN, entry
from services.worklist.query import Query
from services.worklist.view import View

Kind = Literal["state", "performed", "view", "key", "limit", "later", "answer"]


@dataclass(frozen=True)
class Reason:
    """One thing that keeps an item off a worklist.

    Attributes
    ----------
    kind
        `state`: it is over; `performed`: a modality has reported its end; `view`: the node does not see it; `key`: the
        query asks for something else; `limit`: the answer had no room for it; `later`: it came after the query;
        `answer`: the query was not answered to its end.
    text
        The whole of it for people.
    key, wanted, had
        Of `key`: which one, what the modality asked for, and what the item has.
    """

    kind: Kind
    text: str
    key: str = ""
    wanted: str = ""
    had: tuple[str, ...] = ()


@dataclass(frozen=True)
class Item:
    """An item, as its row has it."""

    id: int
    tenant: str
    site: str
    state: str
    performed: str | None
    start: str
    changed_at: datetime
    text: str


@dataclass(frozen=True)
class Question:
    """A recorded query."""

    query: Query
    at: datetime
    outcome: Outcome


_ENDS = {
    "broken-off": "the modality cancelled, or its connection broke, before the answer was whole",
    "unreadable": "the query could not be read, so that nothing was returned",
    "refused": "the node might not ask for the worklist at that time",
    "failed": "an error of ours broke the answer off: see the log",
}


def reasons(item: Item, view: View | None, question: Question | None) -> list[Reason]:
    """Say why an item is not shown to a node: now, or in answer to a query. No reason: it is shown.

    Parameters
    ----------
    view
        What the node sees; none if it may not ask at all.
    question
        What it asked.
    """
    found: list[Reason] = []
    if item.state not in SHOWN:
        found.append(Reason("state", f"it is {item.state}: only what is scheduled, arrived or started is shown"))
    if item.performed in ENDED:
        found.append(Reason("performed", f"a modality has reported its step as {item.performed}"))
    made = entry(item.id, item.tenant, item.site, item.start, 0, item.text)
    if view is None:
        found.append(Reason("view", "the node may not ask for the worklist: add `worklist` to its `may`"))
    else:
        found += [
            Reason("view", text) for text in view.objections(item.tenant, item.site, made.stations, made.modality)
        ]
    if question is not None:
        found += _asked(item, made.attributes, question, hidden=bool(found))
    return found


def _asked(item: Item, attributes: Attributes, question: Question, *, hidden: bool) -> list[Reason]:
    found = []
    for each in question.query.mismatches(attributes):
        had = f"the item has {_listed(each.had)}" if each.had else "the item has no value, which matches no key"
        text = f"the query asks for {each.key} {each.wanted!r}, and {had}"
        found.append(Reason("key", text, each.key, each.wanted, each.had))
    if found or hidden:
        return found
    if item.changed_at > question.at:
        found.append(Reason("later", "it came, or was changed, after the query was asked: the next one has it"))
    elif question.outcome == "limited":
        text = "it matches, but more items did than the node is given at once (`worklist: limit` of the node)"
        found.append(Reason("limit", text))
    elif question.outcome in _ENDS:
        found.append(Reason("answer", f"it matches, but {_ENDS[question.outcome]}"))
    return found


def _listed(values: Sequence[str]) -> str:
    return ", ".join(repr(each) for each in values)
