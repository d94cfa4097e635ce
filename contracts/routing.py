"""Events about routing decisions. Producer: rules."""

from typing import Literal, get_args

from contracts.fact import Attributes, Fact, Source, Uid, personal, plain, pseudonym

#: What makes rules look at something: an image, a series, a study that is complete or amended, an amended study only,
#: the clock, an order, a procedure step that was completed.
Trigger = Literal["instance", "series", "study", "amended", "timer", "order", "procedure"]
TRIGGERS: tuple[Trigger, ...] = get_args(Trigger)
#: What a decision is about, as version 1 of its event has it: single images, or a study as a whole.
Decided = Literal["instance", "study"]
#: Lanes of egress, the most urgent first.
Priority = Literal["stat", "high", "routine", "bulk"]
PRIORITIES: tuple[Priority, ...] = ("stat", "high", "routine", "bulk")


class RuleMatch(Fact):
    """One rule that matched, and what it asked for."""

    rule: str = plain("Name of the rule in the network definition.")
    destinations: tuple[str, ...] = plain("Destinations that the rule names, groups resolved.")
    priority: Priority = plain("Lane that the rule asks for.")
    instance_count: int = plain("How many of the instances matched.", ge=1)
    notify: tuple[str, ...] = plain("Partners that are to be told.", default=())
    inputs: Attributes = personal("The attributes that the condition reads, as they were for the first match.")


class RoutingDecided(Fact):
    """The rule set was evaluated for a batch of instances or a study. No match is a decision too."""

    study_instance_uid: Uid = pseudonym("Study Instance UID (0020,000D).")
    trigger: Decided = plain("What the evaluation was for.")
    study_version: int | None = plain("Version of the study, for a study trigger.", default=None)
    network_version: int = plain("Version of the network definition that decided.", ge=1)
    source: Source = plain("The source that the conditions saw.")
    instance_count: int = plain("Number of instances that were looked at.", ge=1)
    rules_evaluated: int = plain("Number of rules with this trigger.", ge=0)
    matches: tuple[RuleMatch, ...] = personal("The rules that matched, in the order of the definition.")
    errors: tuple[str, ...] = plain("Rules whose condition failed at run time, and why.", default=())
    destinations: tuple[str, ...] | None = plain(
        "For a study trigger: every destination that is to have this version, by rules of either trigger and by "
        "earlier decisions. None for an instance trigger, and from a release that did not say.",
        default=None,
    )
