"""The short way from a message to an attribute: texts that are taken as they stand, which most are. Pure.

It gives what the long way of `mapping` would, and leaves to that whatever asks for more: at hundreds of messages with
fifty attributes each a second, a call for each step of the long way is most of what a message costs.
"""

from collections.abc import Mapping, Sequence

from libs.hl7.message import Segment
from services.worklist.place import Place
from services.worklist.rule import NOTHING, Found, Rule


def verbatim(rule: Rule, layers: Sequence[Mapping[str, Sequence[Segment]]]) -> Found | None:
    """Give what a message says of an attribute; None where that takes the long way.

    Parameters
    ----------
    rule
        One that has `verbatim`.
    layers
        Of a scope.
    """
    for source, at in rule.verbatim:
        segments: Sequence[Segment] = ()
        for layer in layers:
            if at.segment in layer:
                segments = layer[at.segment]
                break
        if not segments:
            continue
        text = _text(segments[0], at) if len(segments) == 1 else None
        if text is None or len(text) > rule.short:
            return None
        if text:
            return Found((text,), source)
    return NOTHING if rule.ends else None


def _text(segment: Segment, at: Place) -> str | None:
    text = segment.fields[at.field] if at.field < len(segment.fields) else ""
    if not text:
        return ""
    # A delimiter that the message does not have is in every text: such messages take the long way.
    marks = segment.delimiters
    if not segment.clean or "\\" in text or marks.repetition in text or marks.escape in text:
        return None
    component = at.component or 1
    if marks.component in text:
        components = text.split(marks.component, component)
        return components[component - 1].strip() if len(components) >= component else ""
    return text.strip() if component == 1 else ""
