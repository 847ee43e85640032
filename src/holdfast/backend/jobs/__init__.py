"""The durable engine: jobs, their steps and schedules, on the metadata database. It knows no pipeline."""

from holdfast.backend.jobs import tables

__all__ = ["tables"]
