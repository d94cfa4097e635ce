"""A-ASSOCIATE: what is proposed and what is agreed. PS3.8 sections 9.3.2 and 9.3.3, PS3.7 annex D.3.3.

pynetdicom's codecs read and write the items. What it would refuse a whole association for is settled here: items of
unknown type are passed over (PS3.8 section 9.3.1), and a context that can't be read is refused by itself.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from pynetdicom.pdu_items import (
    PDU_ITEM_TYPES,
    AbstractSyntaxSubItem,
    ApplicationContextItem,
    AsynchronousOperationsWindowSubItem,
    ImplementationClassUIDSubItem,
    ImplementationVersionNameSubItem,
    MaximumLengthSubItem,
    PresentationContextItemAC,
    PresentationContextItemRQ,
    SCP_SCU_RoleSelectionSubItem,
    SOPClassCommonExtendedNegotiationSubItem,
    SOPClassExtendedNegotiationSubItem,
    TransferSyntaxSubItem,
    UserIdentitySubItemAC,
    UserIdentitySubItemRQ,
    UserInformationItem,
)

from libs.dimse.pdu import HEADER, Kind, MalformedError, Reason

#: PS3.7 section A.2.1, the only one there is.
APPLICATION_CONTEXT: Final = "1.2.840.10008.3.1.1.1"
#: Presentation context results, PS3.8 table 9-18.
USER_REJECTION: Final = 1
ABSTRACT_SYNTAX_NOT_SUPPORTED: Final = 3
TRANSFER_SYNTAXES_NOT_SUPPORTED: Final = 4

_FIXED: Final = struct.Struct(">H2x16s16s32x")
_ITEM: Final = struct.Struct(">BxH")
_CONTEXT_HEAD: Final = 4
_APPLICATION, _PROPOSED, _AGREED, _ABSTRACT, _TRANSFER, _USER = 0x10, 0x20, 0x21, 0x30, 0x40, 0x50
_DEFAULT_TRANSFER_SYNTAX: Final = "1.2.840.10008.1.2"
#: What pynetdicom's codecs raise on bytes that are not what they claim to be.
_UNREADABLE: Final = (ValueError, TypeError, KeyError, IndexError, AssertionError, struct.error)


@dataclass(frozen=True)
class Proposed:
    """A presentation context that is proposed.

    Attributes
    ----------
    id
        Odd, 1 to 255.
    abstract_syntax, transfer_syntaxes
        UIDs; empty if they can't be read: such a context is refused.
    """

    id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True)
class Context:
    """A presentation context that is accepted."""

    id: int
    abstract_syntax: str
    transfer_syntax: str


@dataclass(frozen=True)
class RefusedContext:
    """A presentation context that is refused, and why: a result of PS3.8 table 9-18."""

    id: int
    reason: int


@dataclass(frozen=True)
class Role:
    """SCP/SCU role selection, PS3.7 section D.3.3.4."""

    sop_class_uid: str
    scu: bool
    scp: bool


@dataclass(frozen=True)
class Extended:
    """SOP class extended negotiation, PS3.7 section D.3.3.5."""

    sop_class_uid: str
    information: bytes


@dataclass(frozen=True)
class CommonExtended:
    """SOP class common extended negotiation, PS3.7 section D.3.3.6; it is never answered."""

    sop_class_uid: str
    service_class_uid: str
    related: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class UserIdentity:
    """User identity, PS3.7 section D.3.3.7. It holds secrets: it has no text of its own.

    Attributes
    ----------
    kind
        1 user name, 2 user name and passcode, 3 Kerberos ticket, 4 SAML assertion, 5 JSON web token.
    response_wanted
        Whether a positive response is asked for.
    """

    kind: int
    response_wanted: bool
    primary: bytes
    secondary: bytes


@dataclass(frozen=True)
class Request:
    """An A-ASSOCIATE-RQ, PS3.8 section 9.3.2.

    Attributes
    ----------
    called_aet, calling_aet
        Without padding; empty if they are.
    max_pdu
        Longest P-DATA-TF that the requestor takes, in bytes without the header; 0: any.
    window
        Operations that the requestor wants to have under way, invoked and performed (0: any); none if it does not ask.
    protocol_version
        Bit 0 stands for version 1.
    """

    called_aet: str
    calling_aet: str
    contexts: tuple[Proposed, ...]
    max_pdu: int
    implementation_class_uid: str
    implementation_version: str = ""
    window: tuple[int, int] | None = None
    identity: UserIdentity | None = None
    roles: tuple[Role, ...] = ()
    extended: tuple[Extended, ...] = ()
    common_extended: tuple[CommonExtended, ...] = ()
    application_context: str = APPLICATION_CONTEXT
    protocol_version: int = 1


@dataclass(frozen=True)
class Acceptance:
    """What the acceptor grants.

    Attributes
    ----------
    contexts
        One for each that was proposed; what is left out is refused as an unsupported abstract syntax.
    roles, extended
        Answers to what was proposed, for SOP classes of accepted contexts. No answer means the default roles, and no
        extended behaviour.
    """

    contexts: tuple[Context | RefusedContext, ...]
    roles: tuple[Role, ...] = ()
    extended: tuple[Extended, ...] = ()


@dataclass(frozen=True)
class Agreement:
    """An A-ASSOCIATE-AC, PS3.8 section 9.3.3, or what goes into one.

    Attributes
    ----------
    called_aet, calling_aet
        As in the request; never to be tested by who gets it.
    contexts
        Of an accepted one that was read, the abstract syntax is empty: the request has it.
    identity_response
        Answer to a user identity; none if there is no answer.
    """

    called_aet: str
    calling_aet: str
    contexts: tuple[Context | RefusedContext, ...]
    max_pdu: int
    implementation_class_uid: str
    implementation_version: str = ""
    window: tuple[int, int] | None = None
    identity_response: bytes | None = None
    roles: tuple[Role, ...] = ()
    extended: tuple[Extended, ...] = ()


def decode_request(body: bytes) -> Request:
    """Read what follows the header of an A-ASSOCIATE-RQ. Raises MalformedError."""
    version, called, calling = _fixed(body)
    application, contexts, user = "", [], _User()
    for kind, raw in _items(body[_FIXED.size :]):
        if kind == _APPLICATION:
            application = _uid(raw[_ITEM.size :])
        elif kind == _PROPOSED:
            contexts.append(_proposed(raw))
        elif kind == _USER:
            user.read(raw)
    if len({each.id for each in contexts}) < len(contexts):
        raise MalformedError(Reason.INVALID_PARAMETER_VALUE, "two presentation contexts have the same identifier")
    return Request(
        called_aet=_title(called),
        calling_aet=_title(calling),
        contexts=tuple(contexts),
        max_pdu=user.max_pdu,
        implementation_class_uid=user.implementation_class_uid,
        implementation_version=user.implementation_version,
        window=user.window,
        identity=user.identity,
        roles=tuple(user.roles),
        extended=tuple(user.extended),
        common_extended=tuple(user.common_extended),
        application_context=application,
        protocol_version=version,
    )


def encode_request(request: Request) -> bytes:
    """Write an A-ASSOCIATE-RQ with its header. Raises ValueError for what PS3.8 does not allow, such as a bad UID."""
    parts = [_application(request.application_context)]
    for proposed in request.contexts:
        item = PresentationContextItemRQ()
        item.presentation_context_id = proposed.id
        abstract = AbstractSyntaxSubItem()
        abstract.abstract_syntax_name = proposed.abstract_syntax
        item.abstract_transfer_syntax_sub_items = [abstract, *map(_transfer, proposed.transfer_syntaxes)]
        parts.append(item.encode())
    items = _common_items(request)
    items += [_common_extended_item(each) for each in request.common_extended]
    if request.identity is not None:
        identity = UserIdentitySubItemRQ()
        identity.user_identity_type = request.identity.kind
        identity.positive_response_requested = int(request.identity.response_wanted)
        identity.primary_field = request.identity.primary
        identity.secondary_field = request.identity.secondary
        items.append(identity)
    parts.append(_user(items))
    return _whole(Kind.ASSOCIATE_RQ, request.protocol_version, request.called_aet, request.calling_aet, parts)


def encode_agreement(agreement: Agreement) -> bytes:
    """Write an A-ASSOCIATE-AC with its header. Raises ValueError for what PS3.8 does not allow, such as a bad UID."""
    parts = [_application(APPLICATION_CONTEXT)]
    for context in agreement.contexts:
        item = PresentationContextItemAC()
        item.presentation_context_id = context.id
        item.result_reason = 0 if isinstance(context, Context) else context.reason
        # Of a refused one the transfer syntax is not significant, but it has to be there: PS3.8 section 9.3.3.2.
        item.transfer_syntax_sub_item = [
            _transfer(context.transfer_syntax if isinstance(context, Context) else _DEFAULT_TRANSFER_SYNTAX)
        ]
        parts.append(item.encode())
    items = _common_items(agreement)
    if agreement.identity_response is not None:
        identity = UserIdentitySubItemAC()
        identity.server_response = agreement.identity_response
        items.append(identity)
    parts.append(_user(items))
    return _whole(Kind.ASSOCIATE_AC, 1, agreement.called_aet, agreement.calling_aet, parts)


def decode_agreement(body: bytes) -> Agreement:
    """Read what follows the header of an A-ASSOCIATE-AC. Raises MalformedError."""
    _, called, calling = _fixed(body)
    contexts: list[Context | RefusedContext] = []
    user = _User()
    for kind, raw in _items(body[_FIXED.size :]):
        if kind == _AGREED:
            contexts.append(_agreed(raw))
        elif kind == _USER:
            user.read(raw)
    return Agreement(
        called_aet=_title(called),
        calling_aet=_title(calling),
        contexts=tuple(contexts),
        max_pdu=user.max_pdu,
        implementation_class_uid=user.implementation_class_uid,
        implementation_version=user.implementation_version,
        window=user.window,
        identity_response=user.identity_response,
        roles=tuple(user.roles),
        extended=tuple(user.extended),
    )


def agree(
    request: Request, acceptance: Acceptance, *, max_pdu: int, window: int, implementation: tuple[str, str]
) -> Agreement:
    """Complete what the provider grants by what is ours to grant.

    Parameters
    ----------
    acceptance
        Of the provider.
    max_pdu
        Longest P-DATA-TF that we take, in bytes without the header; 0: any.
    window
        Most operations that the requestor may have under way (0: any). It invokes, we never do: the other number is 1.
    implementation
        Class UID and version name.

    Raises
    ------
    ValueError
        The acceptance names a context that was not proposed: a defect of the provider.
    """
    proposed = {each.id for each in request.contexts}
    answered = {each.id: each for each in acceptance.contexts}
    if not answered.keys() <= proposed:
        raise ValueError("a presentation context is accepted that was not proposed")
    return Agreement(
        called_aet=request.called_aet,
        calling_aet=request.calling_aet,
        contexts=tuple(
            answered.get(each.id, RefusedContext(each.id, ABSTRACT_SYNTAX_NOT_SUPPORTED)) for each in request.contexts
        ),
        max_pdu=max_pdu,
        implementation_class_uid=implementation[0],
        implementation_version=implementation[1],
        window=None if request.window is None else (_least(request.window[0], window), 1),
        # A name that nobody checks is no ground to turn a scanner away; one that asks for an answer gets it.
        identity_response=b"" if request.identity is not None and request.identity.response_wanted else None,
        roles=acceptance.roles,
        extended=acceptance.extended,
    )


def _least(wanted: int, granted: int) -> int:
    return max(wanted, granted) if 0 in (wanted, granted) else min(wanted, granted)


class _User:
    """The user information item, as far as it has been read; PS3.7 section D.3.3."""

    def __init__(self) -> None:
        self.max_pdu = 0
        self.implementation_class_uid = ""
        self.implementation_version = ""
        self.window: tuple[int, int] | None = None
        self.identity: UserIdentity | None = None
        self.identity_response: bytes | None = None
        self.roles: list[Role] = []
        self.extended: list[Extended] = []
        self.common_extended: list[CommonExtended] = []

    def read(self, raw: bytes) -> None:
        for kind, sub in _items(raw[_ITEM.size :]):
            if kind in (0x52, 0x55):
                # Informative only: whatever stands there, it's no ground to refuse.
                self._name(kind, sub[_ITEM.size :])
            elif kind in PDU_ITEM_TYPES and kind > _USER:
                self._take(_decoded(kind, sub))

    def _name(self, kind: int, value: bytes) -> None:
        if kind == 0x52:  # noqa: PLR2004 (implementation class UID)
            self.implementation_class_uid = _uid(value)
        else:
            self.implementation_version = _title(value)

    def _take(self, item: Any) -> None:
        if isinstance(item, MaximumLengthSubItem):
            self.max_pdu = item.maximum_length_received or 0
        elif isinstance(item, AsynchronousOperationsWindowSubItem):
            self.window = (item.maximum_number_operations_invoked or 0, item.maximum_number_operations_performed or 0)
        elif isinstance(item, SCP_SCU_RoleSelectionSubItem):
            self.roles.append(Role(str(item.sop_class_uid or ""), bool(item.scu_role), bool(item.scp_role)))
        elif isinstance(item, SOPClassExtendedNegotiationSubItem):
            information = item.service_class_application_information or b""
            self.extended.append(Extended(str(item.sop_class_uid or ""), information))
        elif isinstance(item, SOPClassCommonExtendedNegotiationSubItem):
            related = tuple(str(each) for each in item.related_general_sop_class_identification)
            self.common_extended.append(
                CommonExtended(str(item.sop_class_uid or ""), str(item.service_class_uid or ""), related)
            )
        elif isinstance(item, UserIdentitySubItemRQ):
            wanted = bool(item.positive_response_requested)
            self.identity = UserIdentity(
                item.user_identity_type or 0, wanted, item.primary_field or b"", item.secondary_field or b""
            )
        elif isinstance(item, UserIdentitySubItemAC):
            self.identity_response = item.server_response or b""


def _fixed(body: bytes) -> tuple[int, bytes, bytes]:
    if len(body) < _FIXED.size:
        raise MalformedError(Reason.INVALID_PARAMETER_VALUE, "an A-ASSOCIATE is shorter than its fixed fields")
    version, called, calling = _FIXED.unpack_from(body)
    return version, called, calling


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Give the type and the bytes of each item, its head included."""
    offset = 0
    while offset < len(data):
        if len(data) - offset < _ITEM.size:
            raise MalformedError(Reason.INVALID_PARAMETER_VALUE, "an A-ASSOCIATE ends within the head of an item")
        kind, length = _ITEM.unpack_from(data, offset)
        end = offset + _ITEM.size + length
        if end > len(data):
            raise MalformedError(Reason.INVALID_PARAMETER_VALUE, "an item of an A-ASSOCIATE ends after what holds it")
        yield kind, data[offset:end]
        offset = end


