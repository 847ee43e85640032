"""The job `predict`: every row of files, or every stored entity, answered by one deployment into one file.

What answers is pinned when the job begins: deployment, data version, the moment that "now" is, and the SHA-256 of each
file. Rows are answered in blocks, each written as a part (temp → fsync → rename) and recorded as a step, then all parts
become the output in one rename. So a job that was killed goes on after the last part it recorded, and no row is lost or
written twice. Answers are logged before their part is: a block that was answered and not recorded when the process
died is answered again, and the log then has both; ids that no output names are those.
"""

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from holdfast.backend.jobs import Engine, Running
from holdfast.backend.jobs.queue import ACTIVE
from holdfast.backend.pipelines.batch_output import (
    Rejected,
    check_names,
    check_output,
    join,
    rejected_file,
    write_part,
)
from holdfast.backend.pipelines.batch_rows import (
    Answering,
    Block,
    BlockReader,
    Entities,
    Features,
    file_blocks,
    files_of,
    is_features,
)
from holdfast.backend.pipelines.rooms import Rooms
from holdfast.backend.records import DatasetVersion
from holdfast.backend.serving.loader import load_predictor
from holdfast.backend.serving.log import PredictionLog
from holdfast.backend.serving.pinned import Pinned
from holdfast.backend.serving.questions import entity_column
from holdfast.backend.serving.service import Service
from holdfast.backend.store.files import sha256_of_file
from holdfast.core.timeline import isoformat, parse_instant
from holdfast.errors import (
    ConflictError,
    FileError,
    HoldfastError,
    InputError,
    LimitError,
    NotFoundError,
    UnavailableError,
    nearest,
)

if TYPE_CHECKING:
    from holdfast.backend.serving.predictor import Predictor

__all__ = ["BatchReport", "BatchRooms", "predict_batch", "predicting"]

