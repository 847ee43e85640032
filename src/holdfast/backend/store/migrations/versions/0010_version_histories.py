"""How a version lists its parts, files that it takes over from others, and what was collected."""

import sqlalchemy as sa
from alembic import op

__all__ = ["downgrade", "upgrade"]

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("datasets", sa.Column("manifest", sa.Text(), nullable=False, server_default="adds"))
    op.add_column("datasets", sa.Column("collected_at", sa.BigInteger(), nullable=True))
    op.create_table(
        "dataset_taken_files",
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("file", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["dataset"], ["datasets.id"]),
        sa.ForeignKeyConstraint(["file"], ["dataset_files.id"]),
        sa.PrimaryKeyConstraint("dataset", "position"),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("dataset_taken_files")
    op.drop_column("datasets", "collected_at")
    op.drop_column("datasets", "manifest")
