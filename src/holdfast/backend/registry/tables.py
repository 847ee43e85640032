"""The tables of the registry, and records as rows."""

from dataclasses import fields
from typing import Any

import sqlalchemy as sa

from holdfast.backend.records import ModelVersion, Run
from holdfast.backend.store import metadata

__all__ = ["archive", "model_versions", "run_of", "runs", "values_of", "version_of", "version_order"]

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("target", sa.Text, nullable=False, index=True),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.Column("ended_at", sa.BigInteger),
    sa.Column("state", sa.Text, nullable=False, index=True),
    sa.Column("dataset", sa.Text, nullable=False),
    sa.Column("feature_set", sa.Text, nullable=False),
    sa.Column("matrix", sa.Text, nullable=False),
    sa.Column("parameters", sa.JSON, nullable=False),
    sa.Column("metrics", sa.JSON, nullable=False),
    sa.Column("environment", sa.JSON, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("error", sa.Text, nullable=False),
    sa.Column("fingerprint", sa.Text, nullable=False, index=True),
)
model_versions = sa.Table(
    "model_versions",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("target", sa.Text, nullable=False, index=True),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("task", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.Column("run", sa.Text, nullable=False, index=True),
    sa.Column("dataset", sa.Text, nullable=False),
    sa.Column("feature_set", sa.Text, nullable=False),
    sa.Column("parents", sa.JSON, nullable=False),
    sa.Column("algorithm", sa.Text, nullable=False),
    sa.Column("parameters", sa.JSON, nullable=False),
    sa.Column("metrics", sa.JSON, nullable=False),
    sa.Column("serving", sa.Text, nullable=False),
    sa.Column("files", sa.JSON, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.UniqueConstraint("model", "version"),
)
archive = sa.Table(
    "archived_models",
    metadata,
    sa.Column("id", sa.Text, sa.ForeignKey("model_versions.id"), primary_key=True),
    sa.Column("at", sa.BigInteger, nullable=False),
)


def values_of(record: Run | ModelVersion) -> dict[str, Any]:
    """A record as column values."""
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def run_of(row: sa.Row[Any]) -> Run:
    """A row of `runs` as a record."""
    return Run(**row._asdict())


def version_of(row: sa.Row[Any]) -> ModelVersion:
    """A row of `model_versions` as a record."""
    return ModelVersion(**{**row._asdict(), "parents": tuple(row.parents)})


def version_order(version: str) -> tuple[int, int]:
    """`v1.10` as (1, 10), to sort by."""
    major, minor = version.removeprefix("v").split(".")
    return int(major), int(minor)
