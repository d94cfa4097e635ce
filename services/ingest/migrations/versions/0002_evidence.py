"""Evidence for completion, patients, other content under a known UID, resolutions of the quarantine, retention.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ROW = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    for column in (
        sa.Column("size", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("modalities", sa.JSON(), nullable=True),
        sa.Column("announced", sa.Integer(), nullable=True),
        sa.Column("pending_since", _TIME, nullable=True),
        sa.Column("broken_at", _TIME, nullable=True),
        sa.Column("evidence", sa.JSON(), nullable=True),
        sa.Column("score", sa.Float(), nullable=True),
        sa.Column("decided_version", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("expired_at", _TIME, nullable=True),
    ):
        op.add_column("studies", column)
    for column in (
        sa.Column("state", sa.String(16), nullable=False, server_default="open"),
        sa.Column("resolved_at", _TIME, nullable=True),
        sa.Column("resolved_by", sa.String(128), nullable=True),
        sa.Column("resolution", sa.JSON(), nullable=True),
    ):
        op.add_column("quarantine", column)
    op.create_table(
        "series",
        sa.Column("study_id", _ROW, sa.ForeignKey("studies.id"), primary_key=True),
        sa.Column("series_uid", sa.String(64), primary_key=True),
        sa.Column("modality", sa.String(16), nullable=True),
        sa.Column("instance_count", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("size", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("numbers", sa.JSON(), nullable=True),
        sa.Column("announced", sa.Integer(), nullable=True),
    )
    op.create_table(
        "replaced",
        sa.Column("id", _ROW, primary_key=True, autoincrement=True),
        sa.Column("study_id", _ROW, sa.ForeignKey("studies.id"), nullable=False),
        sa.Column("sop_uid", sa.String(64), nullable=False),
        sa.Column("content_hash", sa.String(64), nullable=False),
        sa.Column("object_key", sa.String(512), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("received_at", _TIME, nullable=False),
        sa.Column("replaced_at", _TIME, nullable=False),
    )
    op.create_index("replaced_study", "replaced", ["study_id"])
    op.create_table(
        "conflicts",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("study_id", _ROW, sa.ForeignKey("studies.id"), nullable=False),
        sa.Column("sop_uid", sa.String(64), nullable=False),
        sa.Column("policy", sa.String(16), nullable=False),
        sa.Column("kept_hash", sa.String(64), nullable=False),
        sa.Column("other_hash", sa.String(64), nullable=False),
        sa.Column("source", sa.JSON(), nullable=False),
        sa.Column("received_at", _TIME, nullable=False),
    )
    op.create_index("conflicts_study", "conflicts", ["study_id"])
    op.create_table(
        "patients",
        sa.Column("id", _ROW, primary_key=True, autoincrement=True),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("issuer", sa.String(64), nullable=False),
        sa.Column("patient_id", sa.String(64), nullable=False),
        sa.Column("name_key", sa.Text(), nullable=False),
        sa.Column("birth_date", sa.String(8), nullable=False),
        sa.Column("study_id", _ROW, sa.ForeignKey("studies.id"), nullable=False),
        sa.Column("seen_at", _TIME, nullable=False),
        sa.UniqueConstraint(
            "tenant", "issuer", "patient_id", "name_key", "birth_date", "study_id", name="patients_identity"
        ),
    )
    op.create_index("patients_study", "patients", ["study_id"])
    op.create_table(
        "flags",
        sa.Column("id", _ROW, primary_key=True, autoincrement=True),
        sa.Column("study_id", _ROW, sa.ForeignKey("studies.id"), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("fields", sa.JSON(), nullable=False),
        sa.Column("other_study_uid", sa.String(64), nullable=False),
        sa.Column("raised_at", _TIME, nullable=False),
        sa.Column("cleared_at", _TIME, nullable=True),
        sa.Column("cleared_by", sa.String(128), nullable=True),
        sa.UniqueConstraint("study_id", "kind", "other_study_uid", name="flags_identity"),
    )
    op.create_table(
        "deliveries",
        sa.Column("tenant", sa.String(63), primary_key=True),
        sa.Column("study_uid", sa.String(64), primary_key=True),
        sa.Column("destination", sa.String(63), primary_key=True),
        sa.Column("wanted_version", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("done_version", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("changed_at", _TIME, nullable=False),
    )
    op.create_table(
        "garbage",
        sa.Column("object_key", sa.String(512), primary_key=True),
        sa.Column("noted_at", _TIME, nullable=False),
    )
    # What is there already: counts and sizes are known, instance numbers are of no use (they would begin anywhere).
    op.execute(
        "INSERT INTO series (study_id, series_uid, instance_count, size)"
        " SELECT study_id, series_uid, count(*), sum(size) FROM instances GROUP BY study_id, series_uid"
    )
    op.execute(
        "UPDATE studies SET size = (SELECT coalesce(sum(series.size), 0) FROM series WHERE study_id = studies.id),"
        " pending_since = CASE WHEN due_at IS NOT NULL THEN last_arrival END"
    )
