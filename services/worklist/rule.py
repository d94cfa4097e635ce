"""What a mapping of the network definition says of one attribute, made ready: messages come by the hundred a second."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, NamedTuple, TypeAlias

from contracts.definition import Hl7Value
from libs.dicom import dictionary
from services.worklist.attributes import Attributes
from services.worklist.place import Condition, Place, place

#: What an attribute is about.
About: TypeAlias = Literal["patient", "order", "step"]
#: What an item of the Scheduled Procedure Step Sequence has, PS3.3 section C.4.10 and PS3.4 table K.6-1.
STEP: Final = frozenset(
    {
        *("ScheduledStationAETitle", "ScheduledStationName", "ScheduledProcedureStepLocation"),
        *("ScheduledProcedureStepStartDate", "ScheduledProcedureStepStartTime", "ScheduledProcedureStepEndDate"),
        *("ScheduledProcedureStepEndTime", "ScheduledPerformingPhysicianName", "Modality", "AnatomicalOrientationType"),
        *("ScheduledProcedureStepDescription", "ScheduledProtocolCodeSequence", "ScheduledProcedureStepID"),
        *("ScheduledPerformingPhysicianIdentificationSequence", "RequestedContrastAgent", "PreMedication"),
        *("CommentsOnTheScheduledProcedureStep", "ScheduledSpecimenSequence"),
    }
)
_PATIENT_GROUPS: Final = frozenset({0x0010, 0x0038})
#: Of these all that a message says becomes one text.
_JOINED: Final = frozenset({"LT", "ST", "UT"})
#: Of these a short text is taken as it stands.
_TEXTS: Final[Mapping[str, int]] = {"LO": 64, "SH": 16, "LT": 10240, "ST": 1024, "UT": 1 << 20}
#: It is asked of a time, and says nothing where the time has no zone.
OFFSET: Final = "TimezoneOffsetFromUTC"


@dataclass(frozen=True)
class Element:
    """An attribute as the dictionary has it (PS3.6 section 6)."""

    tag: int
    vr: str
    single: bool


@lru_cache(maxsize=1024)
def element(keyword: str) -> Element:
    """Look a keyword up. Raises KeyError."""
    tag = dictionary.tags_of(frozenset({keyword}))[keyword]
    return Element(tag, dictionary.known_vr(tag), dictionary.is_single(tag))


class Found(NamedTuple):
    """What was found for an attribute.

    Attributes
    ----------
    values
        None where the message says nothing of it; none in the tuple where it says that it is empty.
    origin
        The place, or what else it comes from.
    notes
        What was done to make it fit, and what was lost, one half sentence each, without the value.
    """

    values: tuple[str | Attributes, ...] | None
    origin: str = ""
    notes: tuple[str, ...] = ()


NOTHING: Final = Found(None)


@dataclass(frozen=True, eq=False)
class Rule:
    """What a mapping says of one attribute.

    Attributes
    ----------
    said
        As the definition has it.
    sources
        Each with its place; None for a keyword, or what is known of the sender.
    plain
        Whether it takes the text of a place, and looks for nothing around it.
    short
        Longest text that is taken as it stands; 0 where more has to be done with each.
    joins
        Whether all that a message says of it becomes one text.
    verbatim
        Its sources where it asks for nothing but texts as they stand, so that `verbatim` can read it; none otherwise.
    ends
        Whether it says nothing where its sources have nothing.
    """

    keyword: str
    element: Element
    about: About
    said: Hl7Value
    sources: Sequence[tuple[str, Place | None]]
    by: Sequence[tuple[str, Place | None]]
    where: Sequence[Condition]
    unless: Sequence[Place]
    items: "Mapping[str, Rule] | None"
    otherwise: "Rule | None"
    plain: bool
    short: int
    joins: bool
    verbatim: "Sequence[tuple[str, Place]]"
    ends: bool


def rules(said: Mapping[str, Hl7Value | None]) -> dict[str, Rule]:
    """Make a mapping's attributes ready."""
    return {keyword: _rule(keyword, value) for keyword, value in said.items() if value is not None}


def _rule(keyword: str, said: Hl7Value) -> Rule:
    found = element(keyword)
    where = [(place(key), values) for key, values in said.where.items()]
    sources = [(source, place(source)) for source in said.from_]
    plain = said.as_ == "text" and said.unit is None and not where
    short = _TEXTS.get(found.vr, 0) if plain and said.table is None and keyword != OFFSET else 0
    alone = said.value is None and said.set is None and not said.by and not said.unless
    return Rule(
        keyword=keyword,
        element=found,
        about=_about(keyword, found),
        said=said,
        sources=sources,
        by=[(source, place(source)) for source in said.by],
        where=[Condition(at, frozenset(map(str.upper, values))) for at, values in where if at is not None],
        unless=[at for at in map(place, said.unless) if at is not None],
        items=None if said.set is None else rules(said.set),
        otherwise=None if said.otherwise is None else _rule(keyword, said.otherwise),
        plain=plain,
        short=short,
        joins=found.vr in _JOINED,
        verbatim=_places(sources) if short and alone else (),
        ends=said.otherwise is None and said.default is None and not said.station,
    )


def _about(keyword: str, found: Element) -> About:
    if keyword in STEP:
        return "step"
    return "patient" if found.tag >> 16 in _PATIENT_GROUPS else "order"


def _places(sources: Sequence[tuple[str, Place | None]]) -> Sequence[tuple[str, Place]]:
    places = [(source, at) for source, at in sources if at is not None and at.field and not at.subcomponent]
    return places if len(places) == len(sources) else ()
