"""Holdfast: from raw tables to a served, explained, traceable model.

`holdfast.open(path)` opens a project; its methods are the verbs of the command line.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from holdfast.frontend.client import Project

__all__ = ["__version__", "open"]
__version__ = "0.1.0"


def open(path: "str | Path" = ".") -> "Project":  # noqa: A001 - the name users expect: holdfast.open(...)
    """Open the project in the folder `path` (the one with `holdfast.yaml`).

    Raises ConfigError when there is no project file or it is wrong.
    """
    from holdfast.frontend.client import Project

    return Project(path)
