"""From texts of HL7 to values of DICOM (PS3.5 section 6.2): what fits, what is cut, and what is lost."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Final, NamedTuple

_LONGEST: Final = {"AE": 16, "CS": 16, "LO": 64, "SH": 16, "ST": 1024, "LT": 10240, "UI": 64}
_NAME_GROUP: Final = 64
_LINES: Final = frozenset({"LT", "ST", "UT"})
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]+")
_CONTROL_BUT_LINES: Final = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]+")
_UID: Final = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+")
_CS: Final = re.compile(r"[A-Z0-9 _]{1,16}")
_TIME: Final = re.compile(
    r"(\d{4})(?:(\d{2})(?:(\d{2})(?:(\d{2})(?:(\d{2})(?:(\d{2}(?:\.\d{1,6})?)?)?)?)?)?)?\s*([+-]\d{4})?"
)
_OFFSET: Final = re.compile(r"([+-]?\d+)([smhd])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
#: Of unit to kg and m: UCUM (case sensitive, lower case here) and what senders write.
_FACTORS: Final[Mapping[str, tuple[str, Decimal]]] = {
    **dict.fromkeys(("kg", "kilogram", "kilograms", "kgs"), ("kg", Decimal(1))),
    **dict.fromkeys(("g", "gm", "gr", "gram", "grams"), ("kg", Decimal("0.001"))),
    **dict.fromkeys(("lb", "lbs", "[lb_av]", "pound", "pounds"), ("kg", Decimal("0.45359237"))),
    **dict.fromkeys(("oz", "[oz_av]"), ("kg", Decimal("0.028349523125"))),
    **dict.fromkeys(("m", "meter", "metre", "meters", "metres"), ("m", Decimal(1))),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), ("m", Decimal("0.01"))),
    "mm": ("m", Decimal("0.001")),
    **dict.fromkeys(("in", "[in_i]", "[in_us]", "inch", "inches"), ("m", Decimal("0.0254"))),
    **dict.fromkeys(("ft", "[ft_i]", "foot", "feet"), ("m", Decimal("0.3048"))),
}
#: Beyond these a person has no weight in kg, and no height in m: the unit is another than the message says.
_MOST: Final = {"kg": Decimal(700), "m": Decimal(3)}
#: A shortened one would be another's.
IDENTIFIERS: Final = frozenset(
    {
        *("PatientID", "AccessionNumber", "RequestedProcedureID", "ScheduledProcedureStepID", "AdmissionID"),
        *("PlacerOrderNumberImagingServiceRequest", "FillerOrderNumberImagingServiceRequest", "CodeValue"),
        *("IssuerOfPatientID", "LocalNamespaceEntityID", "CodingSchemeDesignator"),
    }
)


class LostError(Exception):
    """A value cannot be taken over. The text says why, without the value."""


class Fitted(NamedTuple):
    """A value that fits, and what was done to make it so; empty where nothing was."""

    value: str
    note: str = ""


@dataclass(frozen=True)
class Moment:
    """A time of HL7 (TS, DTM) in the time zone of a site.

    Attributes
    ----------
    at
        With its zone.
    digits
        How many digits the message gives: 8 for a date, 14 for seconds.
    zoned
        Whether the message says the zone.
    """

    at: datetime
    digits: int
    zoned: bool

    @property
    def date(self) -> str:
        """As DA; empty where the message gives no day."""
        at = self.at
        return f"{at.year:04}{at.month:02}{at.day:02}" if self.digits >= 8 else ""  # noqa: PLR2004 (YYYYMMDD)

    @property
    def time(self) -> str:
        """As TM, as exact as the message; empty where it gives no hour."""
        at = self.at
        return f"{at.hour:02}{at.minute:02}{at.second:02}"[: max(0, self.digits - 8)]

    @property
    def offset(self) -> str:
        """As Timezone Offset From UTC (0008,0201); empty where the message says none."""
        return self.at.strftime("%z")[:5] if self.zoned else ""


@lru_cache(maxsize=1024)
def moment(text: str, zone: tzinfo, added: timedelta = timedelta()) -> Moment:
    """Read a time of HL7, chapter 2A section 2.A.22: `YYYY[MM[DD[HH[MM[SS[.S]]]]]][+ZZZZ]`.

    A time with a zone of its own is turned into the site's clock, by which its modalities ask.

    Raises
    ------
    LostError
        It is no time.
    """
    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise LostError("it is no date and time as HL7 writes it")
    year, month, day, hour, minute, second, offset = found.groups()
    try:
        at = datetime(int(year), int(month or 1), int(day or 1), int(hour or 0), int(minute or 0), tzinfo=zone)
        at += timedelta(seconds=int((second or "0").partition(".")[0]))
        if offset and hour:
            hours, minutes = int(offset[1:3]), int(offset[3:5])
            shift = timedelta(hours=hours, minutes=minutes) * (-1 if offset[0] == "-" else 1)
            at = at.replace(tzinfo=timezone(shift)).astimezone(zone)
        at += added
    except (ValueError, OverflowError) as error:
        raise LostError("it is no date and time that there is") from error
    digits = 4 + sum(2 for part in (month, day, hour, minute, second) if part)
    return Moment(at, digits, bool(offset and hour))


def added(written: str | None) -> timedelta:
    """Read what a mapping adds to a time, such as `-15m`."""
    found = _OFFSET.fullmatch(written or "")
    return timedelta() if found is None else timedelta(seconds=int(found[1]) * _SECONDS[found[2]])


def measure(text: str, unit: str, to: str) -> str:
    """Convert a number to kg or m.

    Raises
    ------
    LostError
        It is no number, its unit is not known, or nobody measures that much.
    """
    try:
        number = Decimal(text.replace(",", "."))
    except InvalidOperation as error:
        raise LostError("it is no number") from error
    kind, factor = _FACTORS.get(unit.lower(), ("", Decimal(1))) if unit else (to, Decimal(1))
    if kind != to:
        raise LostError(f"its unit is not one that can be converted to {to}")
    value = number * factor
    if not number.is_finite() or not 0 < value <= _MOST[to]:
        raise LostError(f"it would be more than {_MOST[to]} {to}, or nothing: unit and value do not go together")
    return format(value.quantize(Decimal("0.0001")).normalize(), "f")


def person(parts: Sequence[str]) -> str:
    """Turn the components of XPN (family, given, middle, suffix, prefix, degree) into one group of PN.

    PN has prefix before suffix, PS3.5 section 6.2.1; a degree goes to the suffixes.
    """
    padded = [_name_part(part) for part in parts[:6]] + [""] * 6
    family, given, middle, suffix, prefix, degree = padded[:6]
    return "^".join((family, given, middle, prefix, " ".join(filter(None, (suffix, degree))))).rstrip("^")


def fit(keyword: str, vr: str, text: str) -> Fitted:
    """Make a text a value of a VR.

    Raises
    ------
    LostError
        It cannot be made one; identifiers are lost rather than cut.
    """
    if vr in _NUMBERS:
        return _NUMBERS[vr](text)
    if vr == "UI":
        if not _UID.fullmatch(text) or len(text) > _LONGEST["UI"]:
            raise LostError("it is no UID of digits and dots with at most 64 characters")
        return Fitted(text)
    plain = text
    if not text.isprintable():
        plain = (_CONTROL_BUT_LINES if vr in _LINES else _CONTROL).sub(" ", text).strip()
        if vr in _LINES:
            plain = plain.replace("\n", "\r\n")
    notes: list[str] = []
    if "\\" in plain and vr not in _LINES:
        plain = plain.replace("\\", "/")
        notes.append("a backslash, which DICOM does not have here, became /")
    if vr == "CS":
        plain = plain.upper()
        if not _CS.fullmatch(plain):
            raise LostError("it is no code of at most 16 capital letters, digits, blanks and underscores")
    return _cut(keyword, vr, plain, notes)


def _cut(keyword: str, vr: str, plain: str, notes: list[str]) -> Fitted:
    if vr == "PN":
        groups = plain.split("=")[:3]
        if any(len(group) > _NAME_GROUP for group in groups):
            notes.append(f"cut to {_NAME_GROUP} characters")
        return Fitted("=".join(group[:_NAME_GROUP].rstrip("^ ") for group in groups), "; ".join(notes))
    longest = _LONGEST.get(vr)
    if longest is None or len(plain) <= longest:
        return Fitted(plain, "; ".join(notes))
    if vr == "AE" or keyword in IDENTIFIERS:
        raise LostError(f"it is longer than {longest} characters, and shortened it would be another")
    notes.append(f"cut to {longest} characters")
    return Fitted(plain[:longest].rstrip(), "; ".join(notes))


def _whole(text: str) -> Fitted:
    try:
        return Fitted(str(int(text)))
    except ValueError as error:
        raise LostError("it is no whole number") from error


def _decimal(text: str) -> Fitted:
    try:
        number = Decimal(text.replace(",", "."))
    except InvalidOperation as error:
        raise LostError("it is no number") from error
    written = format(number.normalize(), "f") if number.is_finite() else ""
    if not written or len(written) > 16:  # noqa: PLR2004 (DS)
        raise LostError("it is no number of at most 16 characters")
    return Fitted(written)


_NUMBERS: Final[Mapping[str, Callable[[str], Fitted]]] = {
    "DS": _decimal,
    **dict.fromkeys(("IS", "US", "UL", "SS", "SL"), _whole),
}


def _name_part(text: str) -> str:
    # Delimiters of DICOM, and of a name within one group.
    return text.replace("^", " ").replace("=", " ").strip() if text != '""' else ""
