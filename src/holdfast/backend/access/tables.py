"""The table of API keys."""

import sqlalchemy as sa

from holdfast.backend.store import metadata

__all__ = ["api_keys"]

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("hash", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger),
    sa.Column("revoked_at", sa.BigInteger),
)
"""One row a key that was ever made; a revoked one stays. `hash` is the SHA-256 of the key, which is nowhere."""
