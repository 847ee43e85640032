"""Alembic migrations of the metadata database. A new revision: see docs/decisions/0002-migrations.md."""

__all__ = ["HEAD"]

HEAD = "0010"
"""The revision that this program needs; a test holds it to the newest file in `versions`."""
