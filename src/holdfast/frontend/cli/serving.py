"""Commands that answer: serve, predict, trace."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.frontend.cli.render import cell
from holdfast.frontend.cli.session import Session, command, stopped_by_signals

__all__ = ["register", "show_answer", "show_lineage"]

_ROWS_SHOWN = 12
_HASH = re.compile(r"[0-9a-f]{64}")


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for function in (serve, predict, stream, trace):
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
        Path | None,
        typer.Option("--output", metavar="FILE", help=".csv, .parquet or .jsonl; by default beside the input."),
    ] = None,
    entities: Annotated[
        str | None,
        typer.Option("--entities", metavar="all|FILE", help="Every stored entity, or those that a file lists."),
    ] = None,
    entity: Annotated[str | None, typer.Option("--entity", metavar="KEY", help="Instead of files: this one.")] = None,
    at: Annotated[
        str | None, typer.Option("--at", "--cutoff", metavar="TIME", help="What was known then; by default now.")
    ] = None,
    context: Annotated[
        list[str] | None, typer.Option("--context", metavar="NAME=VALUE", help="What is known beforehand.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say why, for --entity.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Repair nothing: refuse, and say what.")] = False,
    on_error: Annotated[
        str, typer.Option("--on-error", metavar="fail|collect", help="A bad row ends it, or goes to a second file.")
    ] = "fail",
) -> None:
    """Predict files, stored entities, or one entity as it was known at a time."""
    if [bool(files), entities is not None, entity is not None].count(True) != 1:
        raise typer.BadParameter("give FILES, or --entities all|FILE, or --entity KEY")
    if explain and entity is None:
        raise typer.BadParameter("--explain goes with --entity")
    if files and at:
        raise typer.BadParameter("--cutoff goes with --entities and --entity; a file has a column for it")
    if context and (files or entities not in {None, "all"}):
        raise typer.BadParameter("--context goes with --entity and --entities all; a file has columns for it")
    if entity is None:
        options = {"strict": strict or None, "on_error": on_error}
        if entities == "all":
            _predict_stored(session, target, output, cutoff=at, context=_pairs(context or []), **options)
        else:
            listed = files or [Path(str(entities))]
            _predict_files(session, listed, target, output, entities=not files, cutoff=at, **options)
        return
    name, question = session.project.question(target, entity, at, _pairs(context or []))
    reply = session.project.service.entities(name, [question], explain=explain, strict=strict or None)
    session.show(reply, lambda: show_answer(session, reply))


def _predict_files(
    session: Session, files: list[Path], target: str | None, output: Path | None, **options: Any
) -> None:
    if output is not None and len(files) > 1:
        raise typer.BadParameter("--output takes the predictions of one file")
    done = []
    for file in files:
        place = output or file.with_name(f"{file.name.split('.')[0]}_predictions.csv")
        with session.progress() as report:
            done.append(session.project.predict_file(target, file, place, progress=report, **options))
    _show_batches(session, done)


def _predict_stored(session: Session, target: str | None, output: Path | None, **options: Any) -> None:
    if output is None:
        raise typer.BadParameter("--entities all needs --output FILE")
    with session.progress() as report:
        done = session.project.predict_stored(target, output, progress=report, **options)
    _show_batches(session, [done])


def _show_batches(session: Session, done: list[Any]) -> None:
    def human() -> None:
        session.table(
            ("output", "rows", "repaired", "repairs", "deployment"),
            [(str(b.output), b.rows, b.repaired_rows, b.repairs, b.deployment) for b in done],
        )
        session.say(*(f"{b.rejected:,} rows were rejected: {b.rejects}" for b in done if b.rejected))

    session.show(done, human)


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


def stream(
    session: Session,
    target: Annotated[str | None, typer.Argument(metavar="TARGET", help="By default the only one.")] = None,
    *,
    source: Annotated[str, typer.Option("--from", metavar="URL", help="The topic of requests.")],
    answers: Annotated[str, typer.Option("--to", metavar="URL", help="The topic of answers.")],
    dead: Annotated[
        str | None, typer.Option("--dead", metavar="URL", help="For what cannot be answered; by default TO.dead.")
    ] = None,
    group: Annotated[
        str | None, typer.Option("--group", help="Reads as one; by default of the project and target.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Where a new group begins; with the oldest.")
    ] = None,
    drain: Annotated[bool, typer.Option("--drain", help="Stop when no request is left.")] = False,
) -> None:
    """Answer requests from topic to topic, until Ctrl-C. Topics are in Redis, NATS or Kafka."""
    with stopped_by_signals() as stopping:
        done = session.project.stream(
            target, source, answers, dead=dead, group=group, since=since, drain=drain, stopping=stopping
        )
    session.show(done, lambda: session.say(f"{done.read:,} requests: {done.answered:,} answered, {done.dead:,} dead"))


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
