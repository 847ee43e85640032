"""All states of the tables of a dataset version in a DuckDB of their own, which keeps to a memory limit.

Tables are t0, t1 ... and columns c0, c1 ..., by position in the schema: no spelling of a user's name can matter.
`known_from` and `known_to` (null while current) are whole microseconds.
"""

import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from holdfast.core.features.definitions import FeatureSet
from holdfast.core.schema import KNOWN_FROM, KNOWN_TO, SYSTEM_FIELDS, DType, Schema, Table

__all__ = ["ScratchTables", "columns_read", "pruned"]

Ints = npt.NDArray[np.int64]


def columns_read(feature_set: FeatureSet) -> dict[str, tuple[str, ...]]:
    """The columns of each table that the values of a set depend on, in the order of the schema.

    Rows of one moment are ordered by their key, or, where the table has none, by all of their content.
    """
    schema, read = feature_set.schema, dict[str, set[str]]()

    def add(table: str, *columns: str) -> None:
        if table not in read:
            own = schema.table(table)
            read[table] = set(own.key or own.names) | ({own.time} if own.time else set())
        read[table].update(columns)

    add(feature_set.entity)
    for feature in feature_set.features:
        for one in feature.walk():
            if one.kind == "column":
                add(one.table, one.column)
            if one.link:
                add(one.link.child, one.link.column)
                add(one.link.parent)
                if one.condition:
                    add(one.link.child, one.condition.column)
    return {name: tuple(c for c in schema.table(name).names if c in columns) for name, columns in read.items()}


class ScratchTables:
    """See the module. Close it: it removes what it spilled below `folder` (None: it must fit in memory)."""

    def __init__(self, schema: Schema, *, memory: int | None = None, folder: Path | None = None) -> None:
        self.schema = schema
        self._folder = folder / f"spill-{secrets.token_hex(6)}" if folder else None
        options: dict[str, Any] = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
        if memory is not None:
            options["memory_limit"] = f"{memory // 1024}KiB"
        if self._folder:
            self._folder.mkdir(parents=True)
            options["temp_directory"] = str(self._folder)
        path = str(self._folder / "tables.duckdb") if self._folder else ":memory:"
        self.database = duckdb.connect(path, config=options)
        self.database.execute("SET TimeZone = 'UTC'")
        self.database.execute("SET preserve_insertion_order = false")
        self._places = {name: f"t{place}" for place, name in enumerate(schema.tables)}
        self._made = 0

    def register(self, tables: Mapping[str, pa.Table], prefix: str = "") -> None:
        """Show Arrow tables (columns of the schema, perhaps KNOWN_FROM and KNOWN_TO) without a copy."""
        for name in self.schema.tables:
            self.database.register(f"{prefix}{self._places[name]}", self._plain(name, tables.get(name)))

    def scan(self, name: str, files: Sequence[Path]) -> None:
        """Show a table that lies in Parquet files with the schema's columns, and perhaps KNOWN_FROM and KNOWN_TO.

        They are read again for each question, and never held.
        """
        listed = ", ".join("'" + str(path).replace("'", "''") + "'" for path in files)
        source = f"read_parquet([{listed}])"
        names = {row[0] for row in self.database.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()}  # noqa: S608
        columns = [f"{_quoted(c)} AS c{place}" for place, c in enumerate(self.schema.table(name).names)]
        for system, plain in ((KNOWN_FROM, "known_from"), (KNOWN_TO, "known_to")):
            held = f"epoch_us({_quoted(system)})" if system in names else "NULL::BIGINT"
            columns.append(f"{held} AS {plain}")
        self.database.execute(
            f"CREATE TEMP VIEW {self._places[name]} AS SELECT {', '.join(columns)} FROM {source}"  # noqa: S608
        )

    def _plain(self, name: str, data: pa.Table | None) -> pa.Table:
        table = self.schema.table(name)
        if data is None:
            data = pa.table({c.name: pa.array([], c.dtype.arrow) for c in table.columns})
        columns = [
            data[c.name] if c.name in data.column_names else pa.nulls(len(data), c.dtype.arrow) for c in table.columns
        ]
        for system in (KNOWN_FROM, KNOWN_TO):
            held = data[system] if system in data.column_names else pa.nulls(len(data), SYSTEM_FIELDS[system])
            columns.append(held.cast(SYSTEM_FIELDS[system]).cast(pa.int64()))
        return pa.table(columns, names=[*(f"c{i}" for i in range(len(table.columns))), "known_from", "known_to"])

    def table(self, name: str) -> str:
        """The SQL name of a table."""
        return self._places[name]

    def column(self, table: str, name: str) -> str:
        """The SQL name of a column."""
        return f"c{self.schema.table(table).names.index(name)}"

    def key(self, table: str) -> str:
        """The SQL name of a table's one key column."""
        return self.column(table, self.schema.table(table).key[0])

    def happened(self, table: str, alias: str = "t") -> str:
        """SQL of when a row happened, in microseconds; null where it does not say."""
        time = self.schema.table(table).time
        return f"epoch_us({alias}.{self.column(table, time)})" if time else "NULL::BIGINT"

    def make(self, query: str) -> str:
        """Keep the answer of a query as a table; its name."""
        self._made += 1
        name = f"made{self._made}"
        self.database.execute(f"CREATE TEMP TABLE {name} AS {query}")
        return name

    def put(self, data: pa.Table) -> str:
        """Keep an Arrow table; its name."""
        self._made += 1
        name = f"made{self._made}"
        self.database.register(f"{name}_arrow", data)
        self.database.execute(f"CREATE TEMP TABLE {name} AS SELECT * FROM {name}_arrow")  # noqa: S608
        self.database.unregister(f"{name}_arrow")
        return name

    def drop(self, names: list[str]) -> None:
        """Forget kept tables."""
        for name in names:
            self.database.execute(f"DROP TABLE {name}")

    def fetch(self, query: str) -> pa.Table:
        """The answer of a query."""
        return self.database.sql(query).to_arrow_table()

    def rows(self, name: str, columns: tuple[str, ...], where: str) -> pa.Table:
        """States of a table that meet a condition (over alias t), with those user columns, KNOWN_FROM and KNOWN_TO."""
        table = self.schema.table(name)
        listed = ", ".join([*(f"t.{self.column(name, c)}" for c in columns), "t.known_from", "t.known_to"])
        found = self.fetch(f"SELECT {listed} FROM {self.table(name)} t WHERE {where}")  # noqa: S608
        arrays = [found.column(i).cast(table.column(c).dtype.arrow) for i, c in enumerate(columns)]
        known = [found.column(len(columns) + i).cast(DType.TIME.arrow) for i in range(2)]
        return pa.table([*arrays, *known], names=[*columns, KNOWN_FROM, KNOWN_TO])

    def close(self) -> None:
        """Give everything back."""
        self.database.close()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def pruned(schema: Schema, columns: Mapping[str, tuple[str, ...]]) -> Schema:
    """The schema of those tables with only those columns, and the links among them."""
    tables = {}
    for name, kept in columns.items():
        table = schema.table(name)
        links = {column: parent for column, parent in table.links.items() if column in kept and parent in columns}
        tables[name] = Table(
            name, tuple(c for c in table.columns if c.name in kept), table.key, table.time, links, table.known
        )
    return Schema(tables, schema.timezone)
