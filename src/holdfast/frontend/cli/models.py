"""Commands about models: train them, look at their versions, deploy them, go back."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.frontend.cli.render import cell, when
from holdfast.frontend.cli.session import WAIT, Session, command

__all__ = ["register", "trained", "versions_of"]

_TARGET = typer.Argument(metavar="TARGET", help="By default the only one.")
_MODEL = typer.Argument(metavar="MODEL", help="TARGET/LABEL, or TARGET where it has one model.")
_NOTE = typer.Option("--note", help="Why, for those who look later.")
_SHOWN = ("roc_auc", "pr_auc", "prevalence", "accuracy", "f1", "log_loss", "mae", "rmse", "r2")
"""Metrics of the test part that a table shows, in this order, where a model has them."""


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    command(app)(train)
    command(app)(deploy)
    command(app, "import")(import_models)
    models = typer.Typer(help="Model versions: look, compare, go back.", no_args_is_help=True)
    for function, name in (
        (versions, "list"), (show, "show"), (compare, "compare"), (rollback, "rollback"), (scan, "scan"),
    ):  # fmt: skip
        command(models, name)(function)
    app.add_typer(models, name="models")
    deployments = typer.Typer(help="What answers, and what did; go back.", no_args_is_help=True)
    command(deployments, "list")(list_deployments)
    command(deployments, "rollback")(roll_deployment_back)
    command(deployments, "export")(export_deployment)
    app.add_typer(deployments, name="deployments")


def train(
    session: Session,
    target: Annotated[str | None, typer.Argument(metavar="TARGET", help="By default every one.")] = None,
    *,
    label: Annotated[list[str] | None, typer.Option("--label", help="Only these labels of TARGET.")] = None,
    note: Annotated[str, _NOTE] = "",
    force: Annotated[bool, typer.Option("--force", help="Also what was trained already on the same data.")] = False,
    wait: Annotated[float, WAIT] = 0.0,
) -> None:
    """Train a model for each label of a target, from the current data."""
    if label and target is None:
        raise typer.BadParameter("--label needs the TARGET it belongs to")
    names: list[str | None] = [target] if target else list(session.project.settings.targets) or [None]
    results = []
    for name in names:
        with session.progress() as report:
            made = session.project.train(name, labels=label, note=note, force=force, progress=report, wait=wait)
            results.append(made)
    session.show(results, lambda: trained(session, results))


def trained(session: Session, results: Sequence[Any]) -> None:
    """Show what trainings made, with the metrics of their test rows."""
    _table(session, [version for result in results for version in result.models])
    for result in results:
        if result.repeated:
            session.say(
                f"{result.run.target} was trained like this before: those models are current (--force trains again)"
            )
    targets = dict.fromkeys(result.run.target for result in results)
    session.say(*(f"next: holdfast deploy {name}" for name in targets))


def _table(session: Session, versions: Sequence[Any]) -> None:
    """Model versions; of each group with the same metrics a table."""
    groups: dict[tuple[str, ...], list[Any]] = {}
    for version in versions:
        test = version.metrics.get("test") or {}
        groups.setdefault(tuple(name for name in _SHOWN if name in test), []).append(version)
    for names, group in groups.items():
        rows = [
            (v.model, v.version, when(v.made_at), v.metrics.get("rows", {}).get("test"),
             *(v.metrics["test"][name] for name in names), v.note)
            for v in group
        ]  # fmt: skip
        session.table(("model", "version", "made", "test rows", *names, "note"), rows)


def versions(session: Session, model: Annotated[str | None, typer.Argument(metavar="MODEL")] = None) -> None:
    """List the current version of every model, or all versions of one."""
    models = session.project.models
    found = models.versions(models.get(model).model) if model else models.current()
    session.show(found, lambda: _table(session, found))


def show(
    session: Session,
    model: Annotated[str, _MODEL],
    version: Annotated[str | None, typer.Argument(metavar="VERSION", help="By default the current one.")] = None,
) -> None:
    """Show one model version: where it came from and how good it is."""
    found = session.project.models.get(model, version)
    tags = [tag for tag, version in session.project.models.tags(found.model).items() if version == found.id]

    def human() -> None:
        session.say(
            f"{found.model} {found.version}  {when(found.made_at)}  {found.note}",
            f"id {found.id}, run {found.run}, data {found.dataset}, features {found.feature_set[:12]}",
        )
        if tags:
            session.say(f"tags: {cell(tags)}")
        parts = {name: found.metrics[name] for name in ("train", "validate", "test") if found.metrics.get(name)}
        names = list(dict.fromkeys(name for part in parts.values() for name, value in part.items() if _is_one(value)))
        session.table(("metric", *parts), [(name, *(part.get(name) for part in parts.values())) for name in names])
        for name in ("intervals", "rows", "fit", "onnx"):
            if found.metrics.get(name):
                session.say(f"{name}: {cell(found.metrics[name])}")
        session.say(f"parameters: {cell(found.parameters)}")

    session.show(found, human)


def _is_one(value: Any) -> bool:
    return not isinstance(value, Mapping | list | tuple)


def compare(
    session: Session,
    model: Annotated[str, _MODEL],
    before: Annotated[str, typer.Argument(metavar="BEFORE", help="A version.")],
    after: Annotated[str, typer.Argument(metavar="AFTER", help="A version.")],
) -> None:
    """Compare two versions of a model: metrics, parameters, features."""
    models = session.project.models
    found = models.compare(models.get(model, before), models.get(model, after))

    def human() -> None:
        session.table(
            ("metric", before, after, "change"),
            [(name, m["a"], m["b"], m["change"]) for name, m in found["metrics"].items()],
        )
        session.say(*(f"{name}: {cell(p['a'])} → {cell(p['b'])}" for name, p in found["parameters"].items()))
        session.say(*(f"features {what}: {cell(names)}" for what, names in found["features"].items() if names))

    session.show(found, human)


def rollback(
    session: Session,
    model: Annotated[str, _MODEL],
    to: Annotated[str | None, typer.Option("--to", metavar="VERSION", help="By default the one before.")] = None,
    note: Annotated[str, _NOTE] = "rollback",
) -> None:
    """Make an earlier version of a model current. What is deployed stays; `deploy` moves it."""
    found = session.project.models.rollback(model, to, why=note)
    session.show(found, lambda: session.say(f"{found.model} {found.version} is current"))


def scan(
    session: Session,
    folder: Annotated[Path | None, typer.Argument(metavar="DIR", help="By default data/model.")] = None,
) -> None:
    """Look at the files of a folder of models, without opening any: ok, changed, missing, unknown or unfit."""
    found = session.project.scan_models(folder)

    def human() -> None:
        session.table(("file", "model", "state", "detail"), [(f.file, f.model, f.state, f.detail) for f in found])
        states = Counter(finding.state for finding in found)
        session.say(", ".join(f"{count} {state}" for state, count in states.items()) or "there are no models")
        if folder is None and states["changed"] + states["missing"]:
            session.say(
                "next: remove what was changed, and the next `holdfast train` writes what is recorded;"
                " changed weights become a new version then"
            )

    session.show(found, human)


def import_models(
    session: Session,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A data/model folder of another project.")],
    trust: Annotated[
        bool, typer.Option("--trust", help="Open packages nobody here made; opening one runs its code.")
    ] = False,
) -> None:
    """Register the model packages of a folder: all of them, or none."""
    found = session.project.import_models(folder, trust=trust)

    def human() -> None:
        _table(session, found)
        session.say(f"{len(found)} models imported" if found else "they are all known here: nothing changed")

    session.show(found, human)


def deploy(
    session: Session,
    target: Annotated[str | None, _TARGET] = None,
    version: Annotated[
        list[str] | None, typer.Option("--version", metavar="LABEL=VERSION", help="Another than the current version.")
    ] = None,
    note: Annotated[str, _NOTE] = "",
) -> None:
    """Let the current models of a target answer; running servers follow within a second."""
    found = session.project.deploy(target, versions=versions_of(version), note=note)

    def human() -> None:
        session.say(f"{found.target} is answered by {found.id}: {cell(_versions(session, found.models))}")
        session.say("next: holdfast serve, or holdfast predict FILE")

    session.show(found, human)


def versions_of(given: Sequence[str] | None) -> dict[str, str]:
    """What `--version LABEL=VERSION` says."""
    chosen = {}
    for item in given or ():
        name, equals, number = item.rpartition("=")
        if not equals:
            raise typer.BadParameter(f"{item!r} is not LABEL=VERSION")
        chosen[name] = number
    return chosen


def _versions(session: Session, models: Mapping[str, str]) -> dict[str, str]:
    return {label: session.project.models.get(model).version for label, model in models.items()}


def list_deployments(session: Session, target: Annotated[str | None, _TARGET] = None) -> None:
    """List deployments, newest first."""
    found = session.project.deployments.history(target)
    routes = session.project.deployments.routes().values()
    current = {route.stable: "answers" for route in routes}
    trial = {arm.deployment: f"{arm.mode} {100 * arm.share:g} %" for route in routes for arm in route.arms}
    said = {**trial, **current}
    rows = [(d.id, d.target, when(d.made_at), _versions(session, d.models), d.note, said.get(d.id, "")) for d in found]

    def human() -> None:
        session.table(
            ("deployment", "target", "made", "models", "note", ""),
            rows,
        )

    session.show([{**session.fields(d), "current": d.id in current} for d in found], human)


def roll_deployment_back(
    session: Session,
    target: Annotated[str | None, _TARGET] = None,
    to: Annotated[str | None, typer.Option("--to", metavar="DEPLOYMENT", help="By default the one before.")] = None,
) -> None:
    """Let an earlier deployment answer again."""
    found = session.project.rollback(target, to=to)
    session.show(
        found,
        lambda: session.say(f"{found.target} is answered by {found.id}: {cell(_versions(session, found.models))}"),
    )


def export_deployment(
    session: Session,
    target: Annotated[str, typer.Argument(metavar="TARGET", help="What answers it now.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
) -> None:
    """Write a deployment to a folder that answers without the project: for serverless functions."""
    files = session.project.export_deployment(target, folder)

    def human() -> None:
        session.say(
            f"wrote {len(files)} files to {folder}",
            "next: set HOLDFAST_BUNDLE, and the handler to holdfast.serverless.handler",
        )

    session.show({"files": [str(file) for file in files]}, human)
