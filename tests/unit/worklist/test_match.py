"""Which order a study belongs to."""

from datetime import datetime, timedelta

import pytest

from services.worklist.match import Came, Candidate, Found, match

AT = datetime(2026, 11, 20, 12)  # noqa: DTZ001 - by the clock of a site


def came(
    uid: str = "1.9", accession: str = "", patient: str = "100", modality: str = "CT", issuer: str = "", site: str = "A"
) -> Came:
    return Came(uid, accession, patient, issuer, site, modality, AT)


def order(
    number: int = 1,
    uid: str = "1.1",
    accession: str = "A1",
    patient: str = "100",
    hours: int = 0,
    issuer: str = "HIS",
    site: str = "A",
    **more: bool,
) -> Candidate:
    start = AT + timedelta(hours=hours)
    return Candidate(number, uid, accession, {(patient, issuer)}, site, {"CT"}, start, **more)


@pytest.mark.parametrize(
    ("study", "orders", "found"),
    [
        (came("1.1"), [order()], Found(1, "study-uid", False)),
        (came("1.1", patient="200"), [order()], Found(1, "study-uid", True)),
        (came("1.1", "A2"), [order(), order(2, "1.2", "A2")], Found(1, "study-uid", False)),
        (came(accession="A1"), [order()], Found(1, "accession", False)),
        (came(accession="A1"), [order(), order(2, "1.2", patient="200")], Found(1, "accession", False)),
        (came(accession="A1", patient=""), [order(), order(2, "1.2")], None),
        (came(accession="A1"), [order(over=True), order(2, "1.2")], Found(2, "accession", False)),
        (came(), [order()], Found(1, "patient", False)),
        (came(), [order(hours=25)], None),
        (came(), [order(hours=24)], Found(1, "patient", False)),
        (came(), [order(hours=-24)], Found(1, "patient", False)),
        # No number is none that two could share.
        (came(modality="MR"), [order(accession="")], None),
        (came(), [order(), order(2, "1.2", "A2")], None),
        (came(), [order(taken=True), order(2, "1.2", "A2")], Found(2, "patient", False)),
        (came(modality="MR"), [order()], None),
        (came(accession="A9"), [order()], None),
        (came(patient=""), [order(patient="")], None),
        # Sites count by themselves: the same numbers are not the same patients, or orders.
        (came(site="B"), [order()], None),
        (came(site="B", issuer="HIS"), [order()], Found(1, "patient", False)),
        (came(site="B", issuer="HIS"), [order(issuer="")], None),
        (came(issuer="LAB"), [order()], None),
        (came(issuer="HIS"), [order(issuer="")], Found(1, "patient", False)),
        (came(), [order(), order(2, "1.2", "A2", site="B")], Found(1, "patient", False)),
        (came(accession="A1", patient="200", site="B"), [order()], None),
        (came(accession="A1", patient="200"), [order()], Found(1, "accession", True)),
        (came(accession="A1", site="B"), [order()], Found(1, "accession", False)),
        (came(accession="A1", issuer="LAB", site="B"), [order()], None),
        (came(accession="A1", issuer="LAB"), [order()], Found(1, "accession", True)),
        (came(accession="A1", patient="200"), [order(), order(2, "1.2", site="B")], Found(1, "accession", True)),
        (came("1.1", issuer="LAB", site="B"), [order()], Found(1, "study-uid", True)),
        (came(), [], None),
    ],
)
def test_a_study_meets_its_order(study: Came, orders: list[Candidate], found: Found | None) -> None:
    assert match(study, orders) == found
    assert match(study, orders[::-1]) == found
