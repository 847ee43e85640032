"""Two keyed tables and one without a key, over any metadata database; rows come by direct changes."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from holdfast.backend.adapters.localfs import LocalBlobs
from holdfast.backend.datasets import Datasets, Draft
from holdfast.backend.datasets.changing import Changed, change
from holdfast.backend.layout import Layout
from holdfast.backend.store import Store
from holdfast.core.prepare import ColumnContract, TableContract
from holdfast.core.schema import Column, DType, Schema, Table
from holdfast.testing.clock import FakeClock


def schema() -> Schema:
    tables = (
        Table("户", (Column("号", DType.INT, nullable=False), Column("值", DType.TEXT)), ("号",)),
        Table(
            "账",
            (Column("名", DType.CATEGORY, nullable=False), Column("次", DType.INT, nullable=False),
             Column("额", DType.FLOAT)),
            ("名", "次"),
        ),
        Table("记", (Column("时", DType.TIME, nullable=False), Column("事", DType.TEXT)), (), "时"),
    )  # fmt: skip
    return Schema({table.name: table for table in tables}, "Asia/Shanghai")


def contract(described: Schema) -> dict[str, TableContract]:
    return {
        name: TableContract(table.known, "increment", {column.name: ColumnContract() for column in table.columns})
        for name, table in described.tables.items()
    }


class World:
    """A project without files: what `datasets` needs, an empty first version, and a clock that is set by hand."""

    def __init__(self, store: Store, root: Path, described: Schema | None = None) -> None:
        self.store, self.clock, self.layout = store, FakeClock(), Layout(root)
        self.blobs = LocalBlobs(self.layout.private / "blobs")
        self.datasets = Datasets(store, self.blobs, self.clock, self.layout)
        described = described or schema()
        draft = Draft(
            None, "2020", described, contract(described), dict.fromkeys(described.tables, 0), (), "empty", "test",
            report={"tables": {}, "notes": [], "delivery": "2020"},
        )  # fmt: skip
        with self.datasets.changing("begin"):
            self.first = self.datasets.commit(draft)

    def tick(self) -> int:
        self.clock.advance(1_000_000)
        return self.clock.now()

    def change(self, table: str, rows: list[dict[str, Any]], mode: str) -> Changed:
        columns = self.datasets.schema().table(table)
        names = columns.key if mode == "delete" else columns.names
        fields = [(name, columns.column(name).dtype.arrow) for name in names]
        return change(self.datasets, table, pa.Table.from_pylist(rows, pa.schema(fields)), mode)

    def rows(self, table: str, version: str | None = None) -> list[dict[str, Any]]:
        """Current rows, user columns only."""
        found = self.datasets.read(version, [table], current_only=True)[table]
        names = self.datasets.schema(version).table(table).names
        return found.select(names).to_pylist()
