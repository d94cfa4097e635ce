"""What is proposed and what is agreed when an association begins. PS3.8 section 7.1, PS3.7 annex D.3.3."""

from dataclasses import dataclass
from typing import Final

#: PS3.7 section A.2.1, the only one there is.
APPLICATION_CONTEXT: Final = "1.2.840.10008.3.1.1.1"
#: Presentation context results, PS3.8 table 9-18.
USER_REJECTION: Final = 1
ABSTRACT_SYNTAX_NOT_SUPPORTED: Final = 3
TRANSFER_SYNTAXES_NOT_SUPPORTED: Final = 4


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
