"""SQL tables of the features room."""

import sqlalchemy as sa

from holdfast.backend.store.database import metadata

__all__ = ["feature_sets", "matrices"]

feature_sets = sa.Table(
    "feature_sets",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, index=True),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.Column("dataset", sa.Text, nullable=False),
    sa.Column("definitions", sa.JSON, nullable=False),
)
matrices = sa.Table(
    "matrices",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.Column("target", sa.Text, nullable=False, index=True),
    sa.Column("dataset", sa.Text, nullable=False),
    sa.Column("feature_set", sa.Text, nullable=False),
    sa.Column("period", sa.Text, nullable=False),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
)
