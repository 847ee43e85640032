"""Reading in several threads at once: each file keeps its own content."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from holdfast.backend.adapters.files import FileReader
from holdfast.backend.wiring import file_reader


@contextmanager
def one_reader() -> Any:
    with FileReader() as reader:
        yield reader.read


@pytest.mark.parametrize("opened", [file_reader, one_reader])
def test_threads_do_not_mix_up_workbooks(tmp_path: Path, opened: Callable[[], AbstractContextManager[Any]]) -> None:
    paths = []
    for number in range(24):
        book = openpyxl.Workbook()
        assert book.active is not None
        book.active.append(["编号", "值"])
        for row in range(number + 1):
            book.active.append([row, number])
        paths.append(tmp_path / f"{number}.xlsx")
        book.save(paths[-1])
    with opened() as read, ThreadPoolExecutor(4) as pool:
        tables = [raw.table for raw in pool.map(read, paths)]
    assert [table.num_rows for table in tables] == list(range(1, 25))
    assert [table["值"][0].as_py() for table in tables] == list(range(24))
