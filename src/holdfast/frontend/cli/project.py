"""Commands about a project as a whole."""

from pathlib import Path
from typing import Annotated

import typer

from holdfast.frontend.cli.session import Session, command

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    command(app)(init)


def init(
    session: Session,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The new project's folder.")],
    source: Annotated[
        Path | None, typer.Option("--from", metavar="FOLDER", help="Propose tables from the files found there.")
    ] = None,
) -> None:
    """Write a commented holdfast.yaml, from scratch or from files."""
    from holdfast.frontend.client import init as create

    path = create(session.root / folder, source)

    def human() -> None:
        session.say(f"wrote {path}", "next: read and edit it, then", f"  holdfast ingest -C {folder} PERIOD FILES...")

    session.show({"project_file": path}, human)
