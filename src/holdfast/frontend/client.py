"""The Python client: `holdfast.open(path)` gives a `Project`, whose methods are the verbs of the command line."""

from pathlib import Path
from types import TracebackType
from typing import Self

from holdfast.backend.pipelines.template import render
from holdfast.backend.settings import PROJECT_FILE, Settings, parse
from holdfast.backend.wiring import Services, propose_from
from holdfast.errors import ConflictError

__all__ = ["Project", "init"]


class Project:
    """A project in a folder. Use it as a context manager, or `close` it."""

    def __init__(self, path: str | Path = ".") -> None:
        self.root = Path(path).resolve()
        self._services = Services(self.root)

    @property
    def settings(self) -> Settings:
        """The project file, as it was when the project was opened."""
        return self._services.settings

    def close(self) -> None:
        """Give back what is held open."""
        self._services.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def init(folder: str | Path, from_: str | Path | None = None) -> Path:
    """Write a commented project file into `folder`, which is made if need be; returns the file's path.

    With `from_`, a folder of files or of folders named as periods, it proposes the tables found there.
    Raises ConflictError when there is a project file already, NotFoundError when `from_` holds no table.
    """
    root = Path(folder).resolve()
    path = root / PROJECT_FILE
    if path.exists():
        raise ConflictError(f"{path} is there already", hint="Edit it, or choose another folder.")
    text = render(root.name or "project", propose_from(Path(from_)) if from_ is not None else None)
    parse(text, str(path))
    root.mkdir(parents=True, exist_ok=True)
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
    return path
