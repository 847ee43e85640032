"""The Python client: `holdfast.open(path)` gives a `Project`, whose methods are the verbs of the command line.

Verbs make things (`ingest`, `synthesise`, `train`, `deploy` ...). What is there is looked at, and gone back to, in the
rooms `data`, `features`, `feature_groups`, `models` and `deployments`; `service` answers.
"""

import getpass
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from holdfast.backend.layout import PROJECT_FILE
from holdfast.backend.logging import LOGGER
from holdfast.backend.project_file import parse
from holdfast.backend.wiring import Services, file_reader
from holdfast.errors import ConflictError, HoldfastError, NotFoundError
from holdfast.frontend.access import AccessVerbs
from holdfast.frontend.answers import AnswerVerbs
from holdfast.frontend.backups import BackupVerbs
from holdfast.frontend.features import FeatureVerbs, Progress
from holdfast.frontend.rollouts import RolloutVerbs
from holdfast.frontend.undo import UndoVerbs
from holdfast.frontend.versions import VersionVerbs

if TYPE_CHECKING:
    import pyarrow as pa

    from holdfast.backend.deployment.deployments import Deployments
    from holdfast.backend.jobs import Queue
    from holdfast.backend.pipelines.features import BuiltMatrix, SynthesisResult
    from holdfast.backend.pipelines.ingest import IngestResult
    from holdfast.backend.pipelines.trace import Node
    from holdfast.backend.pipelines.train import Trained
    from holdfast.backend.records import Deployment, ModelVersion
    from holdfast.backend.registry.intake import Finding
    from holdfast.backend.registry.registry import Registry
    from holdfast.backend.serving.questions import Question
    from holdfast.backend.serving.service import Service

__all__ = ["Progress", "Project", "init"]

_LOGGED_AS = {
    "ingest": "ingest", "ingest_folder": "ingest", "matrix": "features", "materialise": "features", "train": "train",
    "deploy": "deploy", "rollback": "deploy", "rollout_start": "rollout", "rollout_end": "rollout", "compact": "data",
    "collect": "data", "backup": "backup", "predict": "predict",
}  # fmt: skip
"""The part of the system that a kind of job shows as in the log."""


