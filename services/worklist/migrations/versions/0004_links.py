"""Links of studies by hand; the bytes of messages go after a time."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

row_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
time = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "study_links",
        sa.Column("id", row_id, primary_key=True, autoincrement=True),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("study_instance_uid", sa.String(64), nullable=False),
        sa.Column("order_id", row_id, sa.ForeignKey("orders.id"), nullable=False),
        sa.Column("act", sa.String(6), nullable=False),
        sa.Column("who", sa.String(80), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("matched_by", sa.String(10), nullable=True),
        sa.Column("at", time, nullable=False),
    )
    op.create_index("study_links_study", "study_links", ["tenant", "study_instance_uid"])
    op.create_index("study_links_order", "study_links", ["order_id"])
    op.add_column("messages", sa.Column("removed_size", sa.Integer, nullable=True))
    op.drop_index("messages_received", "messages")
    kept = sa.text("removed_size IS NULL")
    op.create_index("messages_kept", "messages", ["received_at"], postgresql_where=kept, sqlite_where=kept)
