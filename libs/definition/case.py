"""Cases that people write down: tests of a definition, and what is tried on the rules in force."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

from contracts.definition import RuleTest
from contracts.fact import Attributes
from contracts.routing import Trigger
from libs.definition.attributes import CIRCUMSTANCES, coerce, type_of
from libs.definition.diagnosis import did_you_mean, unknown_field
from libs.definition.inputs import Inputs
from libs.definition.ruleset import Evaluation, RuleSet

#: A moment for tests whose rules don't ask for the time.
_ANY_MOMENT: Final = datetime(2000, 1, 1, tzinfo=UTC)
#: Years that a test can be in: calendars know no others.
_FIRST_YEAR, _LAST_YEAR = 1900, 2999


class RuleTestError(ValueError):
    """A test of the definition that can't be carried out; the message says why and what to write."""


def explain(rule_set: RuleSet, test: RuleTest) -> dict[Trigger, Evaluation]:
    """Give what the rules of each trigger decide in a test, and why.

    The study's attributes serve as the instance's where a test gives none; `ModalitiesInStudy` and `Sites` follow from
    `Modality` and the source's site. Raises RuleTestError if it can't be carried out.
    """
    if test.at is None and rule_set.reads_time:
        raise RuleTestError("the rules ask for the time, and nothing says when: add `at`, such as 2026-11-20T10:00")
    surrounding = _surrounding(rule_set, test)
    instance = replace(surrounding, instance=_given("instance", test.instance or _of_an_image(test.study)))
    study = replace(surrounding, study=_study(test, surrounding))
    series = replace(surrounding, series=study.study)
    return {
        "instance": rule_set.evaluate("instance", instance),
        "series": rule_set.evaluate("series", series),
        "study": rule_set.evaluate("study", study),
    }


def _surrounding(rule_set: RuleSet, test: RuleTest) -> Inputs:
    definition = rule_set.definition
    for group, given in (("source", test.source), ("order", test.order)):
        for key in given:
            if key not in CIRCUMSTANCES[group]:
                raise RuleTestError(unknown_field(group, key, "study"))
    source = dict(test.source)
    node = source.get("node")
    if node is not None:
        if node not in definition.nodes:
            raise RuleTestError(f"there is no node `{node}`{did_you_mean(node, definition.nodes)}")
        known = definition.nodes[node]
        source = {"aet": definition.aet_of(node), "site": known.site, "modality": known.modality or "", **source}
    site = source.get("site")
    if site is not None and site not in definition.sites:
        raise RuleTestError(f"there is no site `{site}`{did_you_mean(site, definition.sites)}")
    inputs = rule_set.surroundings(site, source.get("tenant"), source, _moment(test.at, rule_set.timezone_of(site)))
    for name in test.unhealthy:
        if name not in definition.destinations:
            raise RuleTestError(f"there is no destination `{name}`{did_you_mean(name, definition.destinations)}")
    return replace(
        inputs,
        order={key: str(value) for key, value in test.order.items()},
        destinations=dict.fromkeys(test.unhealthy, False),
    )


def _moment(at: str | None, timezone: str) -> datetime:
    if at is None:
        return _ANY_MOMENT
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        raise RuleTestError("`at` is not a time: write a local time such as 2026-11-20T10:00") from None
    if not _FIRST_YEAR <= moment.year <= _LAST_YEAR:
        raise RuleTestError(f"`at` is in the year {moment.year}: write one from {_FIRST_YEAR} to {_LAST_YEAR}")
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=ZoneInfo(timezone))


def _study(test: RuleTest, surrounding: Inputs) -> Attributes:
    study = _given("study", test.study)
    if "Modality" in study:
        study.setdefault("ModalitiesInStudy", [str(study["Modality"])])
    if "site" in surrounding.source:
        study.setdefault("Sites", [surrounding.source["site"]])
    return study


def _of_an_image(study: Mapping[str, object]) -> dict[str, object]:
    """Leave out what only a study has: its tags, its sites, where it was delivered."""
    own = {key for key in study if type_of(key, "study") is not None and type_of(key, "instance") is None}
    return {key: value for key, value in study.items() if key not in own}


def _given(trigger: Trigger, attributes: Mapping[str, object]) -> Attributes:
    given: Attributes = {}
    for key, value in attributes.items():
        kind = type_of(key, trigger)
        if kind is None:
            raise RuleTestError(unknown_field(trigger, key, trigger))
        read = coerce(value, kind)
        if read is None:
            raise RuleTestError(f"the value of `{key}` is not {'a text' if kind.kind == 'text' else 'a number'}")
        given[key] = read
    return given
