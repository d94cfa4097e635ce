"""The network definition, version 1: what one YAML document says about a whole network.

Keys with a hyphen in YAML have an underscore here. Unknown keys are refused: a misspelt key must not pass in silence.
"""

import re
from datetime import date, datetime
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from contracts.fact import AeTitle, Slug
from contracts.quantity import BitsPerSecond, Bytes, BytesPerDay, Seconds, parse_duration
from contracts.routing import PriorityRead, Trigger

DEFAULT_TENANT = "default"
_WINDOW = r"^([01]\d|2[0-3]):[0-5]\d-(([01]\d|2[0-3]):[0-5]\d|24:00)$"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_HOST_NAME = re.compile(r"^(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}))*\.?$")


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _window(value: str) -> str:
    start, _, end = value.partition("-")
    if start == end:
        raise ValueError(f"{value} starts and ends at the same time: for the whole day write 00:00-24:00")
    return value


def _network(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return ip_network(value)
    except ValueError:
        pass
    try:
        wider = ip_network(value, strict=False)
    except ValueError as error:
        raise ValueError(f"{value!r} is not an address or network: write such as 10.2.0.7 or 10.2.0.0/24") from error
    raise ValueError(f"{value} is an address with the size of a network: write {wider} for the network")


def _host(value: str) -> str:
    try:
        ip_address(value)
    except ValueError as error:
        if not _HOST_NAME.match(value) or re.fullmatch(r"[\d.]+", value):
            raise ValueError(f"{value!r} is neither an address nor a host name") from error
    return value


def _fingerprint(value: str) -> str:
    if value.startswith("sha256:") and not re.fullmatch(r"sha256:[0-9a-f]{64}", value):
        raise ValueError(f"{value!r} is not a fingerprint: after sha256: stand 64 hexadecimal digits in lower case")
    return value


def _without_secret(value: str) -> str:
    if "@" in value.partition("://")[2].partition("/")[0]:
        raise ValueError("the address holds a user or password: secrets are named in a definition, never written in it")
    return value


def _folder(value: str) -> str:
    parts = value.split("/")[1:]
    if not value.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{value!r} is not the absolute path of a folder: write such as /srv/research")
    if _CONTROL.search(value):
        raise ValueError("the path of the folder holds a control character")
    return value


def _addressed(*schemes: str) -> AfterValidator:
    def check(value: str) -> str:
        scheme, _, rest = value.partition("://")
        if scheme not in schemes or not rest.strip("/"):
            raise ValueError(
                f"the address has to start with {' or '.join(f'{known}://' for known in schemes)} and a name"
            )
        return _without_secret(value)

    return AfterValidator(check)


Port = Annotated[int, Field(ge=1, le=65535)]
TimeWindow = Annotated[str, StringConstraints(pattern=_WINDOW), AfterValidator(_window)]
May = Literal["store", "worklist", "mpps", "commit", "find", "move", "get"]
#: What is done with other content under a SOP Instance UID that is kept already.
SameUid = Literal["quarantine", "keep-first", "new-version"]
#: What a TLS client certificate must say: its common name or a DNS name in it, or the SHA-256 of the whole of it.
Certificate = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,253}$"), AfterValidator(_fingerprint)]
#: Words for the transfer syntaxes that a transform can convert to.
TransferSyntax = Literal["explicit-le", "implicit-le", "rle", "jpeg-ls-lossless", "jpeg2000-lossless", "jpeg2000"]
#: Key of a node; it is also the node's AE title, where no other is given and it is fit to be one.
NodeKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.-]{0,62}$")]
#: Key of a partner: deliveries that tell it have a name of their own, with this in it.
PartnerKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,54}$")]
Network = Annotated[
    IPv4Network | IPv6Network,
    BeforeValidator(_network),
    WithJsonSchema({"type": "string", "examples": ["10.2.0.7", "10.2.0.0/24"]}),
]
Host = Annotated[str, AfterValidator(_host)]
#: One text, or a list of them.
Names = Annotated[
    tuple[str, ...],
    BeforeValidator(_listed),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}, mode="validation"),
]


def _hyphenated(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


def _hold(value: object) -> object:
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f'{value} is not a hold: write such as 30m, or a time of day in quotes: "20:00"')  # noqa: TRY004 - pydantic wants ValueError
    if not isinstance(value, str) or value == UNTIL_RELEASED or _TIME_OF_DAY.match(value):
        return value
    if _LOCAL_TIME.match(value):
        try:
            at = datetime.fromisoformat(value)
        except ValueError as error:
            raise ValueError(f"{value} is no date and time: {error}") from error
        if not _FIRST_YEAR <= at.year <= _LAST_YEAR:
            raise ValueError(f"{value} is no time to hold something until: write a year from 2000 to 2999")
        return value
    try:
        seconds = parse_duration(value)
    except ValueError as error:
        said = f'write a duration such as 30m, a time of day such as "20:00", 2026-12-24T08:00, or {UNTIL_RELEASED}'
        raise ValueError(f"{value!r} is not a hold: {said}") from error
    if not isinstance(seconds, int) or not 0 < seconds <= LONGEST_WAIT:
        raise ValueError(f"{value} is no time that a rule can hold something: write more than 0 s and at most 1y")
    return value


