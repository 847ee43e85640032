"""Commands about versions of the data: branch, tag, merge, take out, put together, collect."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.errors import ConflictError, FileError, InputError
from holdfast.frontend.cli.render import size
from holdfast.frontend.cli.session import Session, command

if TYPE_CHECKING:
    from holdfast.backend.records import DatasetVersion

__all__ = ["register"]

_NOTE = typer.Option("--note", help="Why, for those who look later.")
_AT = typer.Argument(metavar="VERSION", help="By default the current one.")
_DROP = typer.Option("--drop", help="Forget NAME; its versions stay until they are collected.")


def register(app: typer.Typer) -> None:
    """Add the commands to `app`; its group `data` must be there."""
    data = next(group.typer_instance for group in app.registered_groups if group.name == "data")
    if data is None:
        raise RuntimeError("the group `data` is registered first")
    for function, name in ((branch, "branch"), (tag, "tag"), (merge, "merge"), (revert, "revert"), (compact, "compact"),
                           (write, "write")):  # fmt: skip
        command(data, name)(function)
    command(app)(gc)


def branch(
    session: Session,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Without it the branches are listed.")] = None,
    version: Annotated[str | None, _AT] = None,
    drop: Annotated[bool, _DROP] = False,
) -> None:
    """List branches, or make one at a version. Go to it with `data checkout NAME`."""
    refs = session.project.data.refs
    if name is None and drop:
        raise InputError("--drop needs the name of a branch", hint="List them with: holdfast data branch")
    if name is None:
        here, found = refs.current, _versions(session, refs.branches())
        rows = [(one, v.version, v.note, "current" if one == here else "") for one, v in found.items()]
        session.show(
            {"current": here, "branches": {one: v.version for one, v in found.items()}},
            lambda: session.table(("branch", "version", "note", ""), rows),
        )
        return
    if drop:
        refs.drop(name)
        session.show({"dropped": name}, lambda: session.say(f"{name} is dropped"))
        return
    made = session.project.branch(name, version)
    session.show({"branch": name, "version": made.version}, lambda: session.say(f"{name} begins at {made.version}"))


def tag(
    session: Session,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Without it the tags are listed.")] = None,
    version: Annotated[str | None, _AT] = None,
    drop: Annotated[bool, _DROP] = False,
) -> None:
    """List tags, or name a version for good. A tag can be used wherever a version can."""
    refs = session.project.data.refs
    if name is None and drop:
        raise InputError("--drop needs the name of a tag", hint="List them with: holdfast data tag")
    if name is None:
        found = _versions(session, refs.tags())
        rows = [(one, v.version, v.note) for one, v in found.items()]
        session.show(
            {"tags": {one: v.version for one, v in found.items()}},
            lambda: session.table(("tag", "version", "note"), rows),
        )
        return
    if drop:
        refs.drop(name)
        session.show({"dropped": name}, lambda: session.say(f"{name} is dropped"))
        return
    made = session.project.tag(name, version)
    session.show({"tag": name, "version": made.version}, lambda: session.say(f"{name} names {made.version}"))


def _versions(session: Session, named: dict[str, str]) -> "dict[str, DatasetVersion]":
    by_id = {version.id: version for version in session.project.data.list()}
    return {name: by_id[target] for name, target in named.items()}


def merge(  # noqa: PLR0917 - options of a command line, given by name
    session: Session,
    theirs: Annotated[str, typer.Argument(metavar="BRANCH", help="A branch, tag or version.")],
    ours: Annotated[
        bool, typer.Option("--ours", help="Where both changed a row, keep that of the current version.")
    ] = False,
    theirs_wins: Annotated[
        bool, typer.Option("--theirs", help="Where both changed a row, take that of BRANCH.")
    ] = False,
    newest: Annotated[
        bool, typer.Option("--newest", help="Where both changed a row, the state known later counts.")
    ] = False,
    decisions: Annotated[
        Path | None, typer.Option("--decisions", metavar="FILE", help="A file of --conflicts with `take` filled in.")
    ] = None,
    conflicts: Annotated[
        Path | None, typer.Option("--conflicts", metavar="FILE", help="Only write the conflicts to FILE (CSV).")
    ] = None,
    note: Annotated[str, _NOTE] = "",
) -> None:
    """Merge a branch into the current version, by key. Rows changed on both sides are listed, never guessed."""
    from holdfast.frontend.versions import conflicts_csv, decisions_from

    rules = [name for name, asked in (("ours", ours), ("theirs", theirs_wins), ("newest", newest)) if asked]
    if len(rules) > 1:
        raise InputError("more than one rule was given", hint="Give one of --ours, --theirs and --newest.")
    if conflicts is not None:
        found = session.project.conflicts(theirs)
        _write(conflicts, conflicts_csv(found))
        told = {"conflicts": len(found), "file": str(conflicts)}
        session.show(told, lambda: session.say(f"{len(found):,} conflicts are in {conflicts}; fill in `take`"))
        return
    decided = None if decisions is None else decisions_from(_read(decisions), str(decisions))
    result = session.project.merge(theirs, rule=rules[0] if rules else None, decisions=decided, note=note)

    def human() -> None:
        if not result.created:
            session.say(f"nothing to merge: {result.version.version} holds both")
            return
        session.say(f"{result.version.version} holds both (common ancestor {result.ancestor})")
        counted = ("added", "changed", "removed")
        rows = [
            (name, *(counts[one] for one in counted), result.resolved.get(name, 0))
            for name, counts in result.changes.items()
        ]
        session.table(("table", *counted, "conflicts decided"), rows)

    session.show(result, human)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"the file cannot be read: {error}", where={"file": str(path)}) from error


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise FileError(f"the file cannot be written: {error.strerror}", where={"file": str(path)}) from error


def revert(
    session: Session,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="The import, change or merge to take out.")],
    note: Annotated[str, _NOTE] = "",
) -> None:
    """Take one import out of the history of the current version, as a new version without it."""
    made = session.project.revert(version, note=note)

    def human() -> None:
        session.say(f"{made.version} is current: {made.note}")
        counted = ("added", "changed", "removed")
        tables = made.report["tables"]
        session.table(
            ("table", *counted), [(name, *(counts[one] for one in counted)) for name, counts in tables.items()]
        )

    session.show(made, human)


def compact(session: Session, note: Annotated[str, _NOTE] = "") -> None:
    """Put small parts together, so that reading is faster; no value changes."""
    done = session.project.compact(note=note)
    told = f"{done.version.version}: {done.parts_before} parts became {done.parts_after}"
    session.show(done, lambda: session.say(told if done.created else "there is nothing to put together"))


def write(session: Session) -> None:
    """Bring `data/processed/` up to the current version: small changes of large data leave it as it was."""
    current = session.project.data.get()
    if not session.project.data.refresh_face():
        raise ConflictError("data/processed/ is being written by another process", hint="Wait until it ends.")
    session.show({"version": current.version}, lambda: session.say(f"data/processed/ shows {current.version}"))


def gc(
    session: Session,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go and why; nothing goes.")] = False,
    keep: Annotated[
        int | None,
        typer.Option("--keep", min=1, metavar="N", help="Give up versions, too: all but the newest N of each branch."),
    ] = None,
    grace: Annotated[
        str, typer.Option("--grace", metavar="TIME", help="What was written within it stays: 30min, 12h, 2d, or 0.")
    ] = "1h",
) -> None:
    """Delete what nothing refers to: no version, tag, branch, matrix, model, deployment, checkpoint or job."""
    done = session.project.collect(keep=keep, grace=grace, dry_run=dry_run)
    told: dict[str, Any] = {**session.fields(done), "bytes": done.bytes}

    def human() -> None:
        if done.versions:
            session.table(("version", "why"), [(one.version, one.why) for one in done.versions])
        if done.blobs:
            session.table(("blob", "size", "why"), [(one.blob[:16], size(one.bytes), one.why) for one in done.blobs])
        verb = "would go" if dry_run else "went"
        gone = f"{len(done.versions)} versions and {len(done.blobs)} blobs ({size(done.bytes)})"
        session.say(f"{gone} {verb}; {done.kept} blobs stay")
        if done.young:
            session.say(f"{done.young} more that nothing refers to were written too lately to tell; they stay for now")

    session.show(told, human)