class Project(FeatureVerbs, VersionVerbs, UndoVerbs, BackupVerbs, AccessVerbs, AnswerVerbs, RolloutVerbs):
    """A project in a folder. Use it as a context manager, or `close` it."""

    def __init__(self, path: str | Path = ".") -> None:
        self.root = Path(path).resolve()
        self._services = Services(self.root)

    @property
    def models(self) -> "Registry":
        """Runs and model versions: list, load, compare, tag, go back."""
        return self._services.registry

    @property
    def deployments(self) -> "Deployments":
        """What answers, and what did."""
        return self._services.deployments

    @property
    def service(self) -> "Service":
        """Predictions in this process, by `features`, raw `rows` or `entities`: the answers that a server gives."""
        self._services.service.live.look()
        return self._services.service

    @property
    def author(self) -> str:
        """Who is working, for records."""
        try:
            return getpass.getuser()
        except (OSError, KeyError):  # no such user, as in some containers
            return ""

    def ingest(
        self,
        period: str,
        files: Sequence[str | Path],
        *,
        note: str = "",
        progress: Progress | None = None,
        wait: float = 0.0,
    ) -> "IngestResult":
        """Import the files (or folders of files) delivered for `period` as a new version: all of them, or none.

        Trainings that the new data ask for are sent with it, for a worker to do. `wait`: seconds, while somebody else
        changes the data.
        Raises FileError or ContractError saying what is wrong where; then nothing has changed.
        """
        arguments = {"period": period, "files": [str(Path(file).absolute()) for file in files], "note": note}
        result: IngestResult = self._run("ingest", arguments, period, progress=progress, wait=wait)
        return result

    def ingest_folder(
        self, folder: str | Path, *, note: str = "", progress: Progress | None = None, wait: float = 0.0
    ) -> "list[IngestResult]":
        """Import all folders in `folder` that are named by periods, oldest first; a version each.

        Raises as `ingest`; the periods before the one that failed stay imported.
        """
        arguments = {"folder": str(Path(folder).absolute()), "note": note}
        results: list[IngestResult] = self._run("ingest_folder", arguments, str(folder), progress=progress, wait=wait)
        return results

    def rows(self, table: str, *, version: str | None = None, history: bool = False) -> "pa.Table":
        """Rows of a table to be shown: current ones without Holdfast's own columns, or all states with them.

        Times are in the project's time zone; columns marked personal are masked. `data.read` gives what is stored.
        """
        import pyarrow as pa

        from holdfast.backend.pipelines.masking import mask_rows, personal_columns
        from holdfast.core.schema import SYSTEM_FIELDS

        schema = self.data.schema(version)
        rows = self.data.read(version, [schema.table(table).name], current_only=not history)[table]
        self._told(f"table:{table}", version=version or "current", rows=len(rows), history=history)
        rows = mask_rows(rows, personal_columns(self.settings, schema)[table])
        local = pa.timestamp("us", tz=self.settings.timezone)
        rows = rows.cast(pa.schema([f.with_type(local) if pa.types.is_timestamp(f.type) else f for f in rows.schema]))
        return rows if history else rows.drop_columns([n for n in SYSTEM_FIELDS if n in rows.column_names])

    def synthesise(self, target: str | None = None, *, version: str | None = None) -> "SynthesisResult":
        """Synthesise the features of a target (the only one by default) over a version of the data."""
        from holdfast.backend.pipelines.features import find_target, synthesise_set

        name = find_target(self.settings, target)
        with self._verb("features", f"synthesise {name}"):
            return synthesise_set(self.data, self.features, self.settings, name, version, own=self._services.own)

    def matrix(
        self,
        target: str | None = None,
        *,
        version: str | None = None,
        frozen_at: str | None = None,
        full: bool = False,
        progress: Progress | None = None,
    ) -> "BuiltMatrix":
        """Compute the point-in-time matrix of a target and write it below `features/`.

        What an older matrix still answers is taken over, unless `full`. `frozen_at` (a date or time) is used instead of
        `features.frozen`.
        """
        from holdfast.backend.pipelines.features import find_target

        name = find_target(self.settings, target)
        arguments = {"target": name, "version": version, "frozen_at": frozen_at, "full": full}
        built: BuiltMatrix = self._run("matrix", arguments, f"matrix {name}", progress=progress)
        return built

    def train(
        self,
        target: str | None = None,
        *,
        labels: Sequence[str] | None = None,
        note: str = "",
        force: bool = False,
        progress: Progress | None = None,
        wait: float = 0.0,
    ) -> "Trained":
        """Compute the matrix of a target (the only one by default) and train a model a label, all or none.

        `wait`: seconds, while somebody else trains one of the models; LockedError says who after that.
        What was trained already on the same data with the same parameters is not trained again, unless `force`.
        """
        from holdfast.backend.pipelines.features import find_target
        from holdfast.backend.pipelines.handlers import training_of

        name = find_target(self.settings, target)
        arguments = training_of(name, labels=list(labels) if labels else None, note=note, force=force)
        trained: Trained = self._run("train", arguments, name, progress=progress, wait=wait)
        return trained

    def import_models(self, folder: str | Path, *, trust: bool = False) -> "list[ModelVersion]":
        """Register the model packages of a folder that another Holdfast wrote, all or none.

        UntrustedError unless `trust`, or the packages are known here: opening one runs its code.
        """
        from holdfast.backend.registry.intake import import_folder

        with self._verb("import", str(folder)):
            return import_folder(self.models, self.features, Path(folder), trust=trust, own=self._services.own)

    def scan_models(self, folder: str | Path | None = None) -> "list[Finding]":
        """Look at the files of a folder of models (by default data/model) without opening any.

        Each is ok, changed, missing, unknown here, or unfit. NotFoundError when there is no such folder.
        """
        from holdfast.backend.registry.intake import scan

        return scan(self.models, None if folder is None else Path(folder))

    def deploy(
        self, target: str | None = None, *, versions: Mapping[str, str] | None = None, note: str = ""
    ) -> "Deployment":
        """Let the current models of a target answer (or for some labels other `versions`: label → vX.Y).

        The models are opened and replayed first. Running servers follow within a second, without a restart.
        """
        name, models = self.chosen(target, versions)
        made: Deployment = self._run("deploy", {"target": name, "models": models, "note": note}, name)
        return made

    def chosen(
        self, target: str | None = None, versions: Mapping[str, str] | None = None
    ) -> tuple[str, dict[str, str]]:
        """The target's name, and label → id of its current models or, where `versions` says so, of another."""
        from holdfast.backend.pipelines.features import find_target

        name = find_target(self.settings, target)
        current = {version.label: version for version in self.models.current(name)}
        models = {label: version.id for label, version in current.items()}
        for label, version in (versions or {}).items():
            if label not in current:
                raise NotFoundError(
                    f"target {name!r} has no model {label!r}",
                    where={"target": name, "label": label},
                    hint=f"Its labels are: {', '.join(current) or 'none yet'}",
                )
            models[label] = self.models.get(current[label].model, version).id
        return name, models

    def rollback(self, target: str | None = None, *, to: str | None = None) -> "Deployment":
        """Go back to the deployment `to`, by default the one before the current."""
        from holdfast.backend.pipelines.features import find_target

        name = find_target(self.settings, target)
        made: Deployment = self._run("rollback", {"target": name, "to": to}, f"rollback {name}")
        return made

    def question(
        self, target: str | None, entity: str, cutoff: str | None = None, context: Mapping[str, str] | None = None
    ) -> "tuple[str, Question]":
        """The target's name and a question for `service.entities`, from texts: numbers where columns are numbers.

        A text that is no number where one is needed stays text, which `service.entities` refuses.
        """
        from holdfast.backend.pipelines.features import find_target
        from holdfast.backend.serving.questions import Question, entity_column, from_text

        name = find_target(self.settings, target)
        asked = self.service.live.predictor(name).feature_set
        types = {column.name: column.dtype for column in asked.context}
        given = {key: from_text(types[key], text) if key in types else text for key, text in (context or {}).items()}
        return name, Question(from_text(entity_column(asked).dtype, entity), cutoff, given)

    def serve(self, announce: Callable[[str], None]) -> None:
        """Serve predictions and the control plane until SIGINT or SIGTERM; `announce` is told where."""
        with self._verb("serve", self.settings.project):
            self._services.serve(announce)

    def trace(self, name: str) -> "Node":
        """What a prediction (by its id) or a model (`<target>/<label>`, or the id of a version) came from."""
        from holdfast.backend.pipelines.trace import trace_model, trace_prediction

        try:
            found = self.models.get(name)
        except NotFoundError:
            traced = trace_prediction(self._services.lineage, name)
            self._told(f"prediction:{name}")
            return traced
        return trace_model(self._services.lineage, found.id)

    def status(self) -> dict[str, Any]:
        """The whole at a glance, as plain data."""
        return self._services.status()

    @property
    def jobs(self) -> "Queue":
        """What was done, is done and waits: list, get, steps, cancel, retry."""
        return self._services.engine.queue

    def work(self, *, processes: int = 1, drain: bool = False) -> None:
        """Run jobs that wait or whose process died until SIGINT or SIGTERM, or with `drain` until none is left."""
        with self._verb("jobs", "worker"):
            self._services.work(processes=processes, drain=drain)

    def schedules(self) -> dict[str, dict[str, Any]]:
        """The schedules of the project file by name: cron, job, arguments, and when each is due `next` (instant)."""
        schedules = self._services.schedules
        due = schedules.next()
        return {
            name: {"cron": one.cron, "job": one.kind, "arguments": dict(one.arguments), "next": due[name]}
            for name, one in schedules.wanted.items()
        }

    def _run(
        self,
        kind: str,
        arguments: Mapping[str, Any],
        what: str,
        *,
        progress: Progress | None = None,
        wait: float = 0.0,
    ) -> Any:
        """Do a job here and now."""
        with self._verb(_LOGGED_AS[kind], what):
            return self._services.engine.run(kind, arguments, progress=progress, wait=wait)

    @contextmanager
    def _verb(self, module: str, what: str) -> Iterator[None]:
        """Log that something begins, and how it ends."""
        log = logging.getLogger(f"{LOGGER}.{module}")
        log.info("%s: begin", what)
        started = perf_counter()
        try:
            with self._kept(module, what):
                yield
        except HoldfastError as error:
            log.error("%s: %s: %s", what, error.code, error)  # noqa: TRY400 - the traceback of a said error tells nothing
            raise
        except BaseException:
            log.exception("%s: failed", what)
            raise
        log.info("%s: done in %.1f s", what, perf_counter() - started)

    def close(self) -> None:
        """Give back what is held open."""
        self._services.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def init(folder: str | Path, from_: str | Path | None = None) -> Path:
    """Write a commented project file into `folder`, which is made if need be; returns the file's path.

    With `from_`, a folder of files or of folders named as periods, it proposes the tables found there.
    Raises ConflictError when there is a project file already, NotFoundError when `from_` holds no table.
    """
    from holdfast.backend.pipelines.propose import look, propose
    from holdfast.backend.pipelines.template import render

    root = Path(folder).resolve()
    path = root / PROJECT_FILE
    if path.exists():
        raise ConflictError(f"{path} is there already", hint="Edit it, or choose another folder.")
    proposal = None
    if from_ is not None:
        with file_reader() as read:
            proposal = propose(look(Path(from_), read))
    text = render(root.name or "project", proposal)
    parse(text, str(path))
    try:
        root.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ConflictError(f"{path} cannot be written: {error.strerror}", hint="Choose another folder.") from error
    return path
