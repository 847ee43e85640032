"""Commands of safety: time travel, checkpoints, the integrity check, the audit log."""

from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.frontend.cli.render import cell, when
from holdfast.frontend.cli.session import Session, command

__all__ = ["register"]

_MOMENT = typer.Argument(metavar="WHEN", help="A time, a data version such as v1.3, or a checkpoint.")
_NAME = typer.Argument(metavar="NAME")
_NOTE = typer.Option("--note", help="Why, for those who look later.")
_DRY = typer.Option("--dry-run", help="Only say what would be done.")


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for function in (at, rollback, check, erase):
        command(app)(function)
    kept: dict[str, Callable[..., None]] = {"create": create, "list": list_, "restore": restore, "remove": remove}
    _group(app, "checkpoint", "Where everything points, kept under a name.", kept)
    told: dict[str, Callable[..., None]] = {"list": audit_list, "verify": audit_verify, "export": audit_export}
    _group(app, "audit", "Who did what, and when: append-only.", told)


def _group(app: typer.Typer, noun: str, words: str, verbs: Mapping[str, Callable[..., None]]) -> None:
    group = typer.Typer(help=words, no_args_is_help=True)
    for name, function in verbs.items():
        command(group, name)(function)
    app.add_typer(group, name=noun)


def at(session: Session, moment: Annotated[str, _MOMENT]) -> None:
    """Show what data, features, models and deployments were live at a moment."""
    found = session.project.at(moment)

    def human() -> None:
        data = found["data"]
        session.say(
            f"{found['moment']}", f"data {data['version']}, newest period {data['period']}" if data else "no data"
        )
        for kind, word in (("feature_sets", "feature set"), ("feature_groups", "feature group")):
            session.say(*(f"{word} {cell(name)} {identity[:12]}" for name, identity in found[kind].items()))
        session.say(*(f"model {cell(name)} {one['version']}" for name, one in found["models"].items()))
        for target, one in found["deployments"].items():
            session.say(f"{cell(target)} was answered by {one['id']}: {cell(one['models'])}")

    session.show(found, human)


def rollback(
    session: Session,
    to: Annotated[str, typer.Option("--to", metavar="WHEN", help="A time, a data version, or a checkpoint.")],
    note: Annotated[str, _NOTE] = "",
    dry_run: Annotated[bool, _DRY] = False,
) -> None:
    """Bring data, models and deployments back to a moment, together, or forward again."""
    found = session.project.go_back(to, dry_run=dry_run, note=note)
    session.show(found, lambda: _travelled(session, found))


def _travelled(session: Session, found: Any) -> None:
    if not found.steps:
        session.say(f"everything is as it was at {found.to}")
        return
    rows = [(f"{step.what} {step.name}".strip(), step.now or "nothing", step.then or "nothing") for step in found.steps]
    session.table(("", "now" if found.dry_run else "was", "then" if found.dry_run else "is"), rows)
    if found.dry_run:
        session.say("nothing was changed")
    else:
        session.say(f"forward again: holdfast rollback --to {found.forward}")


def create(
    session: Session,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="By default the present time.")] = None,
    note: Annotated[str, _NOTE] = "",
) -> None:
    """Record where everything points now. What it names is never collected."""
    found = session.project.checkpoint(name, note)
    session.show(found, lambda: session.say(f"checkpoint {cell(found.name)}"))


def list_(session: Session) -> None:
    """List the checkpoints, oldest first; those of changes that are under way, too."""
    found = session.project.checkpoints()

    def human() -> None:
        session.table(
            ("checkpoint", "made", "by", "note", ""),
            [(one.name, when(one.made_at), one.who, one.why, "under way" if one.maker else "") for one in found],
        )

    session.show([{**session.fields(one), "maker": bool(one.maker)} for one in found], human)


def restore(session: Session, name: Annotated[str, _NAME]) -> None:
    """Bring data, models and deployments back to a checkpoint."""
    found = session.project.restore_checkpoint(name)
    session.show(found, lambda: _travelled(session, found))


