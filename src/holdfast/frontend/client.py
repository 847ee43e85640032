"""The Python client: `holdfast.open(path)` gives a `Project`, whose methods are the verbs of the command line.

Verbs make things (`ingest`, `synthesise`, `matrix` ...). What is there is looked at, and gone back to, in the rooms
`data` and `features`.
"""

import getpass
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Self

from holdfast.backend.logging import LOGGER
from holdfast.backend.settings import PROJECT_FILE, Settings, parse
from holdfast.backend.wiring import Services, file_reader
from holdfast.errors import ConflictError, HoldfastError

if TYPE_CHECKING:
    import pyarrow as pa

    from holdfast.backend.datasets import Datasets
    from holdfast.backend.features import Features
    from holdfast.backend.pipelines.features import BuiltMatrix, SynthesisResult
    from holdfast.backend.pipelines.ingest import IngestResult

__all__ = ["Progress", "Project", "init"]

Progress = Callable[[int, int, str], None]
"""Called with (done, total, message)."""

_MASK = "***"


class Project:
    """A project in a folder. Use it as a context manager, or `close` it."""

    def __init__(self, path: str | Path = ".") -> None:
        self.root = Path(path).resolve()
        self._services = Services(self.root)

    @property
    def settings(self) -> Settings:
        """The project file, as it was when the project was opened."""
        return self._services.settings

    @property
    def data(self) -> "Datasets":
        """Versions of the data: list, show, read, compare, go back, confirm the contract."""
        return self._services.datasets

    @property
    def features(self) -> "Features":
        """Feature sets and matrices that were made."""
        return self._services.features

    @property
    def author(self) -> str:
        """Who is working, for records."""
        try:
            return getpass.getuser()
        except (OSError, KeyError):  # no such user, as in some containers
            return ""

    def ingest(
        self, period: str, files: Sequence[str | Path], *, note: str = "", progress: Progress | None = None
    ) -> "IngestResult":
        """Import the files (or folders of files) delivered for `period` as a new version: all of them, or none.

        Raises FileError or ContractError saying what is wrong where; then nothing has changed.
        """
        from holdfast.backend.pipelines.ingest import ingest

        paths = [Path(file) for file in files]
        with self._verb("ingest", period), file_reader() as reader:
            return ingest(
                self.data, self.settings, reader.read, period, paths, note=note, author=self.author, progress=progress
            )

    def ingest_folder(
        self, folder: str | Path, *, note: str = "", progress: Progress | None = None
    ) -> "list[IngestResult]":
        """Import all folders in `folder` that are named by periods, oldest first; a version each.

        Raises as `ingest`; the periods before the one that failed stay imported.
        """
        from holdfast.backend.pipelines.ingest import ingest_folder

        with self._verb("ingest", str(folder)), file_reader() as reader:
            return ingest_folder(
                self.data, self.settings, reader.read, Path(folder), note=note, author=self.author, progress=progress
            )

    def rows(self, table: str, *, version: str | None = None, history: bool = False) -> "pa.Table":
        """Rows of a table to be shown: current ones without Holdfast's own columns, or all states with them.

        Times are in the project's time zone; columns marked personal are masked. `data.read` gives what is stored.
        """
        import pyarrow as pa

        from holdfast.core.schema import SYSTEM_FIELDS

        described = self.data.schema(version).table(table)
        rows = self.data.read(version, [table], current_only=not history)[table]
        for column in described.columns:
            if column.personal:
                masked = pa.array([_MASK if value.is_valid else None for value in rows[column.name]], pa.string())
                rows = rows.set_column(rows.column_names.index(column.name), column.name, masked)
        local = pa.timestamp("us", tz=self.settings.timezone)
        rows = rows.cast(pa.schema([f.with_type(local) if pa.types.is_timestamp(f.type) else f for f in rows.schema]))
        return rows if history else rows.drop_columns([n for n in SYSTEM_FIELDS if n in rows.column_names])

    def synthesise(self, target: str | None = None, *, version: str | None = None) -> "SynthesisResult":
        """Synthesise the features of a target (the only one by default) over a version of the data."""
        from holdfast.backend.pipelines.features import find_target, synthesise_set

        name = find_target(self.settings, target)
        with self._verb("features", f"synthesise {name}"):
            return synthesise_set(self.data, self.features, self.settings, name, version)

    def definitions(self, name: str) -> list[dict[str, str]]:
        """The features of a set, given by its target or the beginning of its id: name, type, formula, description."""
        from holdfast.core.features.definitions import FeatureSet

        found = FeatureSet.from_dict(self.features.get(name).definitions)
        return [
            {"name": f.name, "type": f.dtype.value, "formula": f.formula, "description": f.describe()}
            for f in found.features
        ]

    def matrix(
        self, target: str | None = None, *, version: str | None = None, progress: Progress | None = None
    ) -> "BuiltMatrix":
        """Compute the point-in-time matrix of a target and write it below `features/`."""
        from holdfast.backend.pipelines.features import build_matrix, find_target

        name = find_target(self.settings, target)
        with self._verb("features", f"matrix {name}"):
            return build_matrix(self.data, self.features, self.settings, name, version=version, progress=progress)

    @contextmanager
    def _verb(self, module: str, what: str) -> Iterator[None]:
        """Log that something begins, and how it ends."""
        log = logging.getLogger(f"{LOGGER}.{module}")
        log.info("%s: begin", what)
        started = perf_counter()
        try:
            yield
        except HoldfastError as error:
            log.error("%s: %s: %s", what, error.code, error)  # noqa: TRY400 - the traceback of a said error tells nothing
            raise
        except BaseException:
            log.exception("%s: failed", what)
            raise
        log.info("%s: done in %.1f s", what, perf_counter() - started)

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
    from holdfast.backend.pipelines.propose import look, propose
    from holdfast.backend.pipelines.template import render

    root = Path(folder).resolve()
    path = root / PROJECT_FILE
    if path.exists():
        raise ConflictError(f"{path} is there already", hint="Edit it, or choose another folder.")
    proposal = None
    if from_ is not None:
        with file_reader() as reader:
            proposal = propose(look(Path(from_), reader.read))
    text = render(root.name or "project", proposal)
    parse(text, str(path))
    root.mkdir(parents=True, exist_ok=True)
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
    return path