#: Hold that only a person ends.
UNTIL_RELEASED = "until-released"
#: Seconds between two looks of a timer, at least.
SHORTEST_EVERY = 60
#: Seconds that a rule can wait or hold something: a year. Beyond some thousands of them no clock can tell the time.
LONGEST_WAIT = 31_557_600
_FIRST_YEAR, _LAST_YEAR = 2000, 2999
_TIME_OF_DAY = re.compile(r"^([01]\d|2[0-3]):[0-5]\d$")
_LOCAL_TIME = re.compile(r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2})?$")
#: When something may go, as a rule says it: a duration, a time of day, a local date and time, or `until-released`.
Hold = Annotated[str, BeforeValidator(_hold)]
#: Lane of what no rule says anything of.
_ORDINARY: Final = "routine"
#: Name of a rule: one line.
RuleName = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,200}$")]
#: What people read where the study is shown: one line.
Reason = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,200}$")]
#: Value of a tag.
TagValue = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,100}$")]


#: Place in an HL7 message, a segment, a field, components, a subcomponent: IPC, PID-5, OBR-4.4-6, PID-3.4.2.
Hl7Path = Annotated[
    str, StringConstraints(pattern=r"^[A-Z][A-Z0-9]{2}(-[1-9]\d{0,2}(\.[1-9]\d?(\.[1-9]\d?|-[1-9]\d?)?)?)?$")
]
#: Order control and status, or the event of an appointment.
Hl7Control = Annotated[str, StringConstraints(pattern=r"^([A-Z]{2}(_[A-Z]{1,2})?|S\d\d)$")]


class Part(BaseModel):
    """A part of the definition: frozen, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=_hyphenated, populate_by_name=True)


class Link(Part):
    """What a site's line can carry."""

    bandwidth: BitsPerSecond | None = Field(None, description="Rate of the line, bit/s, such as 2Mbit/s.")
    budget: BytesPerDay | None = Field(None, description="Bytes a day that may be sent, such as 20GB/day.")


class Site(Part):
    """A place with modalities, archives or readers."""

    name: str = Field(description="Name as people know it.")
    tenant: Slug = Field(DEFAULT_TENANT, description="Owner of the site's data; nothing is shared between tenants.")
    link: Link | None = Field(None, description="What the site's line can carry.")
    timezone: str | None = Field(
        None,
        description="IANA time zone of the site, by which rules read clock and calendars; the network's if left out.",
    )
    sop_classes: Literal["any", "standard"] = Field(
        "any", description="Which storage SOP classes its nodes may send: any, or those of PS3.4 only."
    )


class Calendar(Part):
    """Working time."""

    days: str = Field("Mon-Fri", description="Days or ranges of days, such as Mon-Fri or Mon,Wed.")
    hours: TimeWindow = Field("00:00-24:00", description="Hours in the time zone of the site that sent, by its clock.")
    holidays: str | None = Field(None, description="ISO 3166 country whose public holidays are not working time.")
    closed: tuple[date, ...] = Field((), description="Other days that are not working time, such as 2026-12-24.")


class NodeTls(Part):
    """TLS towards a node."""

    client: str | None = Field(None, description="Name of the secret with our certificate and key.")


class NodeHl7(Part):
    """HL7 v2 from a node."""

    charset: str = Field("ASCII", description="Character set as in MSH-18, where a message has none there.")
    charset_always: bool = Field(False, description="Whether that character set holds whatever MSH-18 says.")
    mapping: str = Field("default", description="Key in hl7-mappings.")
    application: str | None = Field(
        None, description="Sending application (MSH-3) of its messages, where several senders call from one address."
    )
    facility: str | None = Field(None, description="Sending facility (MSH-4) of its messages, for the same.")


#: Terms of Specific Character Set (0008,0005) that answers can be written in: PS3.3 tables C.12-2 to C.12-5. Besides
#: them `auto` (Latin-1 where that has all letters, else UTF-8), and `ASCII` for what shows nothing else.
CHARACTER_SETS = frozenset(
    (
        "auto",
        "ASCII",
        *(f"ISO_IR {number}" for number in (13, 100, 101, 109, 110, 126, 127, 138, 144, 148, 166, 192)),
        *("GB18030", "GBK", "ISO 2022 IR 6"),
        *(f"ISO 2022 IR {number}" for number in (13, 58, 87, 100, 101, 109, 110, 126, 127, 138, 144, 148)),
        *(f"ISO 2022 IR {number}" for number in (149, 159, 166)),
    )
)


