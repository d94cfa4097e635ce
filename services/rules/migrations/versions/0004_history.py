"""What rules saw of each study, the definitions of the time, and replays of it.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_ROW_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "history",
        sa.Column("study_id", _ROW_ID, sa.ForeignKey("studies.id"), primary_key=True, autoincrement=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("record", sa.JSON(), nullable=False),
    )
    op.create_index("history_decided", "history", ["decided_at", "study_id"])
    op.create_table(
        "definitions",
        sa.Column("version", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
    )
    op.create_table(
        "replays",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("asked_by", sa.String(63), nullable=False),
        sa.Column("state", sa.String(9), nullable=False),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("against", sa.String(8), nullable=False),
        sa.Column("network_version", sa.Integer(), nullable=False),
        sa.Column("studies_done", sa.BigInteger(), nullable=False),
        sa.Column("studies_total", sa.BigInteger(), nullable=False),
        sa.Column("alive_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("results", sa.Text(), nullable=True),
    )
    op.create_index("replays_asked", "replays", ["asked_at"])
