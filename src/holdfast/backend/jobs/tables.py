"""The room's tables."""

import sqlalchemy as sa

from holdfast.backend.store import metadata

__all__ = ["jobs", "schedules", "steps"]

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("arguments", sa.Text, nullable=False),
    sa.Column("key", sa.Text),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("due_at", sa.BigInteger, nullable=False),
    sa.Column("started_at", sa.BigInteger),
    sa.Column("ended_at", sa.BigInteger),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("max_attempts", sa.Integer, nullable=False),
    sa.Column("timeout", sa.BigInteger),
    sa.Column("cancelled", sa.Boolean, nullable=False),
    sa.Column("cause", sa.Text),
    sa.Column("program", sa.Text, nullable=False),
    sa.Column("done", sa.BigInteger, nullable=False),
    sa.Column("total", sa.BigInteger, nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("result", sa.Text),
    sa.Column("error", sa.Text),
    sa.Index("ix_jobs_key", "key", unique=True),
    sa.Index("ix_jobs_state_due", "state", "due_at"),
)
"""One row a job. `key` is unique among the jobs that ever were: a message that is sent twice is one job."""

steps = sa.Table(
    "job_steps",
    metadata,
    sa.Column("job", sa.Text, sa.ForeignKey("jobs.id"), primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("began_at", sa.BigInteger, nullable=False),
    sa.Column("ended_at", sa.BigInteger, nullable=False),
    sa.Column("result", sa.Text, nullable=False),
)
"""One row a step that is done, with its result: a job that begins again does not do it again."""

schedules = sa.Table(
    "schedules",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("cron", sa.Text, nullable=False),
    sa.Column("next_at", sa.BigInteger, nullable=False),
)
"""When each schedule is due next; its jobs have the key (schedule, due time), so none is sent twice."""