def _charset(terms: tuple[str, ...]) -> tuple[str, ...]:
    unknown = [term for term in terms if term not in CHARACTER_SETS]
    if unknown:
        raise ValueError(
            f"{unknown[0]!r} is no character set that answers can be written in: write auto, ASCII, ISO_IR 100, "
            "ISO_IR 192 (UTF-8), or what the modality's conformance statement names"
        )
    if not terms:
        raise ValueError("a character set is missing: leave charset out for auto")
    if len(terms) > 1 and not all(term.startswith("ISO 2022 ") for term in terms):
        raise ValueError(
            f"{', '.join(terms)} do not go together: only terms that begin with ISO 2022 have code extensions, "
            "such as [ISO 2022 IR 6, ISO 2022 IR 87]"
        )
    return terms


#: Specific Character Set (0008,0005), one term or several.
CharacterSet = Annotated[Names, AfterValidator(_charset)]


class NodeWorklist(Part):
    """What a node sees of the worklist, and how it is answered."""

    charset: CharacterSet = Field(("auto",), description="What it can show: terms of Specific Character Set.")
    sites: Names = Field(
        (), description="Sites whose items it sees, `all` for those of its tenant; its own if left out."
    )
    stations: Literal["all", "own"] = Field(
        "all", description="Whether it sees the items of all stations, or those of its AE title and of none."
    )
    modalities: Names = Field((), description="Modalities (0008,0060) whose items it sees; all if left out.")
    limit: int = Field(200, ge=1, le=10_000, description="Most items in one answer; beyond it the query is refused.")
    names: Literal["exact", "fold"] = Field(
        "exact", description="Whether case, accents and left out components matter when it asks for a person's name."
    )


class NodeLimits(Part):
    """What a node may ask of us at once when it calls."""

    associations: int = Field(32, ge=1, le=1024, description="Associations at a time; more are rejected for now.")
    rate: float | None = Field(None, gt=0, description="Instances a second; answers come later beyond it.")
    object_size: Bytes | None = Field(None, description="Longest object, such as 4GB; a longer one is refused.")


class Node(Part):
    """A DICOM or HL7 system, recognised by called AE title, calling AE title and source address together."""

    site: str = Field(description="Key of the site.")
    aet: AeTitle | None = Field(None, description="Its AE title; the node's key if left out.")
    host: Host | None = Field(None, description="Address or name that we call, and that may call us.")
    port: Port | None = Field(None, description="Port that we call; without one the node cannot be called.")
    from_: Annotated[
        tuple[Network, ...],
        BeforeValidator(_listed),
        WithJsonSchema(
            {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}, mode="validation"
        ),
    ] = Field((), description="Addresses or networks that may call as this node; `host` if left out.")
    called: AeTitle | None = Field(None, description="AE title that it must call us by; any of ours if left out.")
    modality: str | None = Field(None, description="Modality (0008,0060) of a scanner.")
    issuer: str | None = Field(None, description="Issuer of the Patient IDs that it sends.")
    may: tuple[May, ...] = Field((), description="What the node is allowed to ask of us.")
    commit: bool = Field(False, description="Whether it answers storage commitment.")
    tls: bool | NodeTls = Field(False, description="Whether we call it with TLS.")
    certificate: Certificate | None = Field(
        None, description="What its client certificate must say; with this it may call with TLS only."
    )
    associations: int = Field(2, ge=1, le=64, description="Associations at a time when we call it.")
    limits: NodeLimits = Field(NodeLimits(), description="What it may ask of us at once when it calls.")
    same_uid: SameUid | None = Field(None, description="Other content under a known UID; the network's if left out.")
    worklist: NodeWorklist = Field(NodeWorklist(), description="What it sees of the worklist, if it may ask for it.")
    retired: bool = Field(False, description="Kept for its history; may not call and is not called.")
    hl7: NodeHl7 | None = Field(None, description="HL7 v2 from this node.")


