"""What each trigger has set of a tag, and not only what counts.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

row_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
#: By rank: each has a million of them.
TRIGGERS = ("timer", "procedure", "order", "amended", "study", "series", "instance")


def upgrade() -> None:
    # Not renamed: on PostgreSQL its primary key would keep the name.
    op.execute("CREATE TABLE tags_before AS SELECT * FROM tags")
    op.drop_table("tags")
    op.create_table(
        "tags",
        sa.Column("study_id", row_id, sa.ForeignKey("studies.id"), primary_key=True),
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("trigger", sa.String(16), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("rule", sa.Text, nullable=False),
        sa.Column("rank", sa.Integer, nullable=False),
        sa.Column("set_at", sa.DateTime(timezone=True), nullable=False),
    )
    which = " ".join(f"WHEN {place} THEN '{trigger}'" for place, trigger in enumerate(TRIGGERS))
    op.execute(
        "INSERT INTO tags (study_id, name, trigger, value, rule, rank, set_at) "  # noqa: S608 - words of this file only
        f"SELECT study_id, name, CASE rank / 1000000 {which} END, value, rule, rank, set_at FROM tags_before"
    )
    op.drop_table("tags_before")
