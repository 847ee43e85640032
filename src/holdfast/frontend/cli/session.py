"""One run of one command: the project it works on, what it shows, and how errors leave the process."""

import dataclasses
import functools
import inspect
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.errors import HoldfastError
from holdfast.frontend.cli.render import cell, document

if TYPE_CHECKING:
    from rich.console import Console

    from holdfast.frontend.client import Project

__all__ = ["WAIT", "Report", "Session", "command", "complain", "stopped_by_signals"]

Report = Callable[[int, int, str], None]
"""`report(done, total, message)`: how far a long step is."""

WAIT = typer.Option("--wait", metavar="SECONDS", min=0, help="How long, while somebody else is at it.")
"""The option that says how long a command waits for a lease."""

_LINE_SECONDS = 0.5
_PIPED_WIDTH = 100_000
"""Into a file or another program a row of a table is one line, however long."""


class Session:
    """What a command works with. With `as_json`, stdout gets one JSON document and nothing else."""

    def __init__(self, root: Path, as_json: bool) -> None:
        self.root = root
        self.as_json = as_json

    @functools.cached_property
    def project(self) -> "Project":
        """The project in the folder given by `--project`. ConfigError when there is none or its file is wrong."""
        from holdfast.frontend.client import Project

        return Project(self.root)

    def use(self, project: "Project") -> None:
        """Work on a project that is open already."""
        self.__dict__["project"] = project

    def close(self) -> None:
        """Give back what the project holds open; predictions under way are logged first."""
        if "project" in self.__dict__:
            self.project.close()

    @functools.cached_property
    def console(self) -> "Console":
        """Where people read results."""
        return _console(sys.stdout)

    def show(self, value: Any, human: Callable[[], None] | None = None) -> None:
        """Show a result: as JSON, or the way `human` prints it."""
        if self.as_json or human is None:
            sys.stdout.write(document(value) + "\n")
        else:
            human()

    @staticmethod
    def fields(record: Any) -> dict[str, Any]:
        """A record as a mapping, to add to."""
        return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}

    @staticmethod
    def seconds(duration: str) -> float:
        """A duration such as 10min, in seconds."""
        from holdfast.core.timeline import SECOND, parse_duration

        return parse_duration(duration) / SECOND

    def say(self, *lines: str) -> None:
        """Lines for people."""
        for line in lines:
            self.console.print(line, soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "") -> None:
        """A table for people; numbers are set right, nothing is cut off."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        listed = [list(row) for row in rows]
        table = Table(title=title or None, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        for index, column in enumerate(columns):
            numbers = all(isinstance(row[index], int | float | None) for row in listed) and bool(listed)
            table.add_column(column, justify="right" if numbers else "left", overflow="fold")
        for row in listed:
            table.add_row(*(cell(value) for value in row))
        self.console.print(table)

    @contextmanager
    def progress(self) -> Iterator[Report]:
        """A `report(done, total, message)` to hand to a long step.

        A bar on a terminal; plain lines where stderr is none; nothing with `--json`, so that stderr holds only errors.
        """
        if self.as_json:
            yield lambda _done, _total, _message: None
        elif sys.stderr.isatty():
            with _bar() as report:
                yield report
        else:
            yield _Lines()


class _Lines:
    """Progress as lines, some a second at most; the first and the last always show."""

    def __init__(self) -> None:
        self._said = 0.0

    def __call__(self, done: int, total: int, message: str) -> None:
        now = time.monotonic()
        if now - self._said >= _LINE_SECONDS or done in (0, total):
            self._said = now
            sys.stderr.write(f"{100 * done // max(total, 1):3d} %  {cell(message)}\n")
            sys.stderr.flush()


@contextmanager
def _bar() -> Iterator[Report]:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=_console(sys.stderr)) as progress:
        task = progress.add_task("", total=None)

        def report(done: int, total: int, message: str) -> None:
            progress.update(task, completed=done, total=total, description=cell(message))

        yield report


def _console(stream: Any) -> "Console":
    from rich.console import Console

    width = None if stream.isatty() else _PIPED_WIDTH
    return Console(file=stream, markup=False, highlight=False, emoji=False, width=width)


@contextmanager
def stopped_by_signals() -> Iterator[Callable[[], bool]]:
    """Whether SIGINT or SIGTERM came; the second one ends the process as usual."""
    came: list[int] = []
    before: dict[int, Any] = {}

    def on(number: int, _frame: object) -> None:
        came.append(number)
        signal.signal(number, before[number])

    for one in (signal.SIGINT, signal.SIGTERM):
        before[one] = signal.signal(one, on)
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def complain(error: HoldfastError, as_json: bool) -> None:
    """Print an error on stderr: what, where, and the next step."""
    if as_json:
        sys.stderr.write(document(error.to_dict()) + "\n")
        return
    lines = [f"error: {cell(error.message)}"]
    lines += [f"  {name}: {value}" for name, value in error.where.items()]
    lines += [f"  next: {cell(error.hint)}"] if error.hint else []
    sys.stderr.write("\n".join(lines) + "\n")


_PROJECT = Annotated[
    Path, typer.Option("--project", "-C", metavar="DIR", help="The project's folder.", show_default=False)
]
_JSON = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def command(app: typer.Typer, name: str | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make `function(session, ...)` a command of `app`, with the options every command has."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def run(*, project: Path, as_json: bool, **options: Any) -> None:
            session = Session(project, as_json)
            try:
                function(session, **options)
            finally:
                session.close()

        own = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in list(inspect.signature(function).parameters.values())[1:]
        ]
        keyword = inspect.Parameter.KEYWORD_ONLY
        common = [
            inspect.Parameter("project", keyword, default=Path(), annotation=_PROJECT),
            inspect.Parameter("as_json", keyword, default=False, annotation=_JSON),
        ]
        signature = inspect.Signature([*own, *common])
        run.__signature__ = signature  # type: ignore[attr-defined]
        run.__annotations__ = {item.name: item.annotation for item in signature.parameters.values()}
        app.command(name)(run)
        return function

    return register
