"""A child process that reads what can hurt: workbooks and Parquet, under limits of memory and time.

The child answers with one line of JSON and an Arrow IPC file; nothing of it is unpickled.
"""

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

import holdfast
from holdfast.backend.adapters.files.limits import Limits
from holdfast.backend.records import RawTable
from holdfast.errors import FileError, HoldfastError, LimitError

__all__ = ["Sandbox"]

_MODULE = "holdfast.backend.adapters.files._child"
# The child is replaced after this many files, so that what a library leaks stays small.
_FILES_PER_CHILD = 100
_ROWS = "__row"


class Sandbox:
    """Reads files in a child process, which is started on first use and used again; `close` ends it.

    Threads take turns. A child that crashed, ran out of memory or time is replaced.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._turn = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._files = 0
        self._errors: IO[bytes] | None = None
        self._turn = threading.Lock()
        self.peak_bytes = 0
        """Largest resident memory the child reported, in bytes."""

    def read(
        self, path: Path, kind: str, file: str, sheet: str | None, span: tuple[int, int] | None = None
    ) -> RawTable:
        """Read one file of `kind`; `file` is its name for messages. Raises FileError or LimitError, never crashes.

        `span`, of Parquet: how many rows to leave out, and how many to read then.
        """
        with self._turn, tempfile.TemporaryDirectory(prefix="holdfast-") as folder:
            out = Path(folder) / "table.arrow"
            # Under a name that says what it is: readers go by the extension, which may be wrong.
            link = Path(folder) / f"table.{kind}"
            link.symlink_to(path)
            request = {"path": str(link), "kind": kind, "file": file, "sheet": sheet, "span": span, "out": str(out)}
            answer = self._ask(request, file)
            self.peak_bytes = max(self.peak_bytes, int(answer.get("peak_bytes", 0)))
            if "error" in answer:
                raise _error(answer["error"])
            with pa.OSFile(str(out)) as source, pa.ipc.open_file(source) as reader:
                table = reader.read_all()
        return RawTable(
            table.drop_columns([_ROWS]),
            table.column(_ROWS).combine_chunks(),
            answer["format"],
            sheet=answer["sheet"],
            notes=tuple(answer["notes"]),
        )

    def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.communicate()
        if self._errors is not None:
            self._errors.close()
            self._errors = None

    def _ask(self, request: dict[str, Any], file: str) -> dict[str, Any]:
        child = self._start()
        assert child.stdin is not None
        assert child.stdout is not None
        deadline = time.monotonic() + self._limits.seconds
        line = b""
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(json.dumps(request).encode() + b"\n")
            child.stdin.flush()
        while not line.endswith(b"\n"):
            with selectors.DefaultSelector() as selector:
                selector.register(child.stdout, selectors.EVENT_READ)
                ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                self.close()
                raise LimitError(
                    f"reading {file} took more than {self._limits.seconds:g} s and was stopped",
                    where={"file": file},
                    hint="Deliver it as csv or parquet, or split it",
                )
            piece = os.read(child.stdout.fileno(), 1 << 16)
            if not piece:
                raise self._died(file)
            line += piece
        self._files += 1
        answer: dict[str, Any] = json.loads(line)
        if answer.get("exhausted") or self._files >= _FILES_PER_CHILD:
            self.close()
        return answer

    def _start(self) -> "subprocess.Popen[bytes]":
        if self._child is None:
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
            root = str(Path(holdfast.__file__).parent.parent)
            environment = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1"}
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
            command = [sys.executable, "-P", "-W", "ignore", "-m", _MODULE, json.dumps(self._limits.to_dict())]
            self._child = subprocess.Popen(  # noqa: S603 - our own module
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=environment,
                bufsize=0,
            )
            self._files = 0
        return self._child

    def _died(self, file: str) -> HoldfastError:
        assert self._child is not None
        code = self._child.wait()
        said = ""
        if self._errors is not None:
            self._errors.seek(0)
            said = self._errors.read().decode(errors="replace").strip()
        self.close()
        if "memory" in said.lower():
            return LimitError(
                f"{file} needs more than {self._limits.memory_bytes:,} bytes of memory to read",
                where={"file": file},
                hint="Delete cells that lie far outside the table, or deliver it as csv or parquet",
            )
        last = said.splitlines()[-1] if said else "no message"
        return FileError(
            f"{file} crashed its reader (exit code {code}: {last})",
            where={"file": file},
            hint="It is damaged; open it in a spreadsheet program, save it again and deliver that",
        )


def _error(data: dict[str, Any]) -> HoldfastError:
    kind = LimitError if data["code"] == LimitError.code else FileError
    return kind(data["message"], where=data["where"], hint=data["hint"])
