"""The demo: a made-up city's deliveries, and the whole job on them."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from holdfast.errors import ConflictError
from holdfast.frontend.cli.models import trained
from holdfast.frontend.cli.serving import show_answer, show_lineage
from holdfast.frontend.cli.session import Session, command

if TYPE_CHECKING:
    from holdfast.frontend.client import Project

__all__ = ["register"]

_TARGET = "风险"
_ASKED: dict[str, Any] = {"entity": "R00630", "cutoff": "2024-07-01", "context": {"inspector": "检查员15"}}


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(app)(demo)


def demo(
    session: Session, folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder for the demo.")]
) -> None:
    """Make up a city's food inspections and run the whole job on them: ingest to a traced prediction."""
    from holdfast.frontend.client import Project
    from holdfast.frontend.demo import DELIVERIES, generate

    root = (session.root / folder).resolve()
    if root.exists() and any(root.iterdir()):
        raise ConflictError(f"{root} is not empty", hint="Choose a new folder.")
    _begin(session, "1/6 A city delivers: 18 months, four tables each, in Chinese and English, with defects")
    with session.progress() as report:
        generate(root, report=report)
    with Project(root) as project:
        session.use(project)
        _begin(session, "2/6 Ingest: each month becomes a version of the data; what breaks the contract is put aside")
        with session.progress() as report:
            imported = project.ingest_folder(root / DELIVERIES, note="demo", progress=report)
        faults = len(project.data.quarantine())
        _say(session, f"{imported[-1].version.version}, {faults} faults in quarantine")
        results = []
        for name in project.settings.targets:
            _begin(session, f"3/6 Train {name}: features as known before each visit, a model for each label")
            with session.progress() as report:
                results.append(project.train(name, note="demo", progress=report))
        if not session.as_json:
            trained(session, results)
        _begin(session, "4/6 Deploy: models are opened and replayed, then they answer")
        for name in project.settings.targets:
            project.deploy(name, note="demo")
        reply, lineage = _ask(session, project)
        session.show({"root": root, "status": project.status(), "prediction": reply, "lineage": lineage},
                     lambda: _where(session, folder))  # fmt: skip


def _ask(session: Session, project: "Project") -> tuple[dict[str, Any], dict[str, Any]]:
    _begin(session, f"5/6 Predict: what will a visit to {_ASKED['entity']} find?")
    _, question = project.question(_TARGET, *_ASKED.values())
    service = project.service
    reply = service.entities(_TARGET, [question], explain=True)
    service.log.flush()
    if not session.as_json:
        show_answer(session, reply)
    _begin(session, "6/6 Trace: from the prediction back to the raw rows")
    lineage = project.trace(reply["predictions"][0]["id"]).to_dict()
    if not session.as_json:
        show_lineage(session, lineage)
    return reply, lineage


def _where(session: Session, folder: Path) -> None:
    place = shlex.quote(str(folder))
    entity, cutoff, context = _ASKED.values()
    question = {"entities": [{"id": entity, "cutoff": cutoff, "context": context}], "explain": True}
    given = " ".join(f"--context {name}={value}" for name, value in context.items())
    session.say(
        "",
        "Look around:",
        f"  holdfast status -C {place}",
        f"  holdfast data quarantine -C {place}",
        f"  holdfast features show {_TARGET} -C {place}",
        f"  {folder}/data/model, {folder}/features, {folder}/logs",
        "Ask for a prediction:",
        f"  holdfast predict -C {place} --target {_TARGET} --entity {entity} --at {cutoff} {given} --explain",
        "Or over HTTP:",
        f"  holdfast serve -C {place}",
        f"  curl -s http://127.0.0.1:8700/v1/targets/{quote(_TARGET)}/predict -d "
        + shlex.quote(json.dumps(question, ensure_ascii=False)),
    )


def _begin(session: Session, what: str) -> None:
    _say(session, "", what)


def _say(session: Session, *lines: str) -> None:
    if not session.as_json:
        session.say(*lines)
