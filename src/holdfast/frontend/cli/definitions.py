"""Commands about feature definitions as data: what changed between two sets, and Featuretools' JSON both ways."""

from pathlib import Path
from typing import Annotated

import typer

from holdfast.frontend.cli.session import Session, command

__all__ = ["register"]

_SET = "A target, the beginning of a set's id, or a JSON file."


def register(app: typer.Typer) -> None:
    """Add the commands to the group `features` of `app`."""
    group = next(one.typer_instance for one in app.registered_groups if one.name == "features")
    assert group is not None
    for function, name in ((diff, "diff"), (export, "export"), (import_file, "import")):
        command(group, name)(function)


def diff(
    session: Session,
    old: Annotated[str, typer.Argument(metavar="A", help=_SET)],
    new: Annotated[str, typer.Argument(metavar="B", help=_SET)],
) -> None:
    """Say in words what changed from feature set A to feature set B."""
    changes = session.project.exchange.diff(old, new)

    def human() -> None:
        session.table(("change", "in words"), [(change.kind, change.words) for change in changes])
        session.say(f"{len(changes)} changes" if changes else "the definitions are equal")

    session.show([session.fields(change) for change in changes], human)


def export(
    session: Session,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The JSON file to write.")],
    name: Annotated[str | None, typer.Argument(metavar="SET", help=f"{_SET} By default the only target.")] = None,
    form: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="holdfast, or featuretools for its load_features.")
    ] = "holdfast",
) -> None:
    """Write the definitions of a feature set to a file."""
    found = session.project.exchange.export(file, name, form=form)
    count = len(found.document["feature_list" if form == "featuretools" else "features"])

    def human() -> None:
        session.say(f"{count} features: {file}")
        session.say(*(f"left out: {feature}: {reason}" for feature, reason in found.left_out.items()))
        session.say(*(f"note: {note}" for note in found.notes))

    session.show({"file": file, "features": count, "left_out": dict(found.left_out), "notes": found.notes}, human)


def import_file(
    session: Session,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What featuretools.save_features wrote.")],
) -> None:
    """Record Featuretools' saved features as a feature set over the current tables, named as the file."""
    found = session.project.exchange.read(file)
    names, left_out = [f["name"] for f in session.project.definitions(found.record.id)], found.translated.left_out

    def human() -> None:
        session.say(f"{len(names)} features of {found.record.name}: {found.record.id[:12]}")
        session.say(*(f"left out: {feature}: {reason}" for feature, reason in left_out.items()))
        session.say(*(f"note: {note}" for note in found.translated.notes))
        session.say(f"next: holdfast features show {found.record.name}")

    session.show(
        {"id": found.record.id, "name": found.record.name, "features": names, "left_out": dict(left_out),
         "notes": found.translated.notes},
        human,
    )  # fmt: skip
