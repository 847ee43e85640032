"""Commands that answer: serve, predict, trace."""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.frontend.cli.render import cell
from holdfast.frontend.cli.session import Report, Session, command

__all__ = ["register", "show_answer", "show_lineage"]

_ROWS_SHOWN = 12
_HASH = re.compile(r"[0-9a-f]{64}")


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for function in (serve, predict, trace):
        command(app)(function)


def serve(session: Session) -> None:
    """Serve predictions, and the control plane on the next port, until Ctrl-C."""
    session.project.serve(lambda line: typer.echo(line, err=session.as_json))


def predict(
    session: Session,
    *,
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILES...", help="Tables of features, or lists of entities.")
    ] = None,
    target: Annotated[str | None, typer.Option("--target", help="By default the only one.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help=".csv or .parquet; by default beside the input.")
    ] = None,
    entity: Annotated[str | None, typer.Option("--entity", metavar="KEY", help="Instead of files: this one.")] = None,
    at: Annotated[str | None, typer.Option("--at", metavar="TIME", help="The cutoff of --entity; now.")] = None,
    context: Annotated[
        list[str] | None, typer.Option("--context", metavar="NAME=VALUE", help="What is known beforehand.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say why, for --entity.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Repair nothing: refuse, and say what.")] = False,
) -> None:
    """Predict files, or one entity as it was known at a time."""
    if bool(files) == (entity is not None):
        raise typer.BadParameter("give FILES, or --entity KEY")
    if files and (at or context or explain):
        raise typer.BadParameter("--at, --context and --explain go with --entity; a file has columns for them")
    if entity is None:
        _predict_files(session, files or [], target, output, strict or None)
        return
    name, question = session.project.question(target, entity, at, _pairs(context or []))
    reply = session.project.service.entities(name, [question], explain=explain, strict=strict or None)
    session.show(reply, lambda: show_answer(session, reply))


def _predict_files(
    session: Session, files: list[Path], target: str | None, output: Path | None, strict: bool | None
) -> None:
    if output is not None and len(files) > 1:
        raise typer.BadParameter("--output takes the predictions of one file")
    done = []
    with session.progress() as report:
        for number, file in enumerate(files):
            report(number, len(files), file.name)
            place = output or file.with_name(f"{file.name.split('.')[0]}_predictions.csv")
            said = partial(_rows_done, report, number, len(files), file.name)
            done.append(session.project.predict_file(target, file, place, strict=strict, progress=said))
        report(len(files), len(files), "done")

    def human() -> None:
        session.table(
            ("output", "rows", "repaired", "repairs", "deployment"),
            [(str(b.output), b.rows, b.repaired_rows, b.repairs, b.deployment) for b in done],
        )

    session.show(done, human)


def _rows_done(report: Report, number: int, total: int, name: str, rows: int) -> None:
    report(number, total, f"{name}: {rows:,} rows")


def _pairs(given: list[str]) -> dict[str, str]:
    pairs = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not equals:
            raise typer.BadParameter(f"{item!r} is not NAME=VALUE")
        pairs[name] = value
    return pairs


def show_answer(session: Session, reply: Mapping[str, Any]) -> None:
    """Show the first answer of a reply, with its reasons where they were asked for."""
    found = reply["predictions"][0]
    session.say(f"{found['entity']} as known at {found['cutoff']}, data {reply.get('data_version', '')}")
    labels = found["labels"]
    columns = list(dict.fromkeys(key for one in labels.values() for key in one))
    session.table(("label", *columns), [(label, *(one.get(key) for key in columns)) for label, one in labels.items()])
    for label, why in found.get("explanation", {}).items():
        session.say(*(f"{label}: {cell(reason)}" for reason in why["reasons"]))
    session.say(*(f"repaired: {cell(repair['detail'])}" for repair in found["repairs"]))
    session.say(f"id {found['id']}", f"next: holdfast trace {found['id']}")


def trace(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="ID", help="A prediction's id, or a model.")],
) -> None:
    """Show what a prediction or a model came from, back to the raw files and rows."""
    found = session.project.trace(name)
    session.show(found.to_dict(), lambda: show_lineage(session, found.to_dict()))


def show_lineage(session: Session, node: Mapping[str, Any], depth: int = 0) -> None:
    """A node and what it came from, indented; long lists of files are counted."""
    facts = {key: _short(value) for key, value in node.get("facts", {}).items() if _is_short(value)}
    session.say(f"{'  ' * depth}{node['kind']} {cell(_short(node['id']))}" + (f"  ({cell(facts)})" if facts else ""))
    parents = node.get("from", ())
    for parent in parents[:_ROWS_SHOWN]:
        show_lineage(session, parent, depth + 1)
    if len(parents) > _ROWS_SHOWN:
        session.say(f"{'  ' * (depth + 1)}... and {len(parents) - _ROWS_SHOWN} more; --json shows all")


def _short(value: Any) -> Any:
    """A hash as its beginning."""
    return f"{value[:12]}…" if isinstance(value, str) and _HASH.fullmatch(value) else value


def _is_short(value: Any) -> bool:
    return isinstance(value, int | float | str) or (isinstance(value, list) and len(value) <= _ROWS_SHOWN)
