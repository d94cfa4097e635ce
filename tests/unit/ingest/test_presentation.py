import pytest

from libs.dimse.negotiation import ABSTRACT_SYNTAX_NOT_SUPPORTED as NO_CLASS
from libs.dimse.negotiation import TRANSFER_SYNTAXES_NOT_SUPPORTED as NO_SYNTAX
from libs.dimse.negotiation import USER_REJECTION, Context, Proposed, RefusedContext
from services.ingest.presentation import VERIFICATION, choose, is_storage, only_echo, standard_classes

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
