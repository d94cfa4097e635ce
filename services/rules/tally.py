"""What the rules said of several instances, counted up for the record."""

from collections import Counter
from collections.abc import Collection, Iterable

from contracts.fact import Source
from contracts.partner import partner_of
from contracts.routing import Decided, RoutingDecided, RuleMatch, Trigger
from libs.definition.ruleset import Match
from services.rules.plan import Requested


class Tally:
    """What the rules said of the instances of one source."""

    def __init__(self, count: int = 1) -> None:
        self._each = count
        self._count = 0
        self._rules_evaluated = 0
        self._matches: dict[str, tuple[Match, int]] = {}
        self._problems: Counter[str] = Counter()
        self._notes: Counter[str] = Counter()

    @property
    def problems(self) -> list[str]:
        """What people must look at."""
        return _counted(self._problems)

    def add(
        self,
        matches: Iterable[Match],
        rules_evaluated: int,
        *,
        problems: Iterable[str],
        notes: Iterable[str],
        count: int | None = None,
    ) -> None:
        """Take one evaluation in, of so many instances; notes are for the record only."""
        each = self._each if count is None else count
        self._count += each
        self._rules_evaluated = rules_evaluated
        for match in matches:
            first, before = self._matches.get(match.rule, (match, 0))
            self._matches[match.rule] = (first, before + each)
        self._problems.update(problems)
        self._notes.update(notes)

    def decided(
        self,
        trigger: Decided,
        study_instance_uid: str,
        network_version: int,
        source: Source,
        study_version: int | None = None,
        everything: Iterable[Requested] | None = None,
        *,
        occasion: Trigger | None = None,
        inputs_hash: str | None = None,
        unhealthy: Collection[str] | None = None,
        unmatched: bool = False,
        discarded: str | None = None,
        more_problems: Iterable[str] = (),
    ) -> RoutingDecided:
        """Say it; for a study trigger with everything that is requested of the version."""
        return RoutingDecided(
            study_instance_uid=study_instance_uid,
            trigger=trigger,
            study_version=study_version,
            network_version=network_version,
            source=source,
            instance_count=self._count,
            rules_evaluated=self._rules_evaluated,
            matches=tuple(
                RuleMatch(
                    rule=first.rule,
                    destinations=first.destinations,
                    priority=first.priority,
                    instance_count=count,
                    notify=first.notify,
                    inputs=first.inputs,
                    transform=first.transform,
                    hold=first.hold,
                    tags=dict(first.tags),
                    quarantine=first.quarantine,
                    discard=first.discard,
                    stop=first.stop,
                )
                for first, count in self._matches.values()
            ),
            errors=(*self.problems, *more_problems, *_counted(self._notes)),
            # A partner keeps nothing: what has to go to it does not keep a copy here either.
            destinations=None
            if everything is None
            else tuple(sorted({one.destination for one in everything if partner_of(one.destination) is None})),
            occasion=occasion or trigger,
            inputs_hash=inputs_hash,
            unhealthy=None if unhealthy is None else tuple(sorted(unhealthy)),
            unmatched=unmatched,
            discarded=discarded,
        )


def _counted(texts: Counter[str]) -> list[str]:
    return [text if count == 1 else f"{text} ({count} times)" for text, count in texts.items()]
