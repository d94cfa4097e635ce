"""One C-FIND of the worklist, from its identifier to its last response. Runs in the threads of associations.

| status | when |
| --- | --- |
| FF00 | an item that matches |
| FF01 | the same, and the query has keys by which nothing is matched, or that are not known |
| 0000 | these are all |
| FE00 | the modality has cancelled (said by the association) |
| A700 | more match than the node is given at once (`worklist: limit`), or it may not ask any more |
| A900 | the identifier can't be read |
| C001 | an item could not be shown, by a defect: the list is not whole |

PS3.4 table K.4-1.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

from contracts.definition import Definition
from libs.clock import Clock
from libs.dimse import command as commands
from libs.dimse.command import Command
from libs.dimse.provider import Reply
from libs.telemetry import log
from libs.telemetry.failure import described
from services.worklist import identifier, metric
from services.worklist.answer import Answer, answer
from services.worklist.caller import Caller
from services.worklist.identifier import UnreadableError
from services.worklist.index import SUMMARY, Entry, Index
from services.worklist.query import Query, said
from services.worklist.view import View, view_of

_LOG = log.get(__name__)
OUT_OF_RESOURCES: Final = 0xA700
MISMATCH: Final = 0xA900
UNABLE: Final = 0xC001

Outcome = Literal["answered", "limited", "broken-off", "unreadable", "refused", "failed"]


@dataclass
class Asked:
    """What is recorded of a query.

    Attributes
    ----------
    at, seconds
        When it came, and how long it took to be answered.
    caller
        Who asked.
    keys
        Keyword to value; of a sequence, to those of its items.
    identifier, syntax
        As it came, so that it can be asked again.
    outcome
        `broken-off`: the modality cancelled or was gone.
    count
        Items that were returned.
    hidden
        Items that matched and that the node does not see, as far as they were looked at.
    ignored
        Keys by which nothing was matched.
    replaced
        Attributes in which characters were changed, because the modality can't show them.
    """

    at: datetime
    caller: Caller
    identifier: bytes
    syntax: str
    keys: Mapping[str, object] = field(default_factory=dict)
    outcome: Outcome = "answered"
    count: int = 0
    hidden: int = 0
    ignored: tuple[str, ...] = ()
    replaced: frozenset[str] = frozenset()
    seconds: float = 0.0


class Kept:
    """Answers as they were sent, the most recently used ones, as many as fit into so many bytes; for many threads."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._answers: OrderedDict[tuple[Any, ...], Answer] = OrderedDict()
        self._size = 0

    def get(self, key: tuple[Any, ...]) -> Answer | None:
        """Give an answer that is there."""
        with self._lock:
            found = self._answers.get(key)
            if found is not None:
                self._answers.move_to_end(key)
            return found

    def put(self, key: tuple[Any, ...], made: Answer) -> None:
        """Keep an answer; others go for it."""
        with self._lock:
            old = self._answers.pop(key, None)
            self._size += _cost(made) - (0 if old is None else _cost(old))
            self._answers[key] = made
            while self._size > self._most:
                _, gone = self._answers.popitem(last=False)
                self._size -= _cost(gone)


#: What Python takes besides the bytes: the key, the entry of the table, the objects' heads.
_OVERHEAD: Final = 1000


def _cost(made: Answer) -> int:
    return len(made.dataset) + _OVERHEAD


