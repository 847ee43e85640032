"""Puts the rooms together with the outside systems: the only module that names adapters."""

from functools import cached_property
from pathlib import Path

from holdfast.backend.logging import start_logging
from holdfast.backend.pipelines.propose import Proposal, look, propose
from holdfast.backend.settings import Layout, Settings, load
from holdfast.backend.store import Store

__all__ = ["Services", "propose_from"]


class Services:
    """The rooms of one project, each made when it is first asked for. ConfigError when the project file is wrong."""

    def __init__(self, root: Path) -> None:
        self.layout = Layout(root)
        self.settings: Settings = load(root)
        start_logging(self.layout.logs)

    @cached_property
    def store(self) -> Store:
        """The metadata database, with all its tables."""
        store = Store(self.layout.database_url)
        store.create()
        return store

    def close(self) -> None:
        """Give back connections."""
        if "store" in self.__dict__:
            self.store.close()


def propose_from(folder: Path) -> Proposal:
    """What the files in `folder` look like. NotFoundError when there are none, FileError when one cannot be read."""
    from holdfast.backend.adapters.files import read_file

    return propose(look(folder, read_file))
