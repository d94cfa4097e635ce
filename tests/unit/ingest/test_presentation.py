import pytest

from libs.dimse.commitment import SOP_CLASS as COMMITMENT
from libs.dimse.negotiation import ABSTRACT_SYNTAX_NOT_SUPPORTED as NO_CLASS
from libs.dimse.negotiation import TRANSFER_SYNTAXES_NOT_SUPPORTED as NO_SYNTAX
from libs.dimse.negotiation import USER_REJECTION, Context, Proposed, RefusedContext, Role
from services.ingest.presentation import (
    VERIFICATION,
    agreed_roles,
    choose,
    is_storage,
    only_echo,
    reports,
    standard_classes,
)

pytestmark = pytest.mark.unit
CT = "1.2.840.10008.5.1.4.1.1.2"
PRIVATE = "1.3.12.2.1107.5.9.1"
IMPLICIT, JPEG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.4.50"


@pytest.mark.parametrize(
    ("uid", "storage"),
    [
        ("1.2.840.10008.5.1.4.1.1.2", True),
        ("1.2.840.10008.5.1.4.1.1.88.11", True),
        ("1.2.840.10008.5.1.4.1.1.481.5", True),
        ("1.2.840.10008.5.1.4.34.7", True),
        ("1.3.12.2.1107.5.9.1", True),
        ("1.2.840.10008.5.1.4.1.1.999.1", True),
        ("1.2.840.10008.1.1", False),
        ("1.2.840.10008.1.20.1", False),
        ("1.2.840.10008.5.1.4.31", False),
        ("1.2.840.10008.5.1.4.1.2.2.1", False),
        ("1.2.840.10008.3.1.2.3.3", False),
    ],
)
def test_which_classes_are_storage(uid: str, storage: bool) -> None:
    assert is_storage(uid) == storage


@pytest.mark.parametrize(
    ("abstract", "syntaxes", "any_class", "standard_class"),
    [
        (CT, (JPEG, IMPLICIT), JPEG, JPEG),
        (CT, ("1.2.3.4", IMPLICIT), IMPLICIT, IMPLICIT),
        (CT, ("1.2.3.4",), "1.2.3.4", NO_SYNTAX),
        (CT, ("1.2.840.10008.1.2.6.1",), NO_SYNTAX, NO_SYNTAX),
        (CT, ("",), NO_SYNTAX, NO_SYNTAX),
        (PRIVATE, (IMPLICIT,), IMPLICIT, NO_CLASS),
        ("", (IMPLICIT,), NO_CLASS, NO_CLASS),
        ("1.2.840.10008.5.1.4.31", (IMPLICIT,), NO_CLASS, NO_CLASS),
        (VERIFICATION, (JPEG, IMPLICIT), IMPLICIT, IMPLICIT),
        (VERIFICATION, (JPEG,), NO_SYNTAX, NO_SYNTAX),
    ],
)
def test_what_is_taken(
    abstract: str, syntaxes: tuple[str, ...], any_class: str | int, standard_class: str | int
) -> None:
    proposed = [Proposed(7, abstract, syntaxes)]
    for standard, expected in ((None, any_class), (standard_classes(), standard_class)):
        wanted = RefusedContext(7, expected) if isinstance(expected, int) else Context(7, abstract, expected)
        assert choose(proposed, store=True, standard=standard) == (wanted,)


def test_who_may_not_store_may_say_hello() -> None:
    proposed = [Proposed(1, CT, (IMPLICIT,)), Proposed(3, VERIFICATION, (IMPLICIT,))]
    assert choose(proposed, store=False, standard=None) == (
        RefusedContext(1, USER_REJECTION),
        Context(3, VERIFICATION, IMPLICIT),
    )
    assert not only_echo(proposed)
    assert only_echo(proposed[1:])


def test_the_standard_has_its_storage_classes() -> None:
    assert CT in standard_classes()
    assert VERIFICATION not in standard_classes()


SCP, BOTH, SCU = (Role(COMMITMENT, scu=scu, scp=scp) for scu, scp in ((False, True), (True, True), (True, False)))
OF_ANOTHER = Role(CT, scu=False, scp=True)


@pytest.mark.parametrize(
    ("roles", "asks", "answer"),
    [
        ((), True, ()),
        ((SCP,), True, (SCP,)),
        ((BOTH,), True, (SCP,)),
        ((SCU,), False, ()),
        ((Role(COMMITMENT, scu=False, scp=False),), False, ()),
        ((OF_ANOTHER,), True, ()),
        ((OF_ANOTHER, SCP), True, (SCP,)),
        ((OF_ANOTHER, SCU), False, ()),
    ],
)
def test_who_proposes_to_answer_commitment_asks_to_report(
    roles: tuple[Role, ...], asks: bool, answer: tuple[Role, ...]
) -> None:
    proposed = [Proposed(1, CT, (IMPLICIT,)), Proposed(3, COMMITMENT, (IMPLICIT,))]
    assert reports(proposed, roles) == asks
    assert not reports(proposed[:1], roles)
    assert agreed_roles(roles, report=asks) == answer
    assert agreed_roles(roles, report=False) == ()


@pytest.mark.parametrize(
    ("syntaxes", "taken"),
    [((JPEG, IMPLICIT), IMPLICIT), (("1.2.840.10008.1.2.1", IMPLICIT), "1.2.840.10008.1.2.1"), ((JPEG,), None)],
)
@pytest.mark.parametrize("store", [True, False])
def test_reports_are_taken_in_what_can_be_read(syntaxes: tuple[str, ...], taken: str | None, store: bool) -> None:
    proposed = [Proposed(3, COMMITMENT, syntaxes)]
    expected = RefusedContext(3, NO_SYNTAX) if taken is None else Context(3, COMMITMENT, taken)
    assert choose(proposed, store=store, standard=None, report=True) == (expected,)
    assert choose(proposed, store=store, standard=None) == (RefusedContext(3, NO_CLASS),)