class Destination(Part):
    """Where studies can go: exactly one of node, stow, s3, folder, group."""

    node: str | None = Field(None, description="Key of a node with a port.")
    stow: Annotated[str, _addressed("https", "http")] | None = Field(None, description="DICOMweb STOW-RS address.")
    s3: Annotated[str, _addressed("s3")] | None = Field(None, description="S3 address, s3://bucket/prefix.")
    folder: Annotated[str, AfterValidator(_folder)] | None = Field(
        None, description="Folder for files, an absolute path that is there where egress runs, such as /srv/research."
    )
    group: Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        None, description="Keys of other destinations."
    )
    pick: Literal["all", "first-healthy"] = Field("all", description="Which of a group get the study.")
    associations: int | None = Field(None, ge=1, le=64, description="Associations at a time; the node's if left out.")
    confirm: Literal["store", "commit", "query"] = Field(
        "store",
        description="What counts as delivered: it said success; it also committed itself to keep it (storage "
        "commitment); it also shows it when it is asked what it has (C-FIND).",
    )
    window: TimeWindow | None = Field(
        None, description="Time of day in which to send, in the network's time zone, such as 20:00-06:00."
    )
    bandwidth: BitsPerSecond | None = Field(
        None, description="Most that may be used, bit/s; the link of the node's site holds as well."
    )
    budget: BytesPerDay | None = Field(
        None,
        description="Bytes a day that may be sent to it, such as 5GB/day; the link of the node's site holds as well.",
    )
    give_up: Seconds | None = Field(
        None,
        description="How long a delivery is tried before people must look, such as 7d; the service's if left out.",
    )
    failover: str | None = Field(None, description="Destination to use when this one stays down.")
    transform: str | None = Field(None, description="Transform that always runs last for this destination.")
    oauth: str | None = Field(None, description="Name of the secret with the OAuth client.")
    skip_existing: bool = Field(False, description="Whether to ask first what the destination already has.")

    @model_validator(mode="after")
    def _one_kind(self) -> "Destination":
        kinds = [name for name in ("node", "stow", "s3", "folder", "group") if getattr(self, name) is not None]
        if len(kinds) != 1:
            said = " and ".join(kinds) or "none"
            raise ValueError(f"a destination is exactly one of node, stow, s3, folder or group; this one has {said}")
        return self

    @model_validator(mode="after")
    def _nothing_in_vain(self) -> "Destination":
        # A transform on a group would be bypassed in silence, because rules ask for the members.
        given = {name for name in self.model_fields_set if getattr(self, name) != type(self).model_fields[name].default}
        if self.group is not None and given - {"group", "pick"}:
            said = ", ".join(sorted(_hyphenated(name) for name in given - {"group", "pick"}))
            raise ValueError(f"a group has no {said} of its own: give that to its members")
        if self.group is None and "pick" in given:
            raise ValueError("pick belongs to a group only")
        if self.stow is None and self.oauth is not None:
            raise ValueError("oauth belongs to a stow address only")
        for asked in ("confirm", "skip_existing"):
            if self.folder is not None and asked in given:
                raise ValueError(f"a folder has no {_hyphenated(asked)}: what is written to it is there")
        return self


#: Address of elements in a transform: `PatientID`, `RequestAttributesSequence[0].AccessionNumber`, `*.OperatorsName`,
#: `(0029,10,ACME 1.1)`. What it has to look like is said by `libs.definition.address`.
Address = str
#: Options of PS3.15 annex E that a de-identification can have; section E.3 says what each is.
DeidentifyOption = Literal[
    "clean-descriptors",
    "shift-dates",
    "retain-dates",
    "retain-uids",
    "retain-device",
    "retain-institution",
    "retain-patient-characteristics",
]


class Deidentify(Part):
    """De-identification by PS3.15 annex E."""

    profile: Literal["basic"] = Field(description="Profile of PS3.15 annex E.")
    options: tuple[DeidentifyOption, ...] = Field(
        (), description="Options of PS3.15 annex E, such as clean-descriptors; shift-dates retains intervals of time."
    )
    project: Slug | None = Field(
        None, description="Project whose secret keys the pseudonyms; that of the transform if left out."
    )
    keep_words: tuple[str, ...] = Field(
        (), description="Words that clean-descriptors leaves in descriptions besides those of DICOM's own terms."
    )

    @model_validator(mode="after")
    def _one_calendar(self) -> "Deidentify":
        if {"shift-dates", "retain-dates"} <= set(self.options):
            raise ValueError("shift-dates and retain-dates exclude each other: name one of them")
        return self


class Replacement(Part):
    """What a regular expression finds, and what stands there afterwards."""

    find: str = Field(min_length=1, max_length=1000, description="Regular expression (RE2).")
    replace: str = Field(max_length=1000, description=r"Replaces each match; \\1 is the first group.")


class Mapping(Part):
    """Values, and what stands in their place."""

    values: dict[str, str] = Field(description="New value by old value.")
    otherwise: Literal["keep", "empty", "refuse"] = Field(
        "keep", description="What becomes of other values; refuse: the instance is not sent, and people must look."
    )


