"""A patient's identifier that nobody is said to have issued is the site's own.

Where one was used at several sites, each gets a patient of its own with what its orders have said of it; what was said
of the patient alone, and merges, stay with the first of them, as nothing tells where they came from. Items are made
anew when their order or patient is next spoken of.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_KEY = "patients_business_key"
_PATIENTS = sa.table(
    "patients",
    *map(sa.column, ("id", "tenant", "value", "issuer", "site", "merged_into")),
    sa.column("said", sa.JSON),
    sa.column("changed_at", sa.DateTime(timezone=True)),
)
_ORDERS = sa.table("orders", *map(sa.column, ("id", "tenant", "site", "patient_id")))
_CHANGES = sa.table(
    "changes",
    *map(sa.column, ("source", "message", "part", "kind", "order_id", "patient_id")),
    sa.column("stamp", sa.DateTime(timezone=True)),
    sa.column("body", sa.JSON),
)
_COUNTERS = sa.table("counters", sa.column("name"), sa.column("value"))


def upgrade() -> None:
    with op.batch_alter_table("patients") as patients:
        patients.add_column(sa.Column("site", sa.String(63), nullable=False, server_default=""))
        patients.drop_constraint(_KEY, type_="unique")
        patients.create_unique_constraint(_KEY, ["tenant", "value", "issuer", "site"])
    with op.batch_alter_table("patients") as patients:
        patients.alter_column("site", server_default=None, existing_type=sa.String(63), existing_nullable=False)
    _settle(op.get_bind())


def _settle(connection: sa.Connection) -> None:
    patient, order = _PATIENTS.c, _ORDERS.c
    used = (
        sa.select(patient.id, order.site)
        .distinct()
        .where(patient.id == order.patient_id, patient.issuer == "")
        .order_by(patient.id, order.site)
    )
    sites: dict[int, list[str]] = defaultdict(list)
    for each, site in connection.execute(used):
        sites[each].append(site)
    for each, (first, *others) in sites.items():
        connection.execute(sa.update(_PATIENTS).where(patient.id == each).values(site=first))
        for site in others:
            _part(connection, each, site)
        if others:
            known = connection.execute(sa.select(patient.said).where(patient.id == each)).scalar_one()
            _write(connection, each, {**known, **_said(connection, each, first)})
    # Patients of whom there is no order: the tenant's site, if it has orders of one only.
    own = order.tenant == patient.tenant
    only = sa.select(sa.func.min(order.site)).where(own).scalar_subquery()
    count = sa.select(sa.func.count(sa.distinct(order.site))).where(own).scalar_subquery()
    left = (patient.issuer == "") & (patient.site == "")
    connection.execute(sa.update(_PATIENTS).where(left, count == 1).values(site=only))
    # Else that of whom they were merged into, or who was merged into them.
    other = _PATIENTS.alias().c
    same = ((other.id == patient.merged_into) | (other.merged_into == patient.id)) & (other.site != "")
    theirs = sa.select(sa.func.min(other.site)).where(same).scalar_subquery()
    while connection.execute(sa.update(_PATIENTS).where(left, theirs.is_not(None)).values(site=theirs)).rowcount:
        pass


def _part(connection: sa.Connection, patient: int, site: str) -> None:
    """Give the orders of a site a patient of their own."""
    counted = sa.update(_COUNTERS).where(_COUNTERS.c.name == "rows").values(value=_COUNTERS.c.value + 1)
    new = connection.execute(counted.returning(_COUNTERS.c.value)).scalar_one()
    row = connection.execute(sa.select(_PATIENTS).where(_PATIENTS.c.id == patient)).one()._asdict()
    said = _said(connection, patient, site)
    connection.execute(sa.insert(_PATIENTS).values(row | {"id": new, "site": site, "said": said, "merged_into": None}))
    moved = (_ORDERS.c.patient_id == patient) & (_ORDERS.c.site == site)
    its_changes = _CHANGES.c.order_id.in_(sa.select(_ORDERS.c.id).where(moved))
    connection.execute(sa.update(_CHANGES).where(its_changes).values(patient_id=new))
    connection.execute(sa.update(_ORDERS).where(moved).values(patient_id=new))


def _said(connection: sa.Connection, patient: int, site: str) -> Mapping[str, Any]:
    """Give what the orders of a site say of a patient, of each attribute the newest with its place."""
    change, order = _CHANGES.c, _ORDERS.c
    place = (change.stamp, change.source, change.message, change.part)
    wanted = sa.select(*place, change.body, _PATIENTS.c.said).where(
        order.id == change.order_id,
        order.patient_id == patient,
        order.site == site,
        change.kind == "order",
        _PATIENTS.c.id == order.patient_id,
    )
    found: dict[str, Any] = {}
    for stamp, source, message, part, body, shared in connection.execute(wanted.order_by(*place)):
        at = [stamp.strftime("%Y-%m-%dT%H:%M:%S.%f"), source, message, part]
        about = body["about_patient"]
        found |= {keyword: [at, values] for keyword, values in about.items() if keyword in shared}
    return found


def _write(connection: sa.Connection, patient: int, said: Mapping[str, Any]) -> None:
    connection.execute(sa.update(_PATIENTS).where(_PATIENTS.c.id == patient).values(said=said))
