"""Raw rows of a request, as typed tables."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.core.schema import KNOWN_FROM, Column, DType, Schema, Table
from holdfast.core.timeline import NEVER, Known, parse_instant
from holdfast.errors import InputError

__all__ = ["typed_rows", "typed_values"]


def typed_rows(schema: Schema, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, pa.Table]:
    """Rows per table (column → value, as JSON gives them) as tables with the schema's columns and types.

    A column that a row leaves out is null; times are ISO 8601, naive ones in the schema's time zone. Rows are known as
    their table's rule says where the row itself tells (`event`, `event + 3d`, a column), else always. InputError,
    naming table, row (0-based) and column: an unknown table or column, a value of another type, NaN or infinity, no
    key, a key for the second time, or no time where the table has one; rows of a table that derives from another one.
    """
    tables = {}
    for name, records in rows.items():
        table = schema.table(name)
        if table.source in schema.tables:
            raise InputError(
                f"rows of {name!r} are not sent: they derive from those of {table.source!r}",
                where={"table": name},
                hint=f"Send the rows of {table.source!r} that mention them.",
            )
        if isinstance(records, str | bytes | Mapping) or not isinstance(records, Sequence):
            raise InputError("the rows of a table must be a list of objects", where={"table": name})
        _check_records(table, records)
        columns = {
            column.name: typed_values(
                column, [record.get(column.name) for record in records], schema.timezone, table=name
            )
            for column in table.columns
        }
        _check_keys(table, columns)
        tables[name] = pa.table({**columns, **_known(table, columns)})
    return tables


def _check_records(table: Table, records: Sequence[Mapping[str, Any]]) -> None:
    names, needed = frozenset(table.names), (*table.key, *((table.time,) if table.time else ()))
    for number, record in enumerate(records):
        # Asked of an abstract class only if it must be: that takes as long as the rest of the checks.
        if type(record) is not dict and not isinstance(record, Mapping):
            raise InputError("a row must be an object of column values", where={"table": table.name, "row": number})
        if not record.keys() <= names:
            unknown = next(column for column in record if column not in names)
            raise InputError(
                f"there is no column {unknown!r}", where={"table": table.name, "row": number, "column": unknown},
                hint=f"Columns are: {', '.join(table.names)}",
            )  # fmt: skip
        for column in needed:
            if record.get(column) is None:
                raise InputError(
                    f"column {column!r} must be given", where={"table": table.name, "row": number, "column": column}
                )


def _check_keys(table: Table, columns: Mapping[str, pa.Array]) -> None:
    seen: set[tuple[object, ...]] = set()
    parts = [columns[name].cast(_plain(columns[name])).to_pylist() for name in table.key]
    for number, key in enumerate(zip(*parts, strict=True)):
        if key in seen:
            shown = ["***" if table.column(n).personal else v for n, v in zip(table.key, key, strict=True)]
            raise InputError(
                f"two rows have the key {', '.join(f'{n} = {v!r}' for n, v in zip(table.key, shown, strict=True))}",
                where={"table": table.name, "row": number},
                hint="A key names one row; send only the newest.",
            )
        seen.add(key)


def _plain(values: pa.Array) -> pa.DataType:
    return pa.int64() if pa.types.is_timestamp(values.type) else values.type


def _known(table: Table, columns: Mapping[str, pa.Array]) -> dict[str, pa.Array]:
    """When each row was known, where a column of the row tells; a null there is never."""
    rule = Known.parse(table.known)
    source = table.time if rule.kind == "event" else rule.column
    if not source:
        return {}
    moments = pc.add_checked(columns[source].cast(pa.int64()), rule.delay)
    return {KNOWN_FROM: pc.fill_null(moments, NEVER).cast(DType.TIME.arrow)}


def typed_values(column: Column, values: Sequence[object], timezone: str, *, table: str = "") -> pa.Array:
    """JSON values of one column as an Arrow array of its type. InputError names the row (0-based) that does not fit."""
    array = _as_they_are(column.dtype, values)
    if array is not None:
        return array
    out = []
    for number, value in enumerate(values):
        try:
            out.append(None if value is None else _typed(column.dtype, value, timezone))
        except (ValueError, OverflowError, InputError) as error:
            where = {"table": table} if table else {}
            shown = "***" if column.personal else repr(value)[:80]
            raise InputError(
                f"column {column.name!r} must be {_WANTED[column.dtype]}, not {type(value).__name__} {shown}",
                where={**where, "row": number, "column": column.name},
            ) from error
    return pa.array(out, column.dtype.arrow)


def _as_they_are(dtype: DType, values: Sequence[object]) -> pa.Array | None:
    """Values as an array, without a look at each, when all are what they ought to be; else None."""
    if not _EXACT.get(dtype, frozenset()).issuperset(map(type, values)):
        return None
    try:
        array = pa.array(values, dtype.arrow)
    except (ValueError, OverflowError):  # a whole number too large, text that no UTF-8 holds
        return None
    return array if dtype is not DType.FLOAT or pc.all(pc.is_finite(array)).as_py() in (True, None) else None


_NONE = type(None)
_EXACT: Mapping[DType, frozenset[type]] = {
    DType.BOOL: frozenset({bool, _NONE}),
    DType.INT: frozenset({int, _NONE}),
    DType.FLOAT: frozenset({float, int, _NONE}),
    DType.CATEGORY: frozenset({str, _NONE}),
    DType.TEXT: frozenset({str, _NONE}),
}
_WANTED = {
    DType.BOOL: "true or false",
    DType.INT: "a whole number",
    DType.FLOAT: "a finite number",
    DType.CATEGORY: "text",
    DType.TEXT: "text",
    DType.TIME: "an ISO 8601 date or time",
}


def _typed(dtype: DType, value: object, timezone: str) -> object:
    if dtype is DType.TIME and isinstance(value, str):
        return parse_instant(value, timezone)
    if dtype in (DType.CATEGORY, DType.TEXT) and isinstance(value, str | int) and not isinstance(value, bool):
        text = str(value)
        text.encode()  # half of a surrogate pair is no text
        return text
    if dtype is DType.BOOL and isinstance(value, bool):
        return value
    if dtype is DType.INT and isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63:
        return value
    if dtype is DType.INT and isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if dtype is DType.FLOAT and isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
        if math.isfinite(number):
            return number
    raise ValueError
