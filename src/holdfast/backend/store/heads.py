"""The head of the audit log in a file beside the database: what was cut off at the log's end is missed there.

The file is written after the commit, so it may be behind by what a crash kept it from saying, and never ahead. A
database that is put back to an earlier state (a restore) has to `forget_head`.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from holdfast.backend.store.files import write_whole
from holdfast.errors import IntegrityError

__all__ = ["AUDITED", "AuditHead", "forget_head", "keep_head", "read_head"]

AUDITED = "holdfast_audited"
"""Where a connection notes the newest entry of its transaction."""


@dataclass(frozen=True, slots=True)
class AuditHead:
    """The newest entry: to be kept elsewhere, so that entries cut off at the end show."""

    id: int
    hash: str


def keep_head(path: Path, head: AuditHead) -> None:
    """Write the head to the file, unless a later one is there already."""
    try:
        known = read_head(path)
    except IntegrityError:
        return  # it stays as evidence, until somebody has looked
    if known is None or known.id < head.id:
        write_whole(path, lambda scratch: scratch.write_text(json.dumps(asdict(head)), encoding="utf-8"))


def read_head(path: Path) -> AuditHead | None:
    """The head in the file, or None. IntegrityError when somebody damaged it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return AuditHead(int(found["id"]), str(found["hash"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            "the kept head of the audit log cannot be read", where={"file": str(path)},
            hint="It is written whole: somebody changed it. Compare the log with a backup, then delete the file.",
        ) from error  # fmt: skip


def forget_head(path: Path) -> None:
    """Remove the file: the database was put back to an earlier state on purpose."""
    path.unlink(missing_ok=True)