class Blank(Part):
    """Areas of the images of certain devices that become black, because text is burned in there."""

    manufacturer: str | None = Field(None, description="Manufacturer (0008,0070), any capitals; all if left out.")
    model: str | None = Field(None, description="Manufacturer's Model Name (0008,1090), any capitals; all if left out.")
    modality: str | None = Field(None, description="Modality (0008,0060); all if left out.")
    columns: int | None = Field(None, ge=1, le=65535, description="Columns (0028,0011); all if left out.")
    rows: int | None = Field(None, ge=1, le=65535, description="Rows (0028,0010); all if left out.")
    areas: Annotated[tuple[tuple[int, int, int, int], ...], Field(max_length=100)] = Field(
        description="Rectangles in pixels: left, top, width, height. None: these devices burn nothing in."
    )

    @model_validator(mode="after")
    def _in_the_image(self) -> "Blank":
        for left, top, width, height in self.areas:
            if left < 0 or top < 0 or width < 1 or height < 1:
                raise ValueError(f"[{left}, {top}, {width}, {height}] is no area: write [left, top, width, height]")
            if (self.columns is not None and left >= self.columns) or (self.rows is not None and top >= self.rows):
                raise ValueError(f"[{left}, {top}, {width}, {height}] is outside the image")
        return self


class Transform(Part):
    """What is changed on the way; in the order of these keys, whatever the order in the document."""

    project: Slug | None = Field(
        None, description="Project whose secret keys hashes and UIDs; they are the same in all of its transforms."
    )
    secret: Slug | None = Field(None, description="Name of the project's secret; the project's own if left out.")
    originals: bool = Field(
        True,
        description="Whether changed values are noted in Original Attributes Sequence (0400,0561). Never noted is what "
        "is removed or hashed, and nothing where UIDs are remapped or an instance is de-identified.",
    )
    copy_: dict[Address, Address] = Field(default_factory=dict, description="Values to take from another attribute.")
    regex: dict[Address, Replacement] = Field(default_factory=dict, description="Parts of values to replace.")
    map: dict[Address, Mapping] = Field(default_factory=dict, description="Values to replace as a whole.")
    prefix: dict[Address, str] = Field(default_factory=dict, description="Texts to put before values.")
    hash: Annotated[tuple[Address, ...], BeforeValidator(_listed)] = Field(
        (), description="Attributes whose values become keyed hashes: the same value, the same hash in a project."
    )
    set: dict[Address, str] = Field(default_factory=dict, description="Values to set, whether something is there.")
    remove: Annotated[tuple[Address, ...], BeforeValidator(_listed)] = Field((), description="Attributes to remove.")
    uids: Literal["keep", "remap"] = Field(
        "keep", description="Whether UIDs of instances, series, studies and whatever refers to them become others."
    )
    blank: tuple[Blank, ...] = Field((), description="Areas to blank by device; the first that fits counts.")
    deidentify: Deidentify | None = Field(None, description="De-identification, after every other change of values.")
    transfer_syntax: TransferSyntax | None = Field(None, description="Transfer syntax to convert to, at the very end.")
    ratio: float | None = Field(None, gt=1, le=1000, description="How many times smaller jpeg2000 is to be.")

    @model_validator(mode="after")
    def _complete(self) -> "Transform":
        if (self.transfer_syntax == "jpeg2000") != (self.ratio is not None):
            raise ValueError("ratio and `transfer-syntax: jpeg2000` (lossy) belong together: write such as ratio: 10")
        asks = [word for word, there in (("hash", self.hash), ("uids: remap", self.uids == "remap")) if there]
        if asks and self.project is None:
            raise ValueError(f"{' and '.join(asks)} needs a project, whose secret is the key: add project: NAME")
        if self.deidentify is not None and self.deidentify.project is None and self.project is None:
            raise ValueError("de-identification needs a project, whose secret is the key: add project: NAME to it")
        return self

    def projects(self) -> "tuple[str, ...]":
        """Name the projects whose secrets it needs."""
        named = [self.project if self.hash or self.uids == "remap" else None]
        if self.deidentify is not None:
            named.append(self.deidentify.project or self.project)
        return tuple(dict.fromkeys(name for name in named if name is not None))

    def secret_of(self, project: str) -> str:
        """Name the secret of one of its projects."""
        return self.secret or project


