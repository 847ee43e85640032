"""The client's verbs that answer many: files, stored entities, topics, folders for functions. A part of `Project`."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.backend.wiring import Services, stream
from holdfast.frontend.features import Progress

if TYPE_CHECKING:
    from holdfast.backend.api.streaming import StreamReport
    from holdfast.backend.pipelines.predicting import BatchReport

__all__ = ["AnswerVerbs"]


class AnswerVerbs:
    """Predictions for files and stored entities, from topic to topic, and a deployment as a folder."""

    _services: Services
    _verb: Callable[[str, str], AbstractContextManager[None]]
    _run: Callable[..., Any]

    def predict_file(
        self,
        target: str | None,
        file: str | Path,
        output: str | Path,
        *,
        entities: bool = False,
        cutoff: str | None = None,
        strict: bool | None = None,
        on_error: str = "fail",
        progress: Progress | None = None,
    ) -> "BatchReport":
        """Predict every row of a file, or of the files of a folder, into `output` (.csv, .parquet or .jsonl).

        A file with feature columns is a table of features; any other, or with `entities`, is a list of entities, with
        their context; rows without a `cutoff` are asked at `cutoff`, by default now. With `strict` (by default as
        `features.strict` says) a row that would have to be repaired is bad. A bad row fails all (`on_error="fail"`) or
        goes into a second file ("collect"). A job: called again after a crash, it goes on where it stopped.
        """
        return self._predict(
            target, Path(file).name, output, source=Path(file), entities=entities, cutoff=cutoff, strict=strict,
            on_error=on_error, progress=progress,
        )  # fmt: skip

    def predict_stored(
        self,
        target: str | None,
        output: str | Path,
        *,
        cutoff: str | None = None,
        context: Mapping[str, str] | None = None,
        strict: bool | None = None,
        on_error: str = "fail",
        progress: Progress | None = None,
    ) -> "BatchReport":
        """Predict every stored entity of the target that is known at `cutoff` (by default now), all with `context`.

        Into `output`, and as `predict_file` in all else.
        """
        return self._predict(
            target, "stored entities", output, cutoff=cutoff, context=context, strict=strict, on_error=on_error,
            progress=progress,
        )  # fmt: skip

    def _predict(
        self, target: str | None, what: str, output: str | Path, *, progress: Progress | None, **options: Any
    ) -> "BatchReport":
        from holdfast.backend.pipelines.features import find_target
        from holdfast.backend.pipelines.predicting import predicting

        name = find_target(self._services.settings, target)
        arguments = predicting(name, Path(output), **options)
        report: BatchReport = self._run("predict", arguments, f"{name} {what}", progress=progress)
        # The job knows whole paths; who asked is told the path as it was given.
        rejects = report.rejects and Path(output).with_name(report.rejects.name)
        return replace(report, output=Path(output), rejects=rejects)

    def stream(
        self,
        target: str | None,
        source: str,
        answers: str,
        *,
        dead: str | None = None,
        group: str | None = None,
        since: str | None = None,
        drain: bool = False,
        stopping: Callable[[], bool] = lambda: False,
    ) -> "StreamReport":
        """Answer the requests of the topic `source` into the topic `answers`, until `stopping` says so.

        Topics are URLs: redis://host:6379/0/TOPIC, nats://host:4222/TOPIC, kafka://host:9092/TOPIC. What cannot be
        answered goes to `dead` (by default beside the answers, TOPIC.dead). `group` reads as one (by default of the
        project and target); a new one begins with the oldest message, or at the time `since`. `drain`: until none is
        left. ConfigError for another URL, NotFoundError when nothing is deployed, UnavailableError with `drain` only:
        else a server that is away is waited for.
        """
        from holdfast.backend.pipelines.features import find_target
        from holdfast.core.timeline import parse_instant

        name = find_target(self._services.settings, target)
        start = 0 if since is None else parse_instant(since, self._services.settings.timezone)
        place, question, options = answers.partition("?")
        with self._verb("stream", name):
            return stream(
                self._services, name, (source, answers, dead or f"{place}.dead{question}{options}"), stopping,
                group=group or f"holdfast {self._services.settings.project} {name}", start=start, drain=drain,
            )  # fmt: skip

    def export_deployment(self, target: str | None, folder: str | Path) -> list[Path]:
        """Write what answers a target to a new folder, for `holdfast.serverless`; returns its files."""
        from holdfast.backend.pipelines.features import find_target
        from holdfast.backend.serving.folder import export_deployment

        name = find_target(self._services.settings, target)
        with self._verb("deploy", f"export {name}"):
            strict = self._services.settings.features.strict
            return export_deployment(self._services.sources, name, Path(folder).absolute(), strict=strict)