_ROWS = 5_000
"""Rows of a part: what is lost, at most, when the process dies, and what memory is bounded by."""
_FOLDER = "batches"
_LOG_PATIENCE = 600.0
"""Seconds for which a batch waits for a log that cannot be written; then it is tried again later."""
_LOG_TELL = 10.0


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What was done: rows answered and rejected, how many had repairs, and repairs by kind.

    `rejects` is the file of the rejected rows, where they are collected.
    """

    rows: int
    rejected: int
    repaired_rows: int
    repairs: Mapping[str, int]
    deployment: str
    output: Path
    rejects: Path | None = None
    data_version: str | None = None


class BatchRooms(Rooms, Protocol):
    """What a batch works with."""

    @property
    def engine(self) -> Engine:
        """Runs jobs."""
        ...

    @property
    def blocks(self) -> BlockReader:
        """What reads files in blocks."""
        ...


def predicting(
    target: str,
    output: Path,
    *,
    source: Path | None = None,
    entities: bool = False,
    cutoff: str | None = None,
    context: Mapping[str, str] | None = None,
    strict: bool | None = None,
    on_error: str = "fail",
) -> dict[str, Any]:
    """The arguments of a batch: equal ones are the same job.

    `source` is a file, or a folder whose files are read in the order of their names; None: all stored entities that are
    known at `cutoff`, each with `context`. `entities`: the file is a list of entities, whatever its columns are called.
    """
    check_output(output)
    if on_error not in {"fail", "collect"}:
        raise InputError(f"a bad row fails the batch or is collected, not {on_error!r}", hint="Say fail or collect.")
    return {
        "target": target, "source": str(source.absolute()) if source else None, "output": str(output.absolute()),
        "entities": entities, "cutoff": cutoff, "context": dict(context or {}), "strict": strict, "on_error": on_error,
    }  # fmt: skip


def predict_batch(rooms: BatchRooms, running: Running, given: Mapping[str, Any]) -> BatchReport:
    """Do it, from where an earlier attempt stopped.

    InputError names file, row and column: in the mode `fail` every row is looked at first, and a bad one leaves nothing
    behind; in the mode `collect` it goes to a second file. ConflictError when a file changed since the job began.
    """
    output = Path(given["output"])
    check_output(output)
    began_before = running.result("pin") is not None
    pinned = running.step("pin", lambda: _pin(rooms, given))
    if began_before:
        _check_unchanged(pinned["files"])
    _sweep(rooms)
    folder = rooms.layout.private / _FOLDER / running.job.id
    done = running.result("join")
    if done is None:
        batch = _Batch(rooms, running, given, pinned, folder)
        try:
            done = batch.run(output)
        except InputError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            batch.log.close()
    shutil.rmtree(folder, ignore_errors=True)
    rejects = rejected_file(output) if given["on_error"] == "collect" else None
    return BatchReport(**done, deployment=pinned["deployment"], output=output, rejects=rejects)


def _pin(rooms: BatchRooms, given: Mapping[str, Any]) -> dict[str, Any]:
    target = given["target"]
    current = rooms.deployments.current(target)
    if current is None:
        raise NotFoundError(
            f"nothing is deployed for the target {target!r}", where={"target": target},
            hint=nearest(target, rooms.deployments.pointers()),
        )  # fmt: skip
    data = rooms.datasets.current()
    now = rooms.clock.now() if given["cutoff"] is None else parse_instant(given["cutoff"], rooms.settings.timezone)
    files = [] if given["source"] is None else files_of(Path(given["source"]))
    return {
        "deployment": current.id,
        "data": data.id if data else None,
        "now": now,
        "files": [{"path": str(file), "sha256": _hash(file)} for file in files],
    }


def _hash(file: Path) -> str:
    try:
        return sha256_of_file(file)
    except OSError as error:
        raise FileError(
            f"{file.name} cannot be read: {error.strerror}", where={"file": str(file)}, hint="Check the path."
        ) from error


def _check_unchanged(files: Sequence[Mapping[str, str]]) -> None:
    for file in files:
        if _hash(Path(file["path"])) != file["sha256"]:
            raise ConflictError(
                f"{Path(file['path']).name} changed since the job began, which has answered some of it",
                where={"file": file["path"]},
                hint="Put the file back and repeat, or cancel the job (holdfast jobs list) and begin anew.",
            )


def _sweep(rooms: BatchRooms) -> None:
    """Remove the parts of jobs that ended without an output."""
    for folder in (rooms.layout.private / _FOLDER).glob("*"):
        try:
            ended = rooms.engine.queue.get(folder.name).state not in ACTIVE
        except NotFoundError:
            ended = True
        if ended:
            shutil.rmtree(folder, ignore_errors=True)


class _Batch:
    """One attempt."""

    def __init__(
        self, rooms: BatchRooms, running: Running, given: Mapping[str, Any], pinned: Mapping[str, Any], folder: Path
    ) -> None:
        self._rooms, self._running, self._given, self._folder = rooms, running, given, folder
        self._now: int = pinned["now"]
        self._pinned_files = pinned["files"]
        self._files = [Path(file["path"]) for file in self._pinned_files]
        self._predictor: Predictor = load_predictor(rooms.deployments.get(pinned["deployment"]), rooms.sources)
        self._data: DatasetVersion | None = rooms.datasets.get(pinned["data"]) if pinned["data"] else None
        self._live = Pinned(rooms.sources, self._predictor, self._data)
        self._strict = rooms.settings.features.strict if given["strict"] is None else given["strict"]
        self._collect = given["on_error"] == "collect"
        self.log = PredictionLog(rooms.prediction_log)
        self._service = Service(self._live, self.log, rooms.clock, strict=self._strict)

    def run(self, output: Path) -> dict[str, Any]:
        """Look at everything, answer it, join it; returns the counts."""
        total = self._running.step("look", self._look)
        parts, counts = [], {"rows": 0, "rejected": 0, "repaired_rows": 0}
        repairs: dict[str, int] = {}
        for number, block in enumerate(self._blocks()):
            part = self._folder / f"part-{number:06d}.parquet"
            found = self._running.result(part.stem)
            # What a step recorded counts only with its file: the parts of a job that was given up are swept away.
            if found is None or not part.exists():
                found = self._running.step(part.stem, partial(dict, self._write(block, part)))
            parts.append(part)
            for name in counts:
                counts[name] += found[name]
            for kind, times in found["repairs"].items():
                repairs[kind] = repairs.get(kind, 0) + times
            done = counts["rows"] + counts["rejected"]
            self._running.progress(done, total, f"{block.file or 'stored entities'}: {done:,} rows")
        if counts["rows"] + counts["rejected"] != total:
            raise ConflictError(f"there were {total:,} rows, and now {counts['rows'] + counts['rejected']:,}")
        # Joined is only what was read of the files that were pinned, not of what was put in their place meanwhile.
        _check_unchanged(self._pinned_files)
        version = self._data.version if self._data and isinstance(self._asking, Entities) else None
        return self._running.step("join", lambda: self._join(parts, output, counts, repairs, version))  # type: ignore[no-any-return]

    def _join(
        self, parts: Sequence[Path], output: Path, counts: Mapping[str, int], repairs: Mapping[str, int],
        version: str | None,
    ) -> dict[str, Any]:  # fmt: skip
        join(parts, output, rejected=self._collect)
        return {**counts, "repairs": dict(repairs), "data_version": version}

    @cached_property
    def _asking(self) -> Answering:
        """How rows are asked, which the columns of the first file say."""
        first = next(iter(self._blocks()))
        listed = self._given["entities"] or not self._files
        if not listed and is_features(self._predictor, first.table.column_names):
            return Features(self._service, self._predictor, self._strict)
        return Entities(self._service, self._predictor, self._strict, isoformat(self._now))

    def _blocks(self) -> Iterator[Block]:
        if self._files:
            yield from file_blocks(self._rooms.blocks, self._files, _ROWS)
            return
        from holdfast.backend.pipelines.materialise import known_entities

        world = self._live.stored(self._predictor).world
        entity = self._predictor.feature_set.entity
        keys = known_entities(world, entity, self._now)
        name = entity_column(self._predictor.feature_set).name
        for start in range(0, len(keys), _ROWS):
            some = keys.slice(start, _ROWS)
            same = {key: [text] * len(some) for key, text in self._given["context"].items()}
            yield Block(pa.table({name: some, **same}), "", range(start + 1, start + 1 + len(some)), text=True)

    def _look(self) -> int:
        """Count the rows; where a bad one ends the batch, find it before anything is answered."""
        total = 0
        for block in self._blocks():
            with _placed(block):
                carried = self._asking.carried(block.table.column_names)
                check_names(self._predictor, carried, block.file)
                if not self._collect:
                    self._asking.check(self._asking.questions(block))
            total += block.table.num_rows
            self._running.progress(0, 1, f"looked at {total:,} rows")
        return total

    def _write(self, block: Block, part: Path) -> dict[str, Any]:
        questions = self._asking.questions(block)
        answers: list[tuple[int, Any]] = []
        rejected: list[Rejected] = []
        dropped = self.log.stats.dropped
        with _placed(block):
            self._answer(questions, 0, block, answers, rejected)
        self._logged()
        if self.log.stats.dropped > dropped:
            raise UnavailableError("the predictions cannot be logged", hint="See logs/ for the reason; repeat then.")
        carried = block.table.select(self._asking.carried(block.table.column_names))
        kept = carried.take(pa.array([index for index, _ in answers], pa.int64()))
        write_part(part, self._predictor, kept, [answer for _, answer in answers], rejected)
        kinds: dict[str, int] = {}
        for _, answer in answers:
            for repair in answer["repairs"]:
                kinds[repair["kind"]] = kinds.get(repair["kind"], 0) + 1
        repaired = sum(1 for _, answer in answers if answer["repairs"])
        return {"rows": len(answers), "rejected": len(rejected), "repaired_rows": repaired, "repairs": kinds}

    def _logged(self) -> None:
        """Wait for the log, which may be slow; UnavailableError, that is, later again, when it does not go on."""
        until = time.monotonic() + _LOG_PATIENCE
        while True:
            try:
                self.log.flush(_LOG_TELL)
            except LimitError as error:
                if time.monotonic() > until:
                    raise UnavailableError(error.message, where=error.where, hint=error.hint) from error
                self._running.progress(0, 1, f"waits for the prediction log: {error.message}")
            else:
                return

    def _answer(
        self, questions: Sequence[Any], start: int, block: Block, answers: list[tuple[int, Any]],
        rejected: list[Rejected],
    ) -> None:  # fmt: skip
        """Answer the questions; in halves where they cannot be answered together, down to the rows that are bad."""
        if not questions:
            return
        try:
            reply = self._asking.answer(questions)
        except InputError as error:
            if not self._collect:
                raise
            if len(questions) == 1:
                column = error.where.get("feature", error.where.get("column"))
                where = None if column is None else str(column)
                rejected.append(Rejected(block.file, int(block.rows[start]), where, error.code, error.message))
                return
            half = len(questions) // 2
            self._answer(questions[:half], start, block, answers, rejected)
            self._answer(questions[half:], start + half, block, answers, rejected)
            return
        answers += enumerate(reply["predictions"], start)


@contextmanager
def _placed(block: Block) -> Iterator[None]:
    """Errors name the file and its row instead of the place in the block."""
    try:
        yield
    except HoldfastError as error:
        where = dict(error.where)
        index = where.pop("row", where.pop("question", None))
        place: dict[str, object] = {"file": block.file} if block.file else {}
        if isinstance(index, int):
            place["row"] = block.rows[index]
        raise type(error)(error.message, where={**place, **where}, hint=error.hint) from error
