"""Where a project keeps things, and what it does by the clock."""

from datetime import UTC, datetime
from typing import Any, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from holdfast.backend.settings.base import POSTGRES, REDIS, S3, Model, PlacedError, PlaceUrl, sqlite_or

__all__ = ["BackupSettings", "OnlineSettings", "ScheduleSettings", "StorageSettings"]


class ScheduleSettings(Model):
    """A job that workers do at the times of a cron line, in the project's time zone."""

    cron: str
    job: str
    arguments: dict[str, Any] = {}


class StorageSettings(Model):
    """Where records and blobs live: `database` is `sqlite` or the URL of a PostgreSQL, `blobs` is `local` or of S3.

    Passwords are better left out: PGPASSWORD, ~/.pgpass and AWS_ACCESS_KEY_ID are honoured.
    """

    database: SecretStr = SecretStr("sqlite")
    blobs: str = "local"

    @field_validator("database", mode="before")
    @classmethod
    def _database(cls, value: object) -> object:
        said = "`storage.database` is `sqlite` or a URL such as postgresql://user@host:5432/database"
        return sqlite_or(POSTGRES, value, said)

    @field_validator("blobs")
    @classmethod
    def _blobs(cls, value: str) -> str:
        if value != "local" and not S3.fullmatch(value):
            raise ValueError("`storage.blobs` is `local` or a URL such as s3://bucket/folder")
        return value


class BackupSettings(Model):
    """Where backups go, when (a cron line in the project's time zone), and how many are kept; None: all."""

    to: PlaceUrl | None = None
    schedule: str | None = None
    keep: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _scheduled(self) -> Self:
        if self.schedule is None:
            return self
        from cronsim import CronSim, CronSimError

        try:
            CronSim(self.schedule, datetime(2000, 1, 1, tzinfo=UTC))
        except CronSimError as error:
            raise PlacedError(
                ("backup", "schedule"), f"{self.schedule!r} is no cron line such as `0 3 * * *`: {error}"
            ) from error
        if self.to is None:
            raise PlacedError(("backup", "schedule"), "a schedule needs a place: `backup.to`")
        return self


class OnlineSettings(Model):
    """Where online vectors live: `sqlite` (embedded) or the URL of a Redis, which may hold a password."""

    store: SecretStr = SecretStr("sqlite")

    @field_validator("store", mode="before")
    @classmethod
    def _store(cls, value: object) -> object:
        return sqlite_or(REDIS, value, "`online.store` is `sqlite` or a URL such as redis://localhost:6379/0")

    @model_validator(mode="before")
    @classmethod
    def _mapping(cls, value: object) -> object:
        if not isinstance(value, dict):
            raise ValueError("`online` is a mapping such as {store: sqlite}")  # noqa: TRY004 - pydantic wants a ValueError
        return value
