"""Alembic migrations of the metadata database. A new revision: see docs/decisions/0002-migrations.md."""

__all__ = ["HEAD"]

HEAD = "0014"
"""The revision that this program needs; a test holds it to the newest file in `versions`."""
