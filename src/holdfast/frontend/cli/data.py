"""Commands about data: bring it in, look at its versions, go back, and agree on its contract."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.errors import InputError
from holdfast.frontend.cli.render import cell, size, when
from holdfast.frontend.cli.session import WAIT, Session, command

if TYPE_CHECKING:
    from holdfast.backend.records import DatasetVersion

__all__ = ["register"]

_VERSION = typer.Option("--version", metavar="VERSION", help="Of this version; by default the current one.")
_LIMIT = typer.Option("--limit", min=0, max=2**31 - 1, help="At most so many rows.")
_NOTE = typer.Option("--note", help="Why, for those who look later.")


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    command(app)(ingest)
    data = typer.Typer(help="Versions of the data: look, compare, go back.", no_args_is_help=True)
    for function, name in ((versions, "list"), (show, "show"), (read, "read"), (compare, "compare"),
                           (checkout, "checkout"), (quarantine, "quarantine")):  # fmt: skip
        command(data, name)(function)
    app.add_typer(data, name="data")
    contract = typer.Typer(help="What the data must look like.", no_args_is_help=True)
    for function, name in ((contract_show, "show"), (contract_confirm, "confirm")):
        command(contract, name)(function)
    app.add_typer(contract, name="contract")


def ingest(
    session: Session,
    period: Annotated[
        str | None, typer.Argument(metavar="PERIOD", help="2016, 2016-Q1, 2016-01, 2016-W05 or 2016-01-31.")
    ] = None,
    files: Annotated[list[Path] | None, typer.Argument(metavar="FILES...", help="Files, or folders of them.")] = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", metavar="DIR", help="All folders in DIR that are named by periods.")
    ] = None,
    *,
    note: Annotated[str, _NOTE] = "",
    wait: Annotated[float, WAIT] = 0.0,
) -> None:
    """Import delivered files as a new version of the data: all of them, or none."""
    if (folder is None) == (period is None) or (period is not None and not files):
        raise typer.BadParameter("give a PERIOD and its FILES, or --folder DIR")
    with session.progress() as report:
        if folder is not None:
            results = session.project.ingest_folder(folder, note=note, progress=report, wait=wait)
        else:
            results = [session.project.ingest(str(period), files or [], note=note, progress=report, wait=wait)]
    session.show(results, lambda: _ingested(session, results))


def _ingested(session: Session, results: Sequence[Any]) -> None:
    counted = ("read", "added", "changed", "removed", "quarantined")
    rows: list[tuple[Any, ...]] = []
    for result in results:
        for table, counts in (result.report["tables"] if result.created else {}).items():
            rows.append((result.version.version, result.delivery, table, *(counts.get(name, 0) for name in counted)))
    if rows:
        session.table(("version", "delivery", "table", *counted), rows)
    for result in results:
        session.say(*(f"note: {note}" for note in result.notes))
        if not result.created:
            session.say(f"{result.delivery} was part of {result.version.version} already: nothing changed")
    if any(row[-1] for row in rows):
        session.say("some rows are in quarantine; see: holdfast data quarantine")


def versions(session: Session) -> None:
    """List the versions, oldest first."""
    found = session.project.data.list()
    current = session.project.data.current()

    def human() -> None:
        session.table(
            ("version", "state", "period", "made", "rows", "size", "note", ""),
            [
                (v.version, v.state, v.period, when(v.made_at), sum(v.rows.values()), size(v.bytes), v.note,
                 "current" if current and v.id == current.id else "")
                for v in found
            ],
        )  # fmt: skip

    session.show({"current": current.version if current else None, "versions": found}, human)


def show(
    session: Session,
    version: Annotated[str | None, typer.Argument(metavar="VERSION", help="By default the current one.")] = None,
) -> None:
    """Show one version: its tables, where it came from, what the import counted."""
    data = session.project.data
    found, files = data.get(version), data.files(version)
    session.show({**session.fields(found), "files": files}, lambda: _shown(session, found, len(files)))


def _shown(session: Session, found: "DatasetVersion", files: int) -> None:
    session.say(
        f"{found.version}  {found.state}  {when(found.made_at)}  {found.note}",
        f"newest period {found.period}, {files} raw files, {size(found.bytes)}, id {found.id}",
    )
    rows = [
        (table["name"], found.rows.get(table["name"], 0), ", ".join(table["key"]), table["time"] or "",
         ", ".join(f"{column} → {parent}" for column, parent in table["links"].items()),
         ", ".join(f"{column['name']} {column['dtype']}" for column in table["columns"]))
        for table in found.schema["tables"]
    ]  # fmt: skip
    session.table(("table", "rows", "key", "time", "links", "columns"), rows)
    if found.report:
        _counted(session, found)


def _counted(session: Session, found: "DatasetVersion") -> None:
    """What the import of the version counted: numbers first, then words."""
    tables = found.report["tables"]
    counted = ("read", "added", "changed", "removed", "unchanged", "duplicates", "quarantined")
    rows = [(name, *(counts.get(one, 0) for one in counted)) for name, counts in tables.items()]
    session.table(("import of", *counted), rows)
    for name, counts in tables.items():
        for what in ("reasons", "repaired", "warnings", "notes", "unknown_parents"):
            if counts.get(what):
                session.say(f"{name}, {what.replace('_', ' ')}: {cell(counts[what])}")
    session.say(*(f"note: {note}" for note in found.report["notes"]))


def read(
    session: Session,
    table: Annotated[str, typer.Argument(metavar="TABLE")],
    version: Annotated[str | None, _VERSION] = None,
    limit: Annotated[int, _LIMIT] = 20,
    history: Annotated[
        bool, typer.Option("--history", help="Earlier states too: when each was known, its file and row.")
    ] = False,
) -> None:
    """Read rows of a table. Personal columns are masked; the Python API gives them."""
    found = session.project.rows(table, version=version, history=history)
    rows = found.slice(0, limit)

    def human() -> None:
        session.table(rows.column_names, [list(row.values()) for row in rows.to_pylist()])
        session.say(f"{len(rows):,} of {len(found):,} rows")

    session.show({"table": table, "rows": len(found), "shown": len(rows), "data": rows}, human)


def compare(
    session: Session,
    before: Annotated[str, typer.Argument(metavar="BEFORE")],
    after: Annotated[str, typer.Argument(metavar="AFTER")],
) -> None:
    """Compare two versions: schema, and rows added, removed and changed."""
    found = session.project.data.compare(before, after)

    def human() -> None:
        session.say(*(f"schema: {line}" for line in found.schema))
        session.table(
            ("table", "added", "removed", "changed", "same"),
            [(name, t.added, t.removed, t.changed, t.same) for name, t in found.tables.items()],
        )
        moved = [
            (f"{name}.{column}", round(shift.psi, 4), round(shift.noise, 4), "shifted" if shift.shifted else "")
            for name, t in found.tables.items()
            for column, shift in t.shift.items()
            if shift.psi > shift.noise
        ]
        if moved:
            session.table(("column", "PSI", "by chance", ""), moved)

    session.show(found, human)


def checkout(
    session: Session,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="A version, a tag, or the name of a branch.")],
    note: Annotated[str, _NOTE] = "checkout",
) -> None:
    """Go to a branch, or make another version current on this one. Nothing is lost: the next import goes on from it."""
    found = session.project.data.checkout(version, note)
    here = session.project.data.refs.current
    told = f"{found.version} is current" + ("" if here == "main" else f" on branch {here}")
    session.show(found, lambda: session.say(told))


def quarantine(
    session: Session, version: Annotated[str | None, _VERSION] = None, limit: Annotated[int, _LIMIT] = 50
) -> None:
    """List the rows that were kept out, with file, row, column and reason."""
    found = session.project.data.quarantine(version)
    rows = found.slice(0, limit)

    def human() -> None:
        session.table(rows.column_names, [list(row.values()) for row in rows.to_pylist()])
        session.say(f"{len(rows):,} of {len(found):,} faults")

    session.show({"faults": len(found), "shown": len(rows), "data": rows}, human)


def contract_show(
    session: Session,
    table: Annotated[str | None, typer.Argument(metavar="TABLE", help="By default all tables.")] = None,
    version: Annotated[str | None, _VERSION] = None,
) -> None:
    """Show what binds and what was only observed."""
    data = session.project.data
    schema = data.schema(version)
    chosen = [schema.table(table).name] if table else list(schema.tables)
    found = {name: one for name, one in data.contract(version).items() if name in chosen}

    def human() -> None:
        for name, one in found.items():
            rows = []
            for column in schema.table(name).columns:
                rule = one.columns.get(column.name)
                binding = rule.binding if rule else {}
                seen = {
                    key: getattr(rule, key)
                    for key in ("nullable", "min", "max", "values", "pattern")
                    if rule and key not in binding and getattr(rule, key) not in (None, True)
                }
                rows.append((column.name, str(column.dtype), binding, seen))
            session.table(("column", "type", "binds", "observed: warns"), rows, title=f"{name}  (known: {one.known})")

    session.show(found, human)


def contract_confirm(
    session: Session,
    table: Annotated[str | None, typer.Argument(metavar="TABLE", help="By default all tables.")] = None,
    column: Annotated[list[str] | None, typer.Option("--column", help="Only these columns of TABLE.")] = None,
    note: Annotated[str, _NOTE] = "",
) -> None:
    """Make what was observed bind from now on; rows that break it will go to quarantine."""
    if column and not table:
        raise InputError(
            "--column needs the TABLE it is a column of", hint="holdfast contract confirm TABLE --column X"
        )
    before = session.project.data.get().version
    found = session.project.data.confirm_contract(table, column, note=note, author=session.project.author)

    def human() -> None:
        session.say(f"{found.version}: the contract binds" if found.version != before else "nothing new to confirm")

    session.show(found, human)
