"""Which presentation contexts the port accepts.

Verification, storage of whatever kind the site takes, and storage commitment from archives that report what we asked.
"""

from collections.abc import Collection, Sequence
from functools import cache
from typing import Final

from libs.dimse import commitment
from libs.dimse.negotiation import (
    ABSTRACT_SYNTAX_NOT_SUPPORTED,
    TRANSFER_SYNTAXES_NOT_SUPPORTED,
    USER_REJECTION,
    Context,
    Proposed,
    RefusedContext,
    Role,
)

VERIFICATION: Final = "1.2.840.10008.1.1"
#: Implicit VR Little Endian, which every proposal must have (PS3.5 section 10.1), then the other plain ones.
_PLAIN: Final = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2")
#: Transfer syntaxes of PS3.6 table A-1, retired ones included, are those below this one...
_STANDARD_SYNTAX: Final = "1.2.840.10008.1.2"
#: ... but for those of media types and of video streams, in which no dataset is sent in a C-STORE.
_NO_SYNTAX: Final = ("1.2.840.10008.1.2.6.", "1.2.840.10008.1.2.7.")
#: Abstract syntaxes of the standard that are not storage: services that this port does not offer. PS3.6 table A-1.
_NOT_STORAGE: Final = (
    *("1.2.840.10008.1.", "1.2.840.10008.3.", "1.2.840.10008.5.1.1.", "1.2.840.10008.5.1.4.1.2."),
    *("1.2.840.10008.5.1.4.3", "1.2.840.10008.5.1.4.20.", "1.2.840.10008.5.1.4.31", "1.2.840.10008.5.1.4.32"),
    *("1.2.840.10008.5.1.4.33", "1.2.840.10008.5.1.4.34.", "1.2.840.10008.5.1.4.37.", "1.2.840.10008.5.1.4.38."),
    *("1.2.840.10008.5.1.4.39.", "1.2.840.10008.5.1.4.41", "1.2.840.10008.5.1.4.42", "1.2.840.10008.5.1.4.43."),
    *("1.2.840.10008.5.1.4.44.", "1.2.840.10008.5.1.4.45."),
    *("1.2.840.10008.5.1.4.1.1.200.4", "1.2.840.10008.5.1.4.1.1.200.5", "1.2.840.10008.5.1.4.1.1.200.6"),
    *("1.2.840.10008.5.1.4.1.1.201.2", "1.2.840.10008.5.1.4.1.1.201.3", "1.2.840.10008.5.1.4.1.1.201.4"),
    *("1.2.840.10008.5.1.4.1.1.201.5", "1.2.840.10008.5.1.4.1.1.201.6"),
)
#: Kinds that the prefixes above would hide although they are stored.
_STORAGE: Final = ("1.2.840.10008.5.1.4.34.7", "1.2.840.10008.5.1.4.34.10", "1.2.840.10008.5.1.4.39.1")


def only_echo(proposed: Sequence[Proposed]) -> bool:
    """Tell whether a caller asks for nothing but Verification."""
    return all(each.abstract_syntax == VERIFICATION for each in proposed)


def reports(proposed: Sequence[Proposed], roles: Sequence[Role]) -> bool:
    """Tell whether a caller asks to report storage commitment.

    It has to propose itself as SCP (PS3.7 section D.3.3.4). Not all do: who selects no role is taken to, as whoever
    wants to ask us for commitment gets no other answer on it than that this is no operation of ours.
    """
    if all(each.abstract_syntax != commitment.SOP_CLASS for each in proposed):
        return False
    selected = [role for role in roles if role.sop_class_uid == commitment.SOP_CLASS]
    return not selected or any(role.scp for role in selected)


def agreed_roles(roles: Sequence[Role], *, report: bool) -> tuple[Role, ...]:
    """Answer role selection: who may report is SCP of storage commitment and nothing else; for the rest the default."""
    if report and any(role.sop_class_uid == commitment.SOP_CLASS and role.scp for role in roles):
        return (Role(commitment.SOP_CLASS, scu=False, scp=True),)
    return ()


def is_storage(abstract_syntax: str) -> bool:
    """Tell whether an abstract syntax is a storage SOP class, as private and unknown ones are taken to be."""
    return abstract_syntax in _STORAGE or not abstract_syntax.startswith(_NOT_STORAGE)


def choose(
    proposed: Sequence[Proposed], *, store: bool, standard: Collection[str] | None, report: bool = False
) -> tuple[Context | RefusedContext, ...]:
    """Answer each presentation context.

    Parameters
    ----------
    store
        Whether the caller may store; if not, no storage is accepted.
    standard
        Storage SOP classes that are accepted; None for any, private and unknown ones included. Then a context of which
        no transfer syntax is known is accepted too: its objects are kept as they come.
    report
        Whether the caller may report storage commitment, and asks to.
    """
    return tuple(_answer(each, store=store, standard=standard, report=report) for each in proposed)


def _answer(
    proposed: Proposed, *, store: bool, standard: Collection[str] | None, report: bool
) -> Context | RefusedContext:
    if proposed.abstract_syntax == VERIFICATION:
        known = [each for each in proposed.transfer_syntaxes if each in _PLAIN]
        return _taken(proposed, known)
    if proposed.abstract_syntax == commitment.SOP_CLASS and report:
        return _taken(proposed, [each for each in proposed.transfer_syntaxes if each in commitment.TRANSFER_SYNTAXES])
    if not proposed.abstract_syntax or not is_storage(proposed.abstract_syntax):
        return RefusedContext(proposed.id, ABSTRACT_SYNTAX_NOT_SUPPORTED)
    if not store:
        return RefusedContext(proposed.id, USER_REJECTION)
    if standard is not None and proposed.abstract_syntax not in standard:
        return RefusedContext(proposed.id, ABSTRACT_SYNTAX_NOT_SUPPORTED)
    known = [each for each in proposed.transfer_syntaxes if _is_known(each)]
    private = [each for each in proposed.transfer_syntaxes if each and not each.startswith("1.2.840.10008.")]
    return _taken(proposed, known or (private if standard is None else []))


def _taken(proposed: Proposed, syntaxes: Sequence[str]) -> Context | RefusedContext:
    # The first that is proposed: objects are kept as they come, so the sender's preference is ours.
    if not syntaxes:
        return RefusedContext(proposed.id, TRANSFER_SYNTAXES_NOT_SUPPORTED)
    return Context(proposed.id, proposed.abstract_syntax, syntaxes[0])


def _is_known(transfer_syntax: str) -> bool:
    below = transfer_syntax == _STANDARD_SYNTAX or transfer_syntax.startswith(_STANDARD_SYNTAX + ".")
    return below and not transfer_syntax.startswith(_NO_SYNTAX)


@cache
def standard_classes() -> frozenset[str]:
    """List the storage SOP classes of the Standard, retired ones included: PS3.6 table A-1."""
    from pydicom._uid_dict import UID_dictionary  # noqa: PLC0415 - few sites ask for it; the table has no other name

    return frozenset(uid for uid, (_, kind, *_) in UID_dictionary.items() if kind == "SOP Class" and is_storage(uid))
