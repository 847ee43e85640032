"""The child process of sandbox.py: `python -m ..._child LIMITS`, requests on stdin, answers on stdout, as JSON lines.

Only what reading needs is imported, so that it starts in a fraction of a second.
"""

import contextlib
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa

from holdfast.backend.adapters.files.limits import Limits
from holdfast.errors import FileError, HoldfastError, LimitError

__all__ = ["main"]


def main() -> None:
    """Answer requests until stdin ends."""
    limits = Limits(**json.loads(sys.argv[1]))
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    # Whatever a library prints goes to stderr, not between the answers.
    os.dup2(2, 1)
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))
    for line in sys.stdin.buffer:
        # The parent stops a slow child; the alarm does it where the parent is gone.
        signal.setitimer(signal.ITIMER_REAL, limits.seconds + 5)
        answer = _answer(json.loads(line), limits)
        signal.setitimer(signal.ITIMER_REAL, 0)
        answer["peak_bytes"] = _peak_bytes()
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _peak_bytes() -> int:
    # ru_maxrss also counts what the parent used before this program was started in its copy; Linux knows better.
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _answer(request: dict[str, Any], limits: Limits) -> dict[str, Any]:
    file = request["file"]
    try:
        return _read(request, limits)
    except HoldfastError as error:
        return {"error": error.to_dict()}
    except MemoryError:
        too_large = LimitError(
            f"{file} needs more than {limits.memory_bytes:,} bytes of memory to read",
            where={"file": file},
            hint="Delete cells that lie far outside the table, or deliver it as csv or parquet",
        )
        return {"error": too_large.to_dict(), "exhausted": True}
    except BaseException as error:  # noqa: BLE001 - the process edge; readers fail on damaged files in any way, panics too
        refused = FileError(
            f"{file} cannot be read as {request['kind']}: {str(error) or type(error).__name__}",
            where={"file": file},
            hint="It is probably damaged; deliver it again, or as csv",
        )
        return {"error": refused.to_dict(), "exhausted": True}


def _read(request: dict[str, Any], limits: Limits) -> dict[str, Any]:
    if request["kind"] == "parquet":
        from holdfast.backend.adapters.files.parquet import read_parquet

        span = request["span"]
        raw = read_parquet(request["path"], request["file"], limits, None if span is None else (span[0], span[1]))
    else:
        from holdfast.backend.adapters.files.workbook import read_workbook

        raw = read_workbook(request["path"], request["kind"], request["file"], request["sheet"], limits)
    table = raw.table.append_column("__row", raw.rows)
    with pa.OSFile(request["out"], "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return {"format": raw.format, "sheet": raw.sheet, "notes": list(raw.notes)}


if __name__ == "__main__":
    main()