class Finding:
    """Answers queries.

    Parameters
    ----------
    index
        What there is.
    definition
        The network definition in force, if there is one.
    kept
        Answers that need not be made again.
    record
        Takes what was asked and answered, from any thread.
    monotonic
        Seconds of a clock that only goes on.
    """

    def __init__(
        self,
        index: Index,
        definition: Callable[[], Definition | None],
        kept: Kept,
        record: Callable[[Asked], None],
        clock: Clock,
        monotonic: Callable[[], float],
    ) -> None:
        self._index = index
        self._definition = definition
        self._kept = kept
        self._record = record
        self._clock = clock
        self._monotonic = monotonic

    def find(self, caller: Caller, request: Command, data: bytes, syntax: str) -> Iterator[Command | Reply]:
        """Give the responses to a C-FIND."""
        began = self._monotonic()
        asked = Asked(self._clock(), caller, data, syntax, outcome="broken-off")
        try:
            yield from self._answered(asked, request)
        except Exception:
            asked.outcome = "failed"
            raise
        finally:
            asked.seconds = self._monotonic() - began
            metric.QUERIES.labels(outcome=asked.outcome).inc()
            metric.QUERY.observe(asked.seconds)
            metric.MATCHES.inc(asked.count)
            self._record(asked)

    def _answered(self, asked: Asked, request: Command) -> Iterator[Command | Reply]:
        definition = self._definition()
        view = None if definition is None else view_of(definition, asked.caller.node)
        if view is None:
            asked.outcome = "refused"
            yield commands.response(request, OUT_OF_RESOURCES, "this node may not ask for the worklist any more")
            return
        try:
            keys = identifier.decode(asked.identifier, asked.syntax)
        except UnreadableError as error:
            asked.outcome = "unreadable"
            yield commands.response(request, MISMATCH, str(error))
            return
        query = Query(keys, view.names)
        asked.keys, asked.ignored = said(keys), query.ignored
        found, more = self._matches(asked, query, view)
        status = commands.PENDING_WARNING if query.ignored or query.unknown else commands.PENDING
        pending = commands.response(request, status, dataset=True)
        unshown = 0
        for each in found:
            made = self._made(each, query, asked.syntax, view.charset)
            if made is None:
                unshown += 1
                continue
            if made.replaced:
                asked.replaced |= made.replaced
            # Counted before it goes: who breaks off may have taken it.
            asked.count += 1
            yield Reply(pending, made.dataset)
        if asked.replaced:
            metric.LOSSES.inc()
        if unshown:
            asked.outcome = "failed"
            yield commands.response(request, UNABLE, f"{unshown} items could not be shown: the list is not whole")
        elif more:
            asked.outcome = "limited"
            comment = f"more than {view.limit} items match: ask for a day, a station or a name"
            yield commands.response(request, OUT_OF_RESOURCES, comment)
        else:
            asked.outcome = "answered"
            yield commands.response(request, commands.SUCCESS)

    def _matches(self, asked: Asked, query: Query, view: View) -> tuple[list[Entry], bool]:
        """Give the items that match in the order of their start, and whether there are more."""
        found: list[Entry] = []
        today = self._clock().strftime("%Y%m%d")
        modalities = query.exact("Modality")
        summed_up = query.asked <= SUMMARY
        more = False
        for each in self._index.candidates(view.tenant, query, today):
            if modalities is not None and each.modality not in modalities:
                continue
            hidden = view.hides(each.site, each.stations, each.modality)
            if hidden and asked.hidden >= view.limit:
                continue
            if not query.matches(each.summary) if summed_up else not query.matches(each.attributes):
                continue
            if hidden:
                asked.hidden += 1
                continue
            if len(found) == view.limit:
                more = True
                break
            found.append(each)
        found.sort(key=lambda each: (each.start, each.id))
        return found, more

    def _made(self, each: Entry, query: Query, syntax: str, charset: tuple[str, ...]) -> Answer | None:
        key = None if query.by_item else (each.id, each.revision, query.shape, syntax, charset)
        made = None if key is None else self._kept.get(key)
        if made is None:
            try:
                made = answer(query, each.attributes, syntax, charset)
            except Exception as error:  # noqa: BLE001 - one item must not take the whole list away
                metric.FAILURES.labels(kind="alarm").inc()
                _LOG.error("an item can't be shown", item=each.id, tenant=each.tenant, **described(error))
                return None
            if key is not None:
                self._kept.put(key, made)
        return made
