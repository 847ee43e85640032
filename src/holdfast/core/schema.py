"""The vocabulary of tables: types, columns, keys, links and the columns Holdfast adds to every stored row."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import pyarrow as pa

from holdfast.errors import NotFoundError

__all__ = ["KNOWN_FROM", "KNOWN_TO", "RESERVED_PREFIX", "SOURCE_FILE", "SOURCE_ROW", "SYSTEM_FIELDS", "Column", "DType",
           "Link", "Schema", "Table"]  # fmt: skip

RESERVED_PREFIX = "__"
KNOWN_FROM = "__known_from"
"""When this state of the row became known: timestamp[us, UTC], never null."""
KNOWN_TO = "__known_to"
"""When a later state replaced or removed it: timestamp[us, UTC], null while current."""
SOURCE_FILE = "__file"
"""The raw file, relative to the project root: string."""
SOURCE_ROW = "__row"
"""The 1-based line or sheet row in that file: int64."""


class DType(StrEnum):
    """The logical type of a column. CATEGORY and TEXT are both strings; only a CATEGORY becomes a feature."""

    BOOL = "bool"
    INT = "int"
    FLOAT = "float"
    CATEGORY = "category"
    TEXT = "text"
    TIME = "time"

    @property
    def arrow(self) -> pa.DataType:
        """The one Arrow type a stored column of this type has."""
        return _ARROW[self]

    @property
    def is_number(self) -> bool:
        """Whether values are aggregated as numbers."""
        return self in (DType.INT, DType.FLOAT, DType.BOOL)


_TIMESTAMP = pa.timestamp("us", tz="UTC")
_ARROW: dict[DType, pa.DataType] = {
    DType.BOOL: pa.bool_(),
    DType.INT: pa.int64(),
    DType.FLOAT: pa.float64(),
    DType.CATEGORY: pa.string(),
    DType.TEXT: pa.string(),
    DType.TIME: _TIMESTAMP,
}
SYSTEM_FIELDS: dict[str, pa.DataType] = {
    KNOWN_FROM: _TIMESTAMP,
    KNOWN_TO: _TIMESTAMP,
    SOURCE_FILE: pa.string(),
    SOURCE_ROW: pa.int64(),
}


@dataclass(frozen=True, slots=True)
class Column:
    """A column. `personal` values are masked in logs, pages and reports; `unit` and `description` are for people."""

    name: str
    dtype: DType
    nullable: bool = True
    personal: bool = False
    unit: str = ""
    description: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the inverse of `from_dict`."""
        return {
            "name": self.name,
            "dtype": self.dtype.value,
            "nullable": self.nullable,
            "personal": self.personal,
            "unit": self.unit,
            "description": self.description,
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "Column":
        """The inverse of `to_dict`."""
        return Column(**{**data, "dtype": DType(data["dtype"])})


@dataclass(frozen=True, slots=True)
class Link:
    """`child.column` holds the key of a row of `parent` (a table with a one-column key).

    `alone`: it is the only link between the two, so that naming the tables names it.
    """

    child: str
    column: str
    parent: str
    alone: bool = True


@dataclass(frozen=True, slots=True)
class Table:
    """A table.

    `key` names the columns that identify a row; empty means that a row's content is its key and equal rows are
    numbered. `time` is the column that says when a row happened (DType.TIME); None for things without a moment.
    `known` is the rule by which a row seen first is known (`timeline.Known.parse` reads it). `source` names the table
    from whose rows this one's are derived (`core.derive`); it is empty for a table that is delivered.
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()
    time: str | None = None
    links: Mapping[str, str] = field(default_factory=dict)
    known: str = "delivery"
    source: str = ""

    def column(self, name: str) -> Column:
        """The column of that name, or NotFoundError."""
        for column in self.columns:
            if column.name == name:
                return column
        raise NotFoundError(
            f"table {self.name!r} has no column {name!r}",
            where={"table": self.name, "column": name},
            hint=f"Its columns are: {', '.join(c.name for c in self.columns)}",
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns, in order."""
        return tuple(column.name for column in self.columns)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the inverse of `from_dict`. A delivered table is said as before there were derived ones."""
        plain = {
            "name": self.name,
            "columns": [column.to_dict() for column in self.columns],
            "key": list(self.key),
            "time": self.time,
            "links": dict(self.links),
            "known": self.known,
        }
        return plain | ({"source": self.source} if self.source else {})

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "Table":
        """The inverse of `to_dict`."""
        return Table(
            name=data["name"],
            columns=tuple(Column.from_dict(column) for column in data["columns"]),
            key=tuple(data["key"]),
            time=data["time"],
            links=dict(data["links"]),
            known=data["known"],
            source=data.get("source", ""),
        )


@dataclass(frozen=True, slots=True)
class Schema:
    """All tables of a dataset version, by name."""

    tables: Mapping[str, Table]
    timezone: str = "UTC"

    def table(self, name: str) -> Table:
        """The table of that name, or NotFoundError."""
        if name not in self.tables:
            raise NotFoundError(
                f"there is no table {name!r}",
                where={"table": name},
                hint=f"The tables are: {', '.join(self.tables)}",
            )
        return self.tables[name]

    @property
    def derived(self) -> list[Table]:
        """The derived tables, each after the one it comes from."""
        rest = [table for table in self.tables.values() if table.source]
        order: list[Table] = []
        while rest:
            waiting = {table.name for table in rest}
            order += [table for table in rest if table.source not in waiting]
            rest = [table for table in rest if table.source in waiting and table.source != table.name]
        return order

    def children(self, parent: str) -> list[Link]:
        """Links that point at `parent`, in the order of tables and their links."""
        return [link for link in self._links() if link.parent == parent]

    def parents(self, child: str) -> list[Link]:
        """Links of `child`, in their order."""
        return [link for link in self._links() if link.child == child]

    def _links(self) -> list[Link]:
        return [
            Link(table.name, column, parent, alone=list(table.links.values()).count(parent) == 1)
            for table in self.tables.values()
            for column, parent in table.links.items()
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the inverse of `from_dict`."""
        return {"tables": [table.to_dict() for table in self.tables.values()], "timezone": self.timezone}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "Schema":
        """The inverse of `to_dict`."""
        tables = [Table.from_dict(table) for table in data["tables"]]
        return Schema({table.name: table for table in tables}, data["timezone"])
