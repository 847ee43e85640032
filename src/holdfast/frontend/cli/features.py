"""Commands about features: make them from the tables, look at definitions, compute matrices."""

from typing import Annotated

import typer

from holdfast.frontend.cli.render import when
from holdfast.frontend.cli.session import Session, command

__all__ = ["register"]

_TARGET = typer.Argument(metavar="TARGET", help="By default the only one.")
_VERSION = typer.Option("--version", metavar="VERSION", help="Of this version of the data; by default the current one.")


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    features = typer.Typer(help="Features: make them, look at them, compute them.", no_args_is_help=True)
    for function, name in ((synthesise, "synthesise"), (list_sets, "list"), (show, "show"), (matrix, "matrix")):
        command(features, name)(function)
    app.add_typer(features, name="features")


def synthesise(
    session: Session,
    target: Annotated[str | None, _TARGET] = None,
    version: Annotated[str | None, _VERSION] = None,
) -> None:
    """Make the features of a target from tables, keys, links and times."""
    found = session.project.synthesise(target, version=version)

    def human() -> None:
        count = len(found.feature_set.features)
        session.say(f"{count} features of {found.record.name}: {found.record.id[:12]}")
        if found.cut:
            many = f"{found.cut}" if found.counted else f"at least {found.cut:,}"
            session.say(f"{many} more were left out by features.max")
        session.say(f"next: holdfast features show {found.record.name}")

    names = list(found.feature_set.names)
    session.show({"id": found.record.id, "target": found.record.name, "features": names, "cut": found.cut}, human)


def list_sets(session: Session) -> None:
    """List feature sets and matrices, newest first."""
    sets, matrices = session.project.features.sets(), session.project.features.matrices()

    def human() -> None:
        session.table(
            ("set", "target", "features", "made"),
            [(s.id[:12], s.name, len(s.definitions["features"]), when(s.made_at)) for s in sets],
        )
        session.table(
            ("matrix", "target", "set", "rows", "seconds", "file"),
            [(m.id[:12], m.target, m.feature_set[:12], m.rows, m.seconds, m.path) for m in matrices],
        )

    listed = [
        {"id": s.id, "target": s.name, "made_at": s.made_at, "dataset": s.dataset,
         "features": len(s.definitions["features"])}
        for s in sets
    ]  # fmt: skip
    session.show({"sets": listed, "matrices": matrices}, human)


def show(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="TARGET", help="A target, or the beginning of a set's id.")],
    search: Annotated[str, typer.Option("--search", help="Only features whose name or words have this in them.")] = "",
) -> None:
    """Show the definitions of a feature set: name, type and what it says."""
    definitions = session.project.definitions(name)
    found = [d for d in definitions if search.lower() in f"{d['name']} {d['description']}".lower()]

    def human() -> None:
        session.table(("feature", "type", "what it is"), [(d["name"], d["type"], d["description"]) for d in found])
        session.say(f"{len(found)} of {len(definitions)} features")

    session.show(found, human)


def matrix(
    session: Session,
    target: Annotated[str | None, _TARGET] = None,
    version: Annotated[str | None, _VERSION] = None,
) -> None:
    """Compute the features of every asked row, each from what was known before its cutoff."""
    with session.progress() as report:
        built = session.project.matrix(target, version=version, progress=report)
    record = built.matrix.record

    def human() -> None:
        count = len(built.matrix.feature_set.features)
        session.say(f"{record.rows:,} rows × {count} features in {record.seconds:.2f} s: {record.path}")
        session.say(*(f"left out: {number:,} rows, {why}" for why, number in (built.matrix.dropped or {}).items()))
        if built.late:
            session.say(f"{built.late:,} labels were known too late to train on")

    session.show({**session.fields(record), "dropped": built.matrix.dropped, "late": built.late}, human)
