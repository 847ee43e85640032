"""Outcomes in the order in which they were told."""

import sqlalchemy as sa
from alembic import op

__all__ = ["downgrade", "upgrade"]

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("outcomes", sa.Column("told", sa.BigInteger(), nullable=False, server_default="0"))
    op.create_index(op.f("ix_outcomes_told"), "outcomes", ["told"], unique=False)


def downgrade() -> None:
    """Undo."""
    op.drop_index(op.f("ix_outcomes_told"), table_name="outcomes")
    op.drop_column("outcomes", "told")
