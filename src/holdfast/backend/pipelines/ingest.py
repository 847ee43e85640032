"""Ingest: delivered files in, one committed version of all tables out; or an error, and nothing has changed.

For each period: copy the files, read them, type and check each table, compare with the last states, write parts,
publish the raw files, commit. Only the commit makes any of it visible. Files of the next periods are copied and read
while one period is worked on.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from holdfast.backend.datasets import Datasets
from holdfast.backend.datasets.raw import RawFiles, Staged, delivery_parts
from holdfast.backend.pipelines.delivery import IngestResult, Loaded, Reader, apply_delivery, claims, rules_of
from holdfast.backend.records import RawTable
from holdfast.backend.settings import Settings
from holdfast.core.timeline import Period
from holdfast.errors import HoldfastError, InputError

__all__ = ["IngestResult", "Progress", "Reader", "ingest", "ingest_folder"]

Progress = Callable[[int, int, str], None]
"""Called with (done, total, message)."""

_AHEAD = 3


@dataclass(frozen=True, slots=True)
class _Delivery:
    period: Period
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()


def ingest(
    datasets: Datasets,
    settings: Settings,
    reader: Reader,
    period: str,
    files: Sequence[Path],
    *,
    note: str = "",
    author: str = "",
    progress: Progress | None = None,
) -> IngestResult:
    """Import one delivery: the files of `period` (a folder stands for the files in it).

    All or nothing. Files that were delivered for the period before, unchanged, are a no-op (`created` is False); other
    files for it are a correction. ContractError, FileError or ConflictError say what is in the way; LockedError who.
    """
    expanded, notes = _expand(files)
    delivery = _Delivery(Period.parse(period, settings.timezone), expanded, notes)
    return _run(datasets, settings, reader, [delivery], note=note, author=author, progress=progress)[0]


def ingest_folder(
    datasets: Datasets,
    settings: Settings,
    reader: Reader,
    folder: Path,
    *,
    note: str = "",
    author: str = "",
    progress: Progress | None = None,
) -> list[IngestResult]:
    """Import a folder whose sub-folders are named by periods, in the order of periods; one version each.

    Stops at the first delivery that fails: those before it stay, and a repeat goes on from there.
    """
    if not folder.is_dir():
        raise InputError("there is no such folder", where={"folder": str(folder)})
    found: list[tuple[int, int, _Delivery]] = []
    others = []
    for path in sorted(folder.iterdir()):
        name, number = delivery_parts(path.name)
        try:
            period = Period.parse(name, settings.timezone)
        except InputError:
            if not path.name.startswith("."):
                others.append(path.name)
            continue
        if path.is_dir():
            files, notes = _expand([path])
            found.append((period.end, number, _Delivery(period, files, notes)))
    if not found:
        raise InputError(
            "no sub-folder is named by a period",
            where={"folder": str(folder)},
            hint="Name them 2016-01, 2016-Q1, 2016-W05, 2016 or 2016-01-31, or give the period and its files.",
        )
    found.sort(key=lambda item: (item[0], item[2].period.start, item[1]))
    deliveries = [delivery for _, _, delivery in found]
    if others:
        first = deliveries[0]
        said = f"not named by a period, left alone: {', '.join(others)}"
        deliveries[0] = _Delivery(first.period, first.files, (*first.notes, said))
    return _run(datasets, settings, reader, deliveries, note=note, author=author, progress=progress)


def _expand(files: Sequence[Path]) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Folders as the files in them; hidden files and sub-folders are left alone and named."""
    result: list[Path] = []
    notes = []
    for path in files:
        if not path.is_dir():
            result.append(path)
            continue
        for inner in sorted(path.iterdir()):
            if inner.name.startswith(".") or inner.is_dir():
                notes.append(f"left alone: {inner.name}")
            else:
                result.append(inner)
    return tuple(result), tuple(notes)


def _run(
    datasets: Datasets,
    settings: Settings,
    reader: Reader,
    deliveries: Sequence[_Delivery],
    *,
    note: str,
    author: str,
    progress: Progress | None,
) -> list[IngestResult]:
    rules = rules_of(settings)
    results: list[IngestResult] = []
    tell = progress or (lambda *_: None)
    what = f"ingest {deliveries[0].period.name}"
    with datasets.changing(what) as raw:
        try:
            tell(0, len(deliveries), f"reading {deliveries[0].period.name}")
            for done, (delivery, loaded) in enumerate(_loaded(datasets, raw, settings, reader, deliveries), 1):
                try:
                    now = _reread(datasets, settings, reader, loaded())
                    result = apply_delivery(datasets, raw, settings, rules, now, note=note, author=author)
                except HoldfastError as error:
                    raise _placed(error, delivery, len(results)) from error
                results.append(result)
                verb = "imported as" if result.created else "already part of"
                tell(done, len(deliveries), f"{delivery.period.name} {verb} {result.version.version}")
        finally:
            if results:
                datasets.refresh_face()
    return results


def _placed(error: HoldfastError, delivery: _Delivery, before: int) -> HoldfastError:
    """The same error with the period, and what became of those before it."""
    where = {"period": delivery.period.name, **error.where}
    hint = error.hint
    if before:
        hint = f"{hint or ''} The {before} deliveries before it were imported; repeat to go on from here.".strip()
    return type(error)(error.message, where=where, hint=hint)


def _loaded(
    datasets: Datasets, raw: RawFiles, settings: Settings, reader: Reader, deliveries: Sequence[_Delivery]
) -> Iterator[tuple[_Delivery, Callable[[], Loaded]]]:
    """Deliveries in order, each with its files copied and read; a few are read ahead."""
    workers = max(2, min(4, os.cpu_count() or 2))
    with ThreadPoolExecutor(workers, thread_name_prefix="ingest") as pool:
        waiting: deque[tuple[_Delivery, Future[Loaded]]] = deque()
        rest = iter(deliveries)
        try:
            while True:
                while len(waiting) < _AHEAD and (delivery := next(rest, None)) is not None:
                    waiting.append((delivery, pool.submit(_load, datasets, raw, settings, reader, delivery)))
                if not waiting:
                    return
                delivery, future = waiting.popleft()
                yield delivery, future.result
        finally:
            for _, future in waiting:
                future.cancel()


def _load(datasets: Datasets, raw: RawFiles, settings: Settings, reader: Reader, delivery: _Delivery) -> Loaded:
    staged = raw.stage(delivery.files, delivery.period.name)
    if datasets.has_delivered(delivery.period.name, staged.files):
        return Loaded(delivery.period, staged, {}, delivery.notes)
    return Loaded(delivery.period, staged, _read(settings, reader, staged), delivery.notes)


def _reread(datasets: Datasets, settings: Settings, reader: Reader, loaded: Loaded) -> Loaded:
    """Read what was left unread because it was known, if a delivery before it in this run has changed that."""
    if loaded.tables or datasets.has_delivered(loaded.period.name, loaded.staged.files):
        return loaded
    return replace(loaded, tables=_read(settings, reader, loaded.staged))


def _read(settings: Settings, reader: Reader, staged: Staged) -> dict[tuple[str, str], RawTable]:
    """Every claimed file as (table, file name) -> what it says."""
    result = {}
    for table, files in claims(settings, staged).items():
        for file in files:
            try:
                result[table, file.name] = reader(file.path, sheet=settings.tables[table].sheet)
            except HoldfastError as error:
                where = {**error.where, "file": str(file.given)}
                raise type(error)(error.message, where=where, hint=error.hint) from error
    return result
