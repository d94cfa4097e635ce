"""A message taken apart: HL7 v2 chapter 2 section 2.5. Segments at once, fields and what is in them when asked for."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from libs.hl7.charset import Decoded
from libs.hl7.delimiter import DEFAULT, Delimiters
from libs.hl7.escape import unescape

_LINES: Final = re.compile(r"\r\n|\r|\n")
_SEGMENT: Final = re.compile(r"[A-Z][A-Z0-9]{2}|Z[A-Za-z0-9]{2}")
_MESSAGES: Final = re.compile(rb"(?:^|(?<=[\r\n]))[ \t]*(?=MSH[^A-Za-z0-9\s])")
_WRAPPERS: Final = (b"FHS", b"BHS", b"BTS", b"FTS")
_MARKS: Final = b"\xef\xbb\xbf \t\r\n"
#: Longest list of a message's segments: more is no message, and would hold all others up.
MOST_SEGMENTS: Final = 100_000
#: A field that says that there is nothing, where one that is not there says nothing.
NULL: Final = '""'
_REPLACED: Final = "\N{REPLACEMENT CHARACTER}"


class MalformedError(Exception):
    """The bytes are no HL7 message. The text says what is wrong, and repeats nothing of it."""


class Segment(NamedTuple):
    """One segment; fields are numbered as HL7 does, so that `fields[0]` is its name and MSH-1 the field separator.

    Attributes
    ----------
    clean
        Whether all of its characters can be printed and were decoded, and none is a quotation mark.
    """

    name: str
    fields: Sequence[str]
    delimiters: Delimiters
    clean: bool

    def field(self, number: int) -> str:
        """Give a field as it stands; empty where the segment is shorter."""
        return self.fields[number] if number < len(self.fields) else ""

    def repetitions(self, number: int) -> list[str]:
        """Give the repetitions of a field as they stand; none of a field that is not there."""
        text = self.fields[number] if number < len(self.fields) else ""
        if not text:
            return []
        repetition = self.delimiters.repetition
        # MSH-2 holds the delimiters themselves.
        if not repetition or repetition not in text or (self.name == "MSH" and number <= 2):  # noqa: PLR2004
            return [text]
        return text.split(repetition)

    def only(self, number: int, repetition: str) -> "Segment":
        """Give this segment as if a field had this one repetition."""
        fields = [*self.fields]
        fields[number] = repetition
        return Segment(self.name, fields, self.delimiters, self.clean)


@dataclass(frozen=True, eq=False)
class Message:
    """A message.

    Attributes
    ----------
    segments
        All of them, in their order; the first is MSH.
    delimiters
        Those of MSH-1 and MSH-2.
    codec
        Python's codec that it came in.
    charset
        MSH-18 as the sender wrote it.
    oddities
        What the message does that HL7 does not have, and what was made of it; without personal data.
    """

    segments: Sequence[Segment]
    delimiters: Delimiters
    codec: str
    charset: str
    oddities: Sequence[str] = field(default_factory=tuple)

    @property
    def header(self) -> Segment:
        """MSH."""
        return self.segments[0]

    def named(self, name: str) -> Iterator[Segment]:
        """Give the segments of a name."""
        return (segment for segment in self.segments if segment.name == name)

    def header_value(self, number: int, component: int = 1) -> str:
        """Give a component of the first repetition of a field of MSH, unescaped."""
        text = (self.header.repetitions(number) or [""])[0]
        parts = text.split(self.delimiters.component)
        return self.plain(parts[component - 1]).strip() if component <= len(parts) else ""

    def plain(self, text: str) -> str:
        """Give what a part without delimiters stands for."""
        return unescape(text, self.delimiters, self.codec)


def messages(frame: bytes) -> list[bytes]:
    """Give the messages of a frame: mostly one; several where a sender puts them together, or a batch."""
    if frame.count(b"MSH") <= 1 or b"\0" in frame[:4]:
        return [frame]
    starts = [found.start() for found in _MESSAGES.finditer(frame)]
    if len(starts) <= 1:
        return [frame]
    parts = [frame[start:end] for start, end in zip(starts, [*starts[1:], len(frame)], strict=True)]
    before = frame[: starts[0]].strip(_MARKS)
    return parts if not before or before.startswith(_WRAPPERS) else [before, *parts]


def trimmed(raw: bytes) -> bytes:
    """Leave out what stands before MSH that says nothing: blanks, line ends, the header of a batch."""
    if raw.startswith((b"MSH", b"\xef\xbb\xbfMSH")):
        return raw
    rest = raw.lstrip(_MARKS)
    while rest.startswith(_WRAPPERS):
        _, _, rest = rest.replace(b"\n", b"\r").partition(b"\r")
        rest = rest.lstrip(_MARKS)
    return rest if rest.startswith(b"MSH") else raw


def parse(decoded: Decoded) -> Message:
    """Take a message apart.

    Line feeds and pairs end a segment as carriage returns do; a line that does not look like a segment goes on with
    the field before it, as a sender meant that put a line end into a text.

    Raises
    ------
    MalformedError
        It does not begin with MSH and its delimiters, or has more segments than `MOST_SEGMENTS`.
    """
    text = decoded.text.lstrip("\ufeff \t\r\n")
    if not text.startswith("MSH"):
        raise MalformedError("it does not begin with the segment MSH")
    delimiters = _delimiters(text)
    separator = delimiters.field
    oddities: list[str] = []
    lines = _LINES.split(text) if "\n" in text else text.split("\r")
    if len(lines) > MOST_SEGMENTS:
        raise MalformedError(f"it has more than {MOST_SEGMENTS:,} segments")
    whole: list[str] = []
    for line in lines:
        # Fast: nearly every line is a segment.
        if line[3:4] == separator and _SEGMENT.match(line):
            whole.append(line)
        elif (bare := line.strip()) and (_SEGMENT.fullmatch(bare) or (bare[3:4] == separator and _SEGMENT.match(bare))):
            whole.append(line.lstrip())
        elif bare:
            whole[-1] += "\n" + line
            oddities.append(f"a line end stands within a field of {whole[-1][:3]}: what follows was taken as its text")
    segments = [_segment(line, delimiters) for line in whole if not line.startswith(("BTS", "FTS"))]
    if any(segment.name == "MSH" for segment in segments[1:]):
        raise MalformedError("it has a second segment MSH that does not begin a message")
    return Message(segments, delimiters, decoded.codec, decoded.stated, tuple(dict.fromkeys(oddities)))


def _segment(line: str, delimiters: Delimiters) -> Segment:
    fields = line.split(delimiters.field)
    if fields[0] == "MSH":
        fields.insert(1, delimiters.field)
    fields[0] = fields[0].strip()
    clean = line.isprintable() and '"' not in line and _REPLACED not in line
    return Segment(fields[0], fields, delimiters, clean)


def _delimiters(text: str) -> Delimiters:
    separator = text[3:4]
    if not separator or separator.isalnum() or separator in "\r\n":
        raise MalformedError("MSH-1, the character after MSH, separates nothing")
    encoding = re.split(r"[\r\n]", text[4:12], maxsplit=1)[0].partition(separator)[0]
    if len(set(encoding)) != len(encoding) or any(each.isalnum() or each.isspace() for each in encoding):
        raise MalformedError("MSH-2 does not hold the delimiters, such as ^~\\&")
    if not encoding:
        return Delimiters(separator, DEFAULT.component, DEFAULT.repetition, DEFAULT.escape, DEFAULT.subcomponent)
    padded = [*encoding, "", "", "", "", ""]
    return Delimiters(separator, *padded[:5])
