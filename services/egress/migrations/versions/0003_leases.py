"""Instances are leased, not deliveries; places at destinations; what a person orders; what a destination accepts.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    with op.batch_alter_table("deliveries") as deliveries:
        deliveries.drop_column("lease_owner")
        deliveries.drop_column("lease_until")
        deliveries.alter_column("state", type_=sa.String(16), existing_type=sa.String(8), existing_nullable=False)
        deliveries.add_column(sa.Column("ordered", sa.String(16), nullable=True))
        deliveries.add_column(sa.Column("ordered_by", sa.Text, nullable=True))
        deliveries.add_column(sa.Column("ordered_at", _TIME, nullable=True))
    op.add_column("items", sa.Column("leased_by", sa.String(128), nullable=True))
    op.create_index("items_leased", "items", ["leased_by"])
    op.add_column("destinations", sa.Column("paused_by", sa.Text, nullable=True))
    op.add_column("destinations", sa.Column("paused_at", _TIME, nullable=True))
    op.create_table(
        "workers",
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("alive_until", _TIME, nullable=False),
    )
    op.create_table(
        "places",
        sa.Column("destination", sa.String(63), primary_key=True),
        sa.Column("worker", sa.String(128), primary_key=True),
        sa.Column("number", sa.Integer, nullable=False),
    )
    op.create_table(
        "contexts",
        sa.Column("destination", sa.String(63), primary_key=True),
        sa.Column("sop_class_uid", sa.String(64), primary_key=True),
        sa.Column("transfer_syntax_uid", sa.String(64), primary_key=True),
        sa.Column("accepted", sa.Boolean, nullable=False),
        sa.Column("seen_at", _TIME, nullable=False),
    )
