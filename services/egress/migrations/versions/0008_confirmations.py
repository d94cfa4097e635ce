"""What destinations confirmed, what they were asked, and what comparing with them found.

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("deliveries", sa.Column("confirm_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("deliveries", sa.Column("confirm_asks", sa.Integer, nullable=False, server_default="0"))
    op.add_column("deliveries", sa.Column("confirm_problem", sa.Text, nullable=True))
    to_confirm = sa.text("confirm_at IS NOT NULL")
    op.create_index(
        "deliveries_to_confirm",
        "deliveries",
        ["destination", "confirm_at"],
        postgresql_where=to_confirm,
        sqlite_where=to_confirm,
    )
    for name in ("committed_at", "found_at", "missing_at"):
        op.add_column("items", sa.Column(name, sa.DateTime(timezone=True), nullable=True))
    op.add_column("items", sa.Column("misses", sa.Integer, nullable=False, server_default="0"))
    missing = sa.text("missing_at IS NOT NULL")
    op.create_index("items_missing", "items", ["missing_at"], postgresql_where=missing, sqlite_where=missing)
    op.create_table(
        "questions",
        sa.Column("transaction_uid", sa.String(64), primary_key=True),
        sa.Column("delivery_id", sa.String(32), sa.ForeignKey("deliveries.id"), nullable=False),
        sa.Column("node", sa.Text, nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("compares", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=True),
    )
    op.create_index("questions_of_delivery", "questions", ["delivery_id"])
    op.create_table(
        "asked",
        sa.Column("transaction_uid", sa.String(64), sa.ForeignKey("questions.transaction_uid"), primary_key=True),
        sa.Column(
            "item", sa.BigInteger().with_variant(sa.Integer, "sqlite"), sa.ForeignKey("items.id"), primary_key=True
        ),
        sa.Column("attempt", sa.Integer, nullable=False),
    )
    op.create_index("asked_of_item", "asked", ["item"])
    op.create_table(
        "comparisons",
        sa.Column("destination", sa.String(63), primary_key=True),
        sa.Column("worker", sa.String(128), nullable=True),
        sa.Column("began_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("touched_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("covered_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("studies", sa.Integer, nullable=False, server_default="0"),
        sa.Column("instances", sa.Integer, nullable=False, server_default="0"),
        sa.Column("missing", sa.Integer, nullable=False, server_default="0"),
        sa.Column("unknown", sa.Integer, nullable=False, server_default="0"),
        sa.Column("whole", sa.Boolean, nullable=False, server_default=sa.true()),
        sa.Column("problem", sa.Text, nullable=True),
    )
