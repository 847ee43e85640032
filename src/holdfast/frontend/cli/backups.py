"""Commands that keep a project safe elsewhere: backup and restore, push, pull and clone."""

from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.frontend.cli.render import size, when
from holdfast.frontend.cli.session import Session, command

__all__ = ["register"]

_PLACE = typer.Argument(metavar="PLACE", help="A folder, or s3://bucket/folder; by default `backup.to`.")
_FROM = typer.Argument(metavar="FROM", help="A folder, or s3://bucket/folder.")
_INTO = typer.Argument(metavar="INTO", help="An empty or a new folder.")
_NOTE = typer.Option("--note", help="Why, for those who look later.")
_REMOTE = typer.Argument(metavar="REMOTE", help="A name of `remotes` in the project file.")
_DATABASE = typer.Option("--database", metavar="URL", help="Keep the records there: `sqlite` or a PostgreSQL.")
_BLOBS = typer.Option("--blobs", metavar="URL", help="Keep the blobs there: `local` or s3://bucket/folder.")


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    backup = typer.Typer(help="Backups: make, list, prove.", no_args_is_help=True)
    for function, name in ((create, "create"), (backups, "list"), (verify, "verify")):
        command(backup, name)(function)
    app.add_typer(backup, name="backup")
    for verb in (restore, push, pull, clone):
        command(app)(verb)
    command(app, "import-dvc")(import_dvc)


def create(
    session: Session,
    place: Annotated[str | None, _PLACE] = None,
    note: Annotated[str, _NOTE] = "",
    keep: Annotated[
        int | None, typer.Option("--keep", min=1, help="Leave only so many there; by default `backup.keep`.")
    ] = None,
) -> None:
    """Back the project up, while it runs: what the place has already is not sent again."""
    with session.progress() as report:
        made = session.project.backup(place, note=note, keep=keep, progress=report)

    def human() -> None:
        session.say(
            f"{made.id}: {len(made.files)} files, {len(made.blobs)} blobs, data {made.data or 'none'}",
            f"{size(made.sent)} sent",
        )

    session.show(made, human)


def backups(session: Session, place: Annotated[str | None, _PLACE] = None) -> None:
    """List the backups in a place, oldest first."""
    found = session.project.backups(place)

    def human() -> None:
        session.table(
            ("backup", "made", "data", "files", "blobs", "sent", "note"),
            [
                (one.id, when(one.made_at), one.data, len(one.files), len(one.blobs), size(one.sent),
                 f"unusable: {one.fault}" if one.fault else one.note)
                for one in found
            ],
        )  # fmt: skip

    session.show(found, human)


def verify(
    session: Session,
    place: Annotated[str | None, _PLACE] = None,
    backup: Annotated[str | None, typer.Option("--id", metavar="ID", help="By default the newest.")] = None,
) -> None:
    """Prove a backup: restore it into a scratch folder, check every hash, replay what is deployed."""
    from holdfast.frontend.backups import verify_backup

    # With a place, the project itself may be gone.
    proof = verify_backup(place, backup) if place else session.project.verify_backup(backup)

    def human() -> None:
        session.say(
            f"{proof.backup} can be restored: {proof.files} files and {proof.blobs} blobs ({size(proof.bytes)}) are"
            f" whole, {proof.audit} audit entries are in order",
            f"golden rows replayed: {', '.join(proof.replayed) or 'nothing is deployed'}",
        )

    session.show(proof, human)


def restore(
    session: Session,
    source: Annotated[str, _FROM],
    into: Annotated[Path, _INTO],
    backup: Annotated[str | None, typer.Option("--id", metavar="ID", help="By default the newest.")] = None,
    *,
    database: Annotated[str | None, _DATABASE] = None,
    blobs: Annotated[str | None, _BLOBS] = None,
) -> None:
    """Make a project out of a backup, in an empty place."""
    from holdfast.frontend.backups import restore as restored

    found = restored(source, into, backup=backup, database=database, blobs=blobs)

    def human() -> None:
        session.say(f"{found.id} of {when(found.made_at)} is in {into}: data {found.data or 'none'}")

    session.show(found, human)


def push(session: Session, remote: Annotated[str, _REMOTE] = "origin") -> None:
    """Bring a remote what it lacks: data, features, models, tags and branches."""
    found = session.project.push(remote)
    session.show(found, lambda: _synced(session, found, "sent"))


def pull(session: Session, remote: Annotated[str, _REMOTE] = "origin") -> None:
    """Bring the project what a remote has, and go forward with it."""
    found = session.project.pull(remote)
    session.show(found, lambda: _synced(session, found, "received"))


def clone(session: Session, source: Annotated[str, _FROM], into: Annotated[Path, _INTO]) -> None:
    """Make a project out of a remote, in an empty place."""
    from holdfast.frontend.backups import clone as cloned

    found = cloned(source, into)
    session.show(found, lambda: _synced(session, found, "received"))


def import_dvc(
    session: Session,
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATHS...", help=".dvc files, tracked files or folders, dvc.yaml.")
    ],
    period: Annotated[str, typer.Option("--period", help="2016, 2016-Q1, 2016-01, 2016-W05 or 2016-01-31.")],
    note: Annotated[str, _NOTE] = "",
) -> None:
    """Import files that DVC tracks, from its cache, as a delivery."""
    with session.progress() as report:
        found = session.project.import_dvc(paths, period=period, note=note, progress=report)

    def human() -> None:
        session.say(f"{found.delivery} is {'' if found.created else 'already '}in data {found.version.version}")

    session.show(found, human)


def _synced(session: Session, found: Any, word: str) -> None:
    counted = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in found.records.items())
    session.say(f"{counted or 'nothing new'}; {size(found.bytes)} {word}")
    session.say(*(f"{name} moved to {target}" for name, target in found.pointers.items()))
    session.say(*(f"note: {note}" for note in found.notes))
