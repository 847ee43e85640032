"""The audit log for people: listed, verified against the head that is kept beside the database, and exported."""

import csv
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from holdfast.backend.ports import Clock
from holdfast.backend.store import Audit, AuditEntry, AuditHead, Store
from holdfast.backend.store.files import write_whole
from holdfast.core.timeline import isoformat
from holdfast.errors import FileError

__all__ = ["entries", "export", "tell_read", "verify"]

_COLUMNS = ("id", "at", "who", "action", "object", "before", "after", "details", "previous", "hash")


def entries(
    store: Store, *, object_: str | None = None, who: str | None = None, since: int | None = None
) -> Iterator[AuditEntry]:
    """Entries, oldest first: of objects whose name begins with `object_`, by `who`, from instant `since` on."""
    with store.read() as connection:
        for entry in Audit(connection).entries(object=object_, since=since):
            if who in (None, entry.who):
                yield entry


def verify(store: Store) -> AuditHead:
    """Go over the whole chain, to the head that the file beside the database knows; returns the newest entry.

    IntegrityError names the first entry that is not what was written, or is missing.
    """
    kept = store.kept_head()
    with store.read() as connection:
        return Audit(connection).verify(kept)


def export(store: Store, file: Path) -> int:
    """Write the whole log, verified, to a file: .jsonl or .csv. Returns how many entries; FileError for another ending.

    Each line holds the fields that its hash covers, so that the chain can be verified without Holdfast.
    """
    writers = {".jsonl": _write_lines, ".csv": _write_csv}
    if file.suffix not in writers:
        raise FileError("the audit log is written as .jsonl or .csv", where={"file": str(file)})
    verify(store)
    count = 0

    def counted() -> Iterator[dict[str, Any]]:
        nonlocal count
        for entry in entries(store):
            count += 1
            yield asdict(entry)

    try:
        write_whole(file, lambda scratch: writers[file.suffix](scratch, counted()))
    except OSError as error:
        raise FileError(f"the file cannot be written: {error.strerror}", where={"file": str(file)}) from error
    return count


def tell_read(store: Store, clock: Clock, object_: str, **details: Any) -> None:
    """Record that rows were shown or taken out: which, never what they say."""
    with store.write("audit read") as connection:
        Audit(connection).append("read", object_, at=clock.now(), details=details)


def _write_lines(file: Path, rows: Iterator[dict[str, Any]]) -> None:
    with file.open("w", encoding="utf-8") as target:
        for row in rows:
            target.write(json.dumps({**row, "time": isoformat(row["at"])}, ensure_ascii=False, sort_keys=True) + "\n")


def _write_csv(file: Path, rows: Iterator[dict[str, Any]]) -> None:
    with file.open("w", newline="", encoding="utf-8") as target:
        writer = csv.writer(target)
        writer.writerow(["time", *_COLUMNS])
        for row in rows:
            details = json.dumps(row["details"], ensure_ascii=False, sort_keys=True)
            values = {**row, "details": details}
            writer.writerow([isoformat(row["at"]), *(values[name] for name in _COLUMNS)])
