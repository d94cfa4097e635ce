"""What a worklist answer must have with a value: return keys of type 1 and 1C, PS3.4 table K.6-1. Pure."""

from typing import Final

from services.worklist.attributes import Attributes

_STEPS: Final = "ScheduledProcedureStepSequence"
_STEP_TEXT, _STEP_CODES = "ScheduledProcedureStepDescription", "ScheduledProtocolCodeSequence"
_TEXT, _CODES = "RequestedProcedureDescription", "RequestedProcedureCodeSequence"
_DATE, _TIME = "ScheduledProcedureStepStartDate", "ScheduledProcedureStepStartTime"
#: What is said of an item without a station.
NO_STATION: Final = (
    "there is no station, and the network definition has no node of this site and modality that may ask for a "
    "worklist: a modality that asks for its own items does not see it"
)
#: What nobody but the source can say, and what it means where nothing was said.
_LACKS: Final = {
    "PatientName": "there is no patient's name: some modalities refuse the item",
    "Modality": "there is no modality: a modality that asks for its own items does not see it",
    "ScheduledStationAETitle": NO_STATION,
    _DATE: "there is no day: a modality that asks for a day does not see it",
}


def completed(attributes: Attributes, step: Attributes) -> tuple[Attributes, Attributes]:
    """Give an order's and its step's attributes with those of type 1C that follow from others.

    One of description and code has to be there, of the requested procedure and of the step: the one says what the other
    does not. A code without a text is told by its meaning; where nothing says anything, the modality is the text. A day
    without a time begins at midnight.
    """
    about, of_step = dict(attributes), dict(step)
    if not (_has(of_step, _STEP_TEXT) or _has(of_step, _STEP_CODES)):
        _copy(about, _TEXT, of_step, _STEP_TEXT)
        _copy(about, _CODES, of_step, _STEP_CODES)
    if not (_has(about, _TEXT) or _has(about, _CODES)):
        _copy(of_step, _STEP_TEXT, about, _TEXT)
        _copy(of_step, _STEP_CODES, about, _CODES)
    for those, text, codes in ((of_step, _STEP_TEXT, _STEP_CODES), (about, _TEXT, _CODES)):
        if not _has(those, text):
            # Most modalities show the text alone.
            meaning = _meaning(those.get(codes, ())) or step.get("Modality", ())
            if meaning:
                those[text] = meaning
    if _has(of_step, _DATE) and not _has(of_step, _TIME):
        of_step[_TIME] = ("000000",)
    return about, of_step


def lacking(item: Attributes) -> list[str]:
    """Say what an item lacks that it must have, and what comes of it, a sentence each without personal data.

    Parameters
    ----------
    item
        The whole dataset of a worklist answer, completed.
    """
    steps = item.get(_STEPS, ())
    step = steps[0] if steps and not isinstance(steps[0], str) else {}
    return [said for keyword, said in _LACKS.items() if not _has(item, keyword) and not _has(step, keyword)]


def _has(attributes: Attributes, keyword: str) -> bool:
    values = attributes.get(keyword, ())
    return any(value.strip("^= ") if isinstance(value, str) else value for value in values)


def _meaning(codes: tuple[str | Attributes, ...]) -> tuple[str | Attributes, ...]:
    first = codes[0] if codes and not isinstance(codes[0], str) else {}
    return first.get("CodeMeaning", ())


def _copy(source: Attributes, keyword: str, target: dict[str, tuple[str | Attributes, ...]], to: str) -> None:
    if _has(source, keyword):
        target[to] = source[keyword]