class Rule(Part):
    """When what is done with what."""

    name: RuleName = Field(description="Name, unique in the definition.")
    trigger: Trigger = Field(description="instance: as each arrives; study: when the study is complete.")
    when: str | dict[str, Any] | None = Field(None, description="Condition: CEL, or all/any/not; always, if left out.")
    after: Seconds | None = Field(None, description="Of a timer: once, so long after the study was complete.")
    every: Seconds | None = Field(
        None, description="Of a timer: again and again after the study was complete, until the rule has matched."
    )
    deliver: Names = Field((), description="Destinations.")
    priority: PriorityRead = Field(
        _ORDINARY, description="Lane; without `deliver`, that of all that other rules deliver, if it is a higher one."
    )
    transform: str | None = Field(None, description="Transform that runs before the destination's own.")
    hold: Hold | None = Field(
        None,
        description="When it may go: after a time such as 30m, at the next 20:00, at 2026-12-24T08:00, or "
        "until-released by a person. Without `deliver`, that of all that other rules deliver.",
    )
    notify: Names = Field((), description="Partners to tell.")
    tag: dict[Slug, TagValue] = Field(default_factory=dict, description="Tags to set on the study, by name.")
    quarantine: Reason | None = Field(None, description="Why people must look before anything more is done with it.")
    discard: Reason | None = Field(None, description="Why nothing more is done with it. It is kept all the same.")
    stop: bool = Field(False, description="Whether the rules after this one do not count where it matches.")

    @property
    def ends(self) -> bool:
        """Whether the rules after it with the same trigger do not count where it matches."""
        return self.stop or self.quarantine is not None or self.discard is not None

    @model_validator(mode="after")
    def _does_something(self) -> "Rule":
        # What is looked at are values, never which keys were given: services pass definitions on with all of them.
        asks = self.deliver or self.notify or self.tag or self.hold or self.quarantine or self.discard
        if not asks and self.priority not in ("stat", "urgent"):
            if self.stop:
                raise ValueError(
                    "a rule that only stops drops what matches without a word: write discard with a reason"
                )
            if self.priority != _ORDINARY:
                raise ValueError("priority without deliver only raises what other rules deliver: write stat or urgent")
            raise ValueError(
                "a rule has to do something: deliver, notify, tag, hold, quarantine, discard, or raise the priority"
            )
        if self.transform is not None and not self.deliver:
            raise ValueError("a transform belongs to what the same rule delivers: add deliver")
        return self

    @model_validator(mode="after")
    def _ends_alone(self) -> "Rule":
        if self.quarantine is None and self.discard is None:
            return self
        if self.quarantine is not None and self.discard is not None:
            raise ValueError("quarantine and discard exclude each other: let people decide, or decide here")
        ending = "quarantine" if self.quarantine is not None else "discard"
        if self.deliver or self.notify or self.hold is not None or self.priority != _ORDINARY:
            raise ValueError(f"{ending} goes together with tag only: give what is to be done before to a rule above")
        if self.trigger in ("timer", "order", "procedure"):
            raise ValueError(f"{ending} needs the trigger instance, series, study or amended")
        return self

    @model_validator(mode="after")
    def _timed(self) -> "Rule":
        given = [name for name in ("after", "every") if getattr(self, name) is not None]
        if self.trigger == "timer" and len(given) != 1:
            raise ValueError("a timer has either after, such as `after: 30m`, or every, such as `every: 1h`")
        if self.trigger != "timer" and given:
            raise ValueError(f"{given[0]} belongs to the trigger timer only")
        if self.every is not None and self.every < SHORTEST_EVERY:
            raise ValueError(f"every is {SHORTEST_EVERY} s at least")
        if (self.after or self.every or 0) > LONGEST_WAIT:
            raise ValueError(f"{given[0]} is 1y at most")
        return self


class RuleTest(Part):
    """A case that the rules must decide as written; checked at every apply."""

    study: dict[str, Any] = Field(default_factory=dict, description="Study attributes by DICOM keyword.")
    instance: dict[str, Any] = Field(default_factory=dict, description="Instance attributes; the study's if left out.")
    order: dict[str, Any] = Field(default_factory=dict, description="What was ordered.")
    source: dict[str, str] = Field(default_factory=dict, description="site, node.")
    at: str | None = Field(None, description="Local time of the site, such as 2026-11-20T10:00.")
    unhealthy: Names = Field((), description="Destinations that are not healthy; all others are.")
    delivers: tuple[str, ...] = Field(description="The exact set of destinations, groups by their own name.")
    priority: PriorityRead | dict[str, PriorityRead] | None = Field(
        None, description="Lane of all that is delivered, or of each destination by name; not looked at, if left out."
    )
    transform: str | dict[str, str | None] | None = Field(
        None, description="Transform of all that is delivered, or of each destination by name, null for none."
    )
    held: Names | None = Field(None, description="The exact set of destinations that a rule holds.")
    notifies: Names | None = Field(None, description="The exact set of partners that are told.")
    tags: dict[Slug, TagValue] | None = Field(None, description="Exactly the tags that are set.")
    quarantined: bool | None = Field(None, description="Whether a rule puts it aside.")
    discarded: bool | None = Field(None, description="Whether a rule discards it.")