def remove(session: Session, name: Annotated[str, _NAME]) -> None:
    """Forget a checkpoint; what it named stays."""
    found = session.project.remove_checkpoint(name)
    session.show(found, lambda: session.say(f"checkpoint {cell(found.name)} is gone"))


def check(
    session: Session,
    deep: Annotated[bool, typer.Option("--deep", help="Read and hash every file, count rows, replay models.")] = False,
) -> None:
    """Check that the whole project holds together; status 1 when something is broken."""
    found = session.project.check(deep=deep)

    def human() -> None:
        if found:
            session.table(("", "what", "how"), [(one.level, one.object, one.message) for one in found])
        else:
            session.say("everything holds together")

    session.show(found, human)
    if any(one.level == "broken" for one in found):
        raise typer.Exit(1)


def erase(
    session: Session,
    *,
    table: Annotated[str, typer.Argument(metavar="TABLE", help="The table of persons.")],
    key: Annotated[str, typer.Argument(metavar="KEY", help="Whom.")],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why: all that the record will say.")],
    dry_run: Annotated[bool, _DRY] = False,
    drop_raw: Annotated[
        bool, typer.Option("--drop-raw", help="Empty raw files whole whose rows cannot be emptied one by one.")
    ] = False,
) -> None:
    """Erase a person: the row, and all rows that link to it, from every version, file, matrix and log."""
    found = session.project.erase(table, key, reason, dry_run=dry_run, drop_raw=drop_raw)

    def human() -> None:
        rows = [(f"rows of {name}", count) for name, count in found.rows.items()]
        rows += [(f"rows in {len(found.files)} raw files", sum(found.files.values())), ("matrices", found.matrices)]
        rows += [] if dry_run else [("vectors", found.vectors), ("predictions", found.predictions)]
        session.table(("would be erased" if dry_run else "erased", ""), rows)
        session.say(*(f"emptied whole: {path}" for path in found.dropped))
        session.say(*(f"look into it yourself, no table claims it: {path}" for path in found.unread))
        if found.models:
            session.say(f"trained with these rows, train again: {cell(found.models)}")
        session.say("nothing was changed" if dry_run else f"recorded as erasure:{found.id}")

    session.show(found, human)


def audit_list(
    session: Session,
    object_: Annotated[
        str | None, typer.Option("--object", metavar="NAME", help="Only what begins so, as `model:`.")
    ] = None,
    who: Annotated[str | None, typer.Option("--who", metavar="USER", help="Only what this user did.")] = None,
    since: Annotated[str | None, typer.Option("--since", metavar="TIME", help="Only from this time on.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=2**31 - 1, help="At most so many rows.")] = 1000,
) -> None:
    """List what was done, oldest first."""
    found = list(islice(session.project.audit(object_, who=who, since=since), limit))

    def human() -> None:
        session.table(
            ("", "at", "who", "action", "object", "before", "after", "details"),
            [(e.id, when(e.at), e.who, e.action, e.object, _short(e.before), _short(e.after), _told(e.details))
             for e in found],
        )  # fmt: skip

    session.show(found, human)


def _short(value: str | None) -> str:
    return "" if value is None else value if len(value) <= 40 else f"{value[:12]}…"


def _told(details: Mapping[str, Any]) -> str:
    return cell({name: value for name, value in details.items() if not isinstance(value, list | dict)})


def audit_verify(session: Session) -> None:
    """Verify that no entry was edited, removed, put between others, or cut off."""
    head = session.project.verify_audit()
    session.show(head, lambda: session.say(f"{head.id:,} entries are as they were written", f"head {head.hash}"))


def audit_export(
    session: Session, file: Annotated[Path, typer.Argument(metavar="FILE", help=".jsonl or .csv.")]
) -> None:
    """Write the verified log to a file."""
    count = session.project.export_audit(file)
    session.show({"file": str(file), "entries": count}, lambda: session.say(f"{count:,} entries in {file}"))
