"""What modalities asked, and what they got."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

row_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
time = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "queries",
        sa.Column("id", row_id, primary_key=True, autoincrement=True),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("site", sa.String(63), nullable=False),
        sa.Column("node", sa.String(63), nullable=False),
        sa.Column("calling_aet", sa.String(16), nullable=False),
        sa.Column("address", sa.String(45), nullable=False),
        sa.Column("keys", sa.JSON, nullable=False),
        sa.Column("identifier", sa.LargeBinary, nullable=False),
        sa.Column("syntax", sa.String(64), nullable=False),
        sa.Column("outcome", sa.String(12), nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("hidden", sa.Integer, nullable=False),
        sa.Column("ignored", sa.JSON, nullable=False),
        sa.Column("replaced", sa.JSON, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("first_at", time, nullable=False),
        sa.Column("at", time, nullable=False),
        sa.Column("times", sa.Integer, nullable=False),
    )
    op.create_index("queries_node", "queries", ["tenant", "node", "id"])
    op.create_index("queries_at", "queries", ["at"])


def downgrade() -> None:
    op.drop_table("queries")