class Hl7Unit(Part):
    """Unit of a measured value."""

    from_: Hl7Path = Field(description="Where the message says in which unit it is.")
    to: Literal["kg", "m"] = Field(description="Unit of the attribute.")


class Hl7Value(Part):
    """Where the value of an attribute comes from: a fixed value, places of a message, or other attributes."""

    from_: Names = Field(
        (),
        description="Places such as PID-5 or OBR-4.4-6, DICOM keywords, node.issuer, node.key, site.key, site.name: "
        "the first with a value counts.",
    )
    where: dict[Hl7Path, Names] = Field(
        default_factory=dict, description="Only of segments or repetitions with one of these values at each place."
    )
    unless: Names = Field((), description="Only where none of these places has a value; a segment's name is a place.")
    as_: Literal["text", "name", "staff", "code", "address", "whole"] = Field(
        "text",
        description="What the field is: a text, a person's name (XPN), a member of staff (XCN), a code with scheme and "
        "meaning (CWE), an address (XAD), or the whole field with its components.",
    )
    by: Names = Field((), description="Places or keywords whose values, joined by /, are looked up in the table.")
    table: dict[str, str] | None = Field(
        None, description="Values by code; with `by`, * stands for anything between two slashes."
    )
    unlisted: Literal["warn", "keep", "drop"] = Field("warn", description="What is done with a code not in the table.")
    unit: Hl7Unit | None = Field(None, description="Converts from the unit that the message names.")
    offset: str | None = Field(
        None,
        pattern=r"^[+-]?\d{1,5}[smhd]$",
        description="Time that is added to a date and time, such as -15m.",
    )
    station: bool = Field(
        False,
        description="Where all else gives none: the AE titles of the site's nodes of that modality that may worklist.",
    )
    value: str | None = Field(None, description="Fixed value.")
    default: str | None = Field(None, description="Value where the message says nothing of it.")
    each: Hl7Path | None = Field(None, description="One item of a sequence for each repetition of this field.")
    set: "dict[str, Hl7Value] | None" = Field(None, description="Attributes of the items of a sequence, by keyword.")
    otherwise: "Hl7Value | None" = Field(None, description="Another source, where this one gives nothing.")

    @model_validator(mode="after")
    def _has_a_source(self) -> "Hl7Value":
        sources = (self.from_, self.by, self.value is not None, self.default is not None, self.set, self.station)
        if not any(sources):
            raise ValueError("it has no source: give from, by with a table, value, default, station, or set")
        if self.value is not None and (self.from_ or self.by or self.default is not None or self.set):
            raise ValueError("a fixed value excludes all other sources: use default where the message counts first")
        if self.by and not self.table:
            raise ValueError("by needs a table in which its values are looked up")
        if self.set is not None and (self.from_ or self.by or self.table or self.default is not None):
            raise ValueError("a sequence has set, and each where it has several items, but no value of its own")
        if self.each is not None and self.set is None:
            raise ValueError("each needs set: the attributes of the items")
        return self


#: What becomes of the steps of an order. `update` changes attributes alone.
OrderAction = Literal["schedule", "update", "arrive", "start", "complete", "discontinue", "cancel"]


class Hl7Mapping(Part):
    """How orders become worklist items."""

    extends: str | None = Field(None, description="Mapping to start from.")
    set: dict[str, Hl7Value | None] = Field(
        default_factory=dict, description="Attributes, by DICOM keyword; null takes one of `extends` away."
    )
    control: dict[Hl7Control, OrderAction] = Field(
        default_factory=dict,
        description="What becomes of an order by ORC-1 and ORC-5, such as NW_SC, or NW for any status; S12 to S15 for "
        "appointments.",
    )


class Mpps(Part):
    """Performed procedure steps that modalities report."""

    forward: Names = Field(
        (), description="Nodes that get each step of their tenant as the modality has sent it, such as a RIS."
    )
    strict: bool = Field(
        False,
        description="Whether a step is refused for all that PS3.4 F.7.2 asks for, and not for what is vital only.",
    )


class Partner(Part):
    """Another organisation that is told of studies."""

    tenant: Slug = Field(description="The partner's tenant.")
    events: tuple[str, ...] = Field(description="Events that it gets.")
    sites: tuple[str, ...] = Field((), description="Sites whose studies it may ever get; of no other it is told.")


class Assembly(Part):
    """When a study is taken to be complete."""

    quiet: Seconds | None = Field(None, description="Time without arrivals; that of the service if left out.")
    modalities: dict[str, Seconds] = Field(
        default_factory=dict, description="The same by Modality (0008,0060); the longest of a study's counts."
    )
    at_most: Seconds = Field(86_400, description="Time after which it is complete whatever speaks against it.")


