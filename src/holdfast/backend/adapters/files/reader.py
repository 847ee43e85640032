"""One file → RawTable."""

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from holdfast.backend.adapters.files.delimited import read_delimited
from holdfast.backend.adapters.files.jsonlines import read_json
from holdfast.backend.adapters.files.limits import Limits
from holdfast.backend.adapters.files.sandbox import Sandbox
from holdfast.backend.adapters.files.sniff import Sniffed, sniff
from holdfast.backend.records import RawTable
from holdfast.errors import FileError

__all__ = ["FileReader", "read_file"]


class FileReader:
    """Reads files, from any number of threads; a context manager.

    Workbooks and Parquet are read in a child process under `limits`, which is started when first needed and used
    again for the next files. For one file, `read_file` is shorter.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._sandbox = Sandbox(self._limits)

    def __enter__(self) -> "FileReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the child process; it is started again when needed."""
        self._sandbox.close()

    @property
    def peak_bytes(self) -> int:
        """The most memory (resident, in bytes) the child process has used."""
        return self._sandbox.peak_bytes

    def read(self, path: Path, *, sheet: str | None = None) -> RawTable:
        """Read one file. `sheet` names the sheet of a workbook; without it the first one with data is read.

        What the file is, its encoding and its delimiter are found out from its content. Raises FileError when it
        cannot be read or is of a kind that is refused, LimitError when a limit was reached; both name the file.
        """
        source = sniff(path, self._limits)
        is_book = source.kind in ("xlsx", "xls", "xlsb", "ods")
        if sheet is not None and not is_book:
            raise FileError(
                f"{source.name} is {source.kind} and has no sheets",
                where={"file": source.name, "sheet": sheet},
                hint="Leave the sheet out",
            )
        if source.kind == "csv":
            return read_delimited(source, self._limits)
        if source.kind == "json":
            return read_json(source, self._limits)
        raw = self._read_binary(source, sheet)
        return dataclasses.replace(raw, notes=(*source.notes, *raw.notes)) if source.notes else raw

    def blocks(self, path: Path, size: int) -> Iterator[RawTable]:
        """The file in blocks of `size` rows (the last may be shorter, and empty when the file is).

        Memory does not grow with a Parquet file (but with its row groups); other files are read whole, then cut.
        Errors as of `read`; what is wrong may show in a later block.
        """
        source = sniff(path, self._limits)
        if source.kind == "parquet" and source.data is None:
            start = 0
            while True:
                raw = self._sandbox.read(path.absolute(), "parquet", source.name, None, (start, size))
                start += raw.table.num_rows
                if raw.table.num_rows or not start:
                    yield raw
                if raw.table.num_rows < size:
                    return
        raw = self.read(path)
        for start in range(0, max(raw.table.num_rows, 1), size):
            yield dataclasses.replace(raw, table=raw.table.slice(start, size), rows=raw.rows.slice(start, size))

    def _read_binary(self, source: Sniffed, sheet: str | None) -> RawTable:
        if source.data is None:
            return self._sandbox.read(source.path.absolute(), source.kind, source.name, sheet)
        with tempfile.NamedTemporaryFile(prefix="holdfast-", suffix=f".{source.kind}") as unpacked:
            unpacked.write(source.data)
            unpacked.flush()
            return self._sandbox.read(Path(unpacked.name), source.kind, source.name, sheet)


def read_file(path: Path, *, sheet: str | None = None, limits: Limits | None = None) -> RawTable:
    """Read one file; see FileReader.read. A child process that was started is ended."""
    with FileReader(limits) as reader:
        return reader.read(path, sheet=sheet)
