"""Puts the rooms together with the outside systems: the only module that names adapters."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.backend.logging import start_logging
from holdfast.backend.settings import Layout, Settings, load

if TYPE_CHECKING:
    from holdfast.backend.adapters.files import FileReader
    from holdfast.backend.datasets import Datasets
    from holdfast.backend.features import Features
    from holdfast.backend.ports import Blobs, Clock
    from holdfast.backend.store import Store

__all__ = ["Services", "file_reader"]


class Services:
    """The rooms of one project, each made when it is first asked for. ConfigError when the project file is wrong."""

    def __init__(self, root: Path) -> None:
        self.layout = Layout(root)
        self.settings: Settings = load(root)
        start_logging(self.layout.logs)

    @cached_property
    def clock(self) -> "Clock":
        """The system's clock."""
        from holdfast.backend.adapters.clock import SystemClock

        return SystemClock()

    @cached_property
    def blobs(self) -> "Blobs":
        """Content-addressed files of the project."""
        from holdfast.backend.adapters.localfs import LocalBlobs

        return LocalBlobs(self.layout.private / "blobs")

    @cached_property
    def store(self) -> "Store":
        """The metadata database, with all its tables."""
        # A room's tables hang on the metadata when its module is loaded.
        import holdfast.backend.datasets
        import holdfast.backend.features  # noqa: F401
        from holdfast.backend.store import Store

        store = Store(self.layout.database_url)
        store.create()
        return store

    @cached_property
    def datasets(self) -> "Datasets":
        """Versions of the data."""
        from holdfast.backend.datasets import Datasets

        return Datasets(self.store, self.blobs, self.clock, self.layout)

    @cached_property
    def features(self) -> "Features":
        """Feature sets and matrices."""
        from holdfast.backend.features import Features

        return Features(self.store, self.clock, self.layout)

    def close(self) -> None:
        """Give back connections."""
        if "store" in self.__dict__:
            self.store.close()


def file_reader() -> "FileReader":
    """What reads delivered files; a context manager."""
    from holdfast.backend.adapters.files import FileReader

    return FileReader()