def _decoded(kind: int, raw: bytes) -> Any:
    item = PDU_ITEM_TYPES[kind]()
    try:
        item.decode(raw)
    except _UNREADABLE as error:
        raise MalformedError(
            Reason.INVALID_PARAMETER_VALUE, f"an item of type {kind:02X}H of an A-ASSOCIATE can't be read"
        ) from error
    return item


def _proposed(raw: bytes) -> Proposed:
    identifier = _context_id(raw)
    abstract, transfers = "", []
    for kind, sub in _items(raw[_ITEM.size + _CONTEXT_HEAD :]):
        if kind not in (_ABSTRACT, _TRANSFER):
            continue
        try:
            name = _decoded(kind, sub)
        except MalformedError:
            # One bad name in a scanner's configuration is no ground to refuse everything else that it has.
            continue
        if kind == _ABSTRACT:
            abstract = str(name.abstract_syntax_name or "")
        elif name.transfer_syntax_name:
            transfers.append(str(name.transfer_syntax_name))
    return Proposed(identifier, abstract, tuple(transfers))


def _agreed(raw: bytes) -> Context | RefusedContext:
    identifier, result = _context_id(raw), raw[_ITEM.size + 2]
    if result:
        return RefusedContext(identifier, result)
    for kind, sub in _items(raw[_ITEM.size + _CONTEXT_HEAD :]):
        if kind == _TRANSFER:
            return Context(identifier, "", str(_decoded(kind, sub).transfer_syntax_name or ""))
    raise MalformedError(Reason.INVALID_PARAMETER_VALUE, "an accepted presentation context has no transfer syntax")


