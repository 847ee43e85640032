"""Commands about a project as a whole."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.frontend.cli.render import cell
from holdfast.frontend.cli.session import Session, command

__all__ = ["register"]

_HEADLINES = ("roc_auc", "accuracy", "mae")


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    command(app)(init)
    command(app)(status)


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


def status(session: Session) -> None:
    """Show the whole at a glance: data, features, models, what answers, and what to do next."""
    found = session.project.status()
    session.show(found, lambda: _shown(session, found))


def _shown(session: Session, found: Mapping[str, Any]) -> None:
    data = found["data"]
    session.say(found["project"])
    if data:
        session.say(
            f"data {data['version']}, {data['state']}: {sum(data['rows'].values()):,} rows up to {data['period']}, "
            f"{data['quarantined']:,} faults in quarantine, {data['versions']} versions"
        )
    rows = []
    for name, target in found["targets"].items():
        answering = target["deployment"]["models"] if target["deployment"] else {}
        for label, model in (target["models"] or {"": None}).items():
            rows.append((name, label, *_model(model), target["data_version"], answering.get(label)))
    if rows:
        session.table(("target", "label", "model", "on test rows", "data", "answers"), rows)
    session.say(*(f"being trained: {name}" for name in found["training"]))
    if found["next"]:
        session.say(f"next: {found['next']}")


def _model(model: Mapping[str, Any] | None) -> tuple[str, str]:
    if model is None:
        return "not trained", ""
    test = model["metrics"].get("test") or {}
    return model["version"], ", ".join(f"{name} {cell(test[name])}" for name in _HEADLINES if name in test)
