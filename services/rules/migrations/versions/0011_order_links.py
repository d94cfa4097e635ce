"""Studies that are an order's though no number says so."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "order_links",
        sa.Column("tenant", sa.String(63), primary_key=True),
        sa.Column("study_instance_uid", sa.String(64), primary_key=True),
        sa.Column("order_uid", sa.String(64), primary_key=True),
        sa.Column("bound", sa.Boolean, nullable=False),
    )
    op.create_index("order_links_order", "order_links", ["tenant", "order_uid"])