def _context_id(raw: bytes) -> int:
    if len(raw) < _ITEM.size + _CONTEXT_HEAD:
        raise MalformedError(Reason.INVALID_PARAMETER_VALUE, "a presentation context is shorter than its fixed fields")
    identifier = raw[_ITEM.size]
    if identifier % 2 == 0:
        raise MalformedError(Reason.INVALID_PARAMETER_VALUE, "the identifier of a presentation context is not odd")
    return identifier


def _title(raw: bytes) -> str:
    return raw.decode("ascii", "backslashreplace").strip("\0 ")


def _uid(raw: bytes) -> str:
    return raw.decode("ascii", "backslashreplace").rstrip("\0 ")


def _application(name: str) -> bytes:
    item = ApplicationContextItem()
    item.application_context_name = name
    return bytes(item.encode())


def _transfer(name: str) -> TransferSyntaxSubItem:
    item = TransferSyntaxSubItem()
    item.transfer_syntax_name = name
    return item


def _common_items(said: Request | Agreement) -> list[Any]:
    length = MaximumLengthSubItem()
    length.maximum_length_received = said.max_pdu
    implementation = ImplementationClassUIDSubItem()
    implementation.implementation_class_uid = said.implementation_class_uid
    items: list[Any] = [length, implementation]
    if said.window is not None:
        window = AsynchronousOperationsWindowSubItem()
        window.maximum_number_operations_invoked, window.maximum_number_operations_performed = said.window
        items.append(window)
    for role in said.roles:
        item = SCP_SCU_RoleSelectionSubItem()
        item.sop_class_uid, item.scu_role, item.scp_role = role.sop_class_uid, int(role.scu), int(role.scp)
        items.append(item)
    if said.implementation_version:
        version = ImplementationVersionNameSubItem()
        version.implementation_version_name = said.implementation_version
        items.append(version)
    for extended in said.extended:
        negotiation = SOPClassExtendedNegotiationSubItem()
        negotiation.sop_class_uid = extended.sop_class_uid
        negotiation.service_class_application_information = extended.information
        items.append(negotiation)
    return items


def _common_extended_item(common: CommonExtended) -> SOPClassCommonExtendedNegotiationSubItem:
    item = SOPClassCommonExtendedNegotiationSubItem()
    item.sop_class_uid = common.sop_class_uid
    item.service_class_uid = common.service_class_uid
    item.related_general_sop_class_identification = list(common.related)
    return item


def _user(items: list[Any]) -> bytes:
    user = UserInformationItem()
    user.user_data = items
    return bytes(user.encode())


def _whole(kind: Kind, version: int, called: str, calling: str, parts: list[bytes]) -> bytes:
    titles = [each.encode("ascii", "replace").ljust(16)[:16] for each in (called, calling)]
    body = _FIXED.pack(version, *titles) + b"".join(parts)
    return HEADER.pack(kind, len(body)) + body
