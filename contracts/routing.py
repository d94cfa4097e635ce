"""Events about routing decisions. Producer: rules."""

from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from contracts.fact import Attributes, Fact, Sha256, Source, Uid, personal, plain, pseudonym

#: What makes rules look at something: an image, a series, a study that is complete or amended, an amended study only,
#: the clock, an order, a procedure step that was completed.
Trigger = Literal["instance", "series", "study", "amended", "timer", "order", "procedure"]
TRIGGERS: tuple[Trigger, ...] = get_args(Trigger)
#: What a decision is about, as version 1 of its event has it: single images, or a study as a whole.
Decided = Literal["instance", "study"]
#: Lanes of egress, the most urgent first.
Priority = Literal["stat", "urgent", "routine", "bulk"]
PRIORITIES: tuple[Priority, ...] = ("stat", "urgent", "routine", "bulk")
#: How `urgent` was written before, and stays written in version 1 of events.
_URGENT_BEFORE = "high"


def read_priority(value: Any) -> Any:
    """Give the word of today for a lane; any other value passes."""
    return "urgent" if value == _URGENT_BEFORE else value


def _written(value: Priority) -> str:
    return _URGENT_BEFORE if value == "urgent" else value


#: A lane as people and earlier releases write it.
PriorityRead = Annotated[Priority, BeforeValidator(read_priority)]
#: A lane in an event of version 1: its consumers know `high`, and no other word may come in its place.
PriorityV1 = Annotated[
    Priority,
    BeforeValidator(read_priority),
    PlainSerializer(_written, return_type=str, when_used="json"),
    WithJsonSchema({"enum": [_written(each) for each in PRIORITIES], "type": "string"}),
]


class RuleMatch(Fact):
    """One rule that matched, and what it asked for."""

    rule: str = plain("Name of the rule in the network definition.")
    destinations: tuple[str, ...] = plain("Destinations that the rule names, groups resolved.")
    priority: PriorityV1 = plain("Lane that the rule asks for.")
    instance_count: int = plain("How many of the instances matched.", ge=1)
    notify: tuple[str, ...] = plain("Partners that are to be told.", default=())
    transform: str | None = plain("Transform that the rule asks for.", default=None)
    hold: str | None = plain("How long the rule holds it, as the definition says it.", default=None)
    tags: dict[str, str] = plain("Tags that the rule sets on the study.", default_factory=dict)
    quarantine: str | None = plain("Why the rule puts it aside for people.", default=None)
    discard: str | None = plain("Why the rule wants it nowhere.", default=None)
    stop: bool = plain("Whether the rules after it were not looked at because of it.", default=False)
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
    occasion: str | None = plain(
        "Trigger of the rules as the definition has it: instance, series, study, amended, timer, order or procedure; a "
        "consumer must bear with others. None from a release that knew only those above.",
        default=None,
    )
    inputs_hash: Sha256 | None = plain(
        "SHA-256 of all that the conditions could read, as rules keep it: equal inputs under an equal version give an "
        "equal decision.",
        default=None,
    )
    unhealthy: tuple[str, ...] | None = plain(
        "Destinations that egress could not reach, or that were paused, as far as rules knew; none if no rule asked.",
        default=None,
    )
    unmatched: bool = plain(
        "Whether no rule said so far where the study goes, or that it goes nowhere: people must look.", default=False
    )
    discarded: str | None = plain(
        "Why all of this version is wanted nowhere, where rules or people discarded all of it: its copy goes when its "
        "keep time is over. None if something of it goes anywhere, or nobody said so.",
        default=None,
    )


class RoutingQuarantined(Fact):
    """A rule put a study, or some of its instances, aside: they go nowhere until a person releases them.

    Told again when more of the study is put aside by the same rule; the numbers are of all of it so far.
    """

    quarantine_id: str = plain("Identifier of the quarantine entry: the same for a study and a rule for ever.")
    study_instance_uid: Uid = pseudonym("Study Instance UID (0020,000D).")
    rule: str = plain("Name of the rule in the network definition.")
    reason: str = plain("Why, as the definition says it.")
    network_version: int = plain("Version of the network definition that decided.", ge=1)
    source: Source = plain("The source that the conditions saw.")
    instance_count: int = plain("Instances that are aside by this rule.", ge=1)
    size: int = plain("Their bytes, as Part 10 files.", ge=0)
