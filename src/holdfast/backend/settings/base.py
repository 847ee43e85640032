"""What all models of the project file share."""

import re
from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from holdfast.errors import nearest

__all__ = ["POSTGRES", "REDIS", "S3", "Model", "Names", "PlaceUrl", "PlacedError", "sqlite_or", "unknown"]

POSTGRES = re.compile(r"postgresql://\S+/[^\s/?]+(\?\S*)?")
S3 = re.compile(r"s3://[^\s/?]+(/[^\s?]+)?/?(\?\S*)?")
REDIS = re.compile(r"rediss?://[^\s/]+(/\d+)?(\?\S*)?")


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]
"""One name or a list of names."""


class Model(BaseModel):
    """Frozen once read; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class PlacedError(ValueError):
    """A validation error of a place that pydantic does not know."""

    def __init__(self, place: tuple[str, ...], message: str) -> None:
        self.place = place
        super().__init__(message)


def unknown(what: str, name: str, names: Iterable[object]) -> str:
    """That there is no such name, and the nearest that there is."""
    hint = nearest(name, names)
    return f"{what} {name!r}; {hint[0].lower()}{hint[1:].rstrip('.')}"


def sqlite_or(url: re.Pattern[str], value: object, said: str) -> object:
    """`value` if it is `sqlite` or such a URL; the error never repeats it, for it may hold a password."""
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if not isinstance(text, str) or not (text == "sqlite" or url.fullmatch(text)):
        raise ValueError(said)
    return value


def _place(value: str) -> str:
    if "://" in value and not S3.fullmatch(value):
        raise ValueError("a place is a folder, or a URL such as s3://bucket/folder")
    return value


PlaceUrl = Annotated[str, Field(min_length=1), AfterValidator(_place)]
"""A folder, relative to the project's, or a bucket."""
