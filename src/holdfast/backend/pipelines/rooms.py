"""What the handlers of the whole system work with: the rooms of one project together."""

from pathlib import Path
from typing import Protocol

from holdfast.backend.datasets import Datasets
from holdfast.backend.deployment import Deployments
from holdfast.backend.features import Features
from holdfast.backend.features.groups import Groups
from holdfast.backend.layout import Layout
from holdfast.backend.ports import Blobs, Clock, OnlineStore
from holdfast.backend.registry.registry import Registry
from holdfast.backend.serving.loader import Sources
from holdfast.backend.settings import Settings
from holdfast.backend.store import Store

__all__ = ["Rooms"]


class Rooms(Protocol):
    """The rooms of a project, each made when it is first asked for; `wiring.Services` is one."""

    layout: Layout
    settings: Settings

    @property
    def store(self) -> Store:
        """The metadata database."""
        ...

    @property
    def blobs(self) -> Blobs:
        """Content-addressed bytes."""
        ...

    @property
    def clock(self) -> Clock:
        """The time."""
        ...

    @property
    def datasets(self) -> Datasets:
        """Versions of the data."""
        ...

    @property
    def features(self) -> Features:
        """Feature sets and matrices."""
        ...

    @property
    def groups(self) -> Groups:
        """Feature groups."""
        ...

    @property
    def online_store(self) -> OnlineStore:
        """Online vectors."""
        ...

    @property
    def registry(self) -> Registry:
        """Runs and model versions."""
        ...

    @property
    def deployments(self) -> Deployments:
        """What answers, and what did."""
        ...

    @property
    def sources(self) -> Sources:
        """What a server reads."""
        ...

    @property
    def prediction_log(self) -> Path:
        """The file of the prediction log."""
        ...