class Retention(Part):
    """How long copies are kept."""

    modality: tuple[str, ...] = Field((), description="Modalities; all others, if left out.")
    keep: Seconds = Field(description="How long, such as 10y.")


class Target(Part):
    """A level that was signed."""

    percent: float = Field(gt=0, le=100, description="Share that must be met.")
    under: Seconds | None = Field(None, description="Time within which a request counts as met.")


class Credit(Part):
    """What is owed below a level."""

    below: float = Field(gt=0, le=100, description="Level.")
    percent: float = Field(gt=0, le=100, description="Share of the fee.")


class Maintenance(Part):
    """What counts as scheduled maintenance."""

    notice: Seconds = Field(description="Least time between notice and start.")
    at_most: Seconds = Field(description="Most time a month.")
    hours: TimeWindow = Field(description="Hours in which it may be.")


class ServiceLevel(Part):
    """A service level of a contract."""

    name: str = Field(min_length=1, description="Name, unique in the definition.")
    contract: str = Field(description="Contract that it belongs to.")
    objective: Literal["ingest-response", "routing-response", "worklist-response", "uptime"] = Field(
        description="What is measured."
    )
    target: Target = Field(description="What was signed.")
    slots: Seconds | None = Field(None, description="Length of the intervals of an uptime.")
    credits: tuple[Credit, ...] = Field((), description="What is owed below which level.")
    maintenance: Maintenance | None = Field(None, description="What counts as scheduled maintenance.")

    @model_validator(mode="after")
    def _measurable(self) -> "ServiceLevel":
        if self.objective != "uptime" and self.target.under is None:
            raise ValueError(f"the target of {self.objective} needs a time: write such as {{percent: 95, under: 2s}}")
        return self


class Definition(Part):
    """The whole document."""

    kivuko: Literal[1] = Field(description="Version of this format.")
    name: str = Field(min_length=1, description="Name of the network.")
    timezone: str = Field("UTC", description="IANA time zone of calendars, windows and tests.")
    aets: tuple[AeTitle, ...] = Field(("KIVUKO",), min_length=1, description="AE titles that we answer to.")
    sites: dict[Slug, Site] = Field(description="Sites by key.")
    calendars: dict[Slug, Calendar] = Field(default_factory=dict, description="Calendars by key.")
    nodes: dict[NodeKey, Node] = Field(default_factory=dict, description="Nodes by key.")
    destinations: dict[Slug, Destination] = Field(default_factory=dict, description="Destinations by key.")
    transforms: dict[Slug, Transform] = Field(default_factory=dict, description="Transforms by key.")
    rules: tuple[Rule, ...] = Field((), description="Rules; all that match count, up to one that stops.")
    tests: tuple[RuleTest, ...] = Field((), description="Cases that the rules must decide as written.")
    hl7_mappings: dict[Slug, Hl7Mapping] = Field(default_factory=dict, description="Mappings by key.")
    mpps: Mpps = Field(Mpps(), description="Performed procedure steps.")
    partners: dict[PartnerKey, Partner] = Field(default_factory=dict, description="Partners by key.")
    assembly: Assembly = Field(Assembly(), description="When a study is taken to be complete.")
    same_uid: SameUid = Field("quarantine", description="What is done with other content under a known UID.")
    retention: tuple[Retention, ...] = Field((), description="First match counts.")
    service_levels: tuple[ServiceLevel, ...] = Field((), description="Service levels.")

    def aet_of(self, node: str) -> str:
        """Give the AE title of a node: its own, or its key."""
        return self.nodes[node].aet or node

    def tenant_of(self, node: str) -> str:
        """Give the tenant of a node: that of its site."""
        return self.sites[self.nodes[node].site].tenant


class Snapshot(BaseModel):
    """The version of the definition that is in force, as services fetch it."""

    model_config = ConfigDict(frozen=True)

    version: int = Field(ge=1, description="Version of the definition.")
    document_hash: str = Field(description="SHA-256 of the document as applied.")
    definition: Definition


#: Word for an attribute in structured conditions and transforms: a DICOM keyword of PS3.6.
KEYWORD = re.compile(r"^[A-Z][A-Za-z0-9]+$")


def json_schema() -> dict[str, Any]:
    """Give the JSON Schema (2020-12) of the document for editors: keys and values as people write them."""
    schema = Definition.model_json_schema(by_alias=True, mode="validation")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://kivuko.invalid/schemas/network-definition.schema.json",
        **schema,
        "title": "Kivuko network definition",
    }
