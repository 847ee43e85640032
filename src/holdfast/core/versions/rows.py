"""Rows given directly, held to the schema of their table: no cell is repaired, what does not fit is an error."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from holdfast.core.prepare import TableContract, convert, row_ids
from holdfast.core.prepare.contract import check, observe
from holdfast.core.prepare.convert import unify
from holdfast.core.prepare.delivery import MASKED
from holdfast.core.schema import Column, DType, Table
from holdfast.core.versions.keys import keys_of
from holdfast.errors import ContractError, InputError, nearest

__all__ = ["key_text", "observed", "required_of", "typed_keys", "typed_rows"]

Mask = npt.NDArray[np.bool_]


def typed_rows(table: Table, given: pa.Table, contract: TableContract, timezone: str) -> pa.Table:
    """`given` with exactly the columns and types of `table`, in its order.

    ContractError names table, column and row (1-based) of the first value that has another type, is missing where it
    may not be, or breaks a rule that binds; InputError names a key that repeats. Whole numbers may be given for
    fractions, dates and naive times (read in `timezone`) for times; NaN is null.
    """
    _same_columns(table, table.names, given)
    columns = {column.name: _typed(table, column, _array(given[column.name]), timezone) for column in table.columns}
    for name in required_of(table, contract.known):
        _refuse(table, name, columns[name], pc.is_null(columns[name]).to_numpy(zero_copy_only=False), "is missing")
    for column in table.columns:
        if column.name in contract.columns:
            for breach in check(contract.columns[column.name], column.dtype, columns[column.name]):
                if breach.binds:
                    _refuse(table, column.name, columns[column.name], breach.mask, breach.reason)
    rows = pa.table(columns)
    _distinct(table, rows)
    return rows


def typed_keys(table: Table, given: pa.Table, timezone: str) -> pa.Table:
    """The key columns of `given`, typed; other columns are an error, as in `typed_rows`."""
    _same_columns(table, table.key, given)
    columns = {name: _typed(table, table.column(name), _array(given[name]), timezone) for name in table.key}
    for name in table.key:
        _refuse(table, name, columns[name], pc.is_null(columns[name]).to_numpy(zero_copy_only=False), "is missing")
    rows = pa.table(columns)
    _distinct(table, rows)
    return rows


def observed(table: Table, contract: TableContract, rows: pa.Table) -> TableContract:
    """The contract widened by what `rows` show, as an import widens it."""
    identifiers = {*table.key, *table.links}
    columns = {
        column.name: observe(
            contract.columns[column.name], column.dtype, unify([rows[column.name]]),
            first=contract.columns[column.name].provisional, identifier=column.name in identifiers,
        )
        for column in table.columns
        if column.name in contract.columns
    }  # fmt: skip
    return TableContract(contract.known, contract.delivery, {**contract.columns, **columns})


def required_of(table: Table, known: str) -> tuple[str, ...]:
    """Columns that may not be null: key, time, and the column that says when a row is known."""
    column = (known,) if known in table.names else ()
    return tuple(dict.fromkeys((*table.key, *((table.time,) if table.time else ()), *column)))


def key_text(table: Table, row: Mapping[str, Any]) -> str:
    """A key for people; personal columns are masked."""
    shown = {name: MASKED if table.column(name).personal else row[name] for name in table.key}
    return ", ".join(f"{name}={value}" for name, value in shown.items())


def _same_columns(table: Table, wanted: Sequence[str], given: pa.Table) -> None:
    names = given.column_names
    for name in names:
        if names.count(name) > 1 or name not in wanted:
            what = "is given twice" if names.count(name) > 1 else "is not expected"
            raise ContractError(
                f"column {name!r} {what}", where={"table": table.name, "column": name}, hint=nearest(name, wanted)
            )
    for name in wanted:
        if name not in names:
            raise ContractError(
                f"column {name!r} of table {table.name!r} is missing",
                where={"table": table.name, "column": name},
                hint=f"Give all of: {', '.join(wanted)}. A column without any value may be null, but must be there.",
            )


def _array(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()  # a copy: what was given may change while the part made of it is kept in memory
    if isinstance(whole, pa.ChunkedArray):
        whole = pa.concat_arrays(whole.chunks)
    if pa.types.is_floating(whole.type) and pc.any(pc.is_nan(whole)).as_py():
        # NaN is how pandas says that there is no value; an import reads it so, too.
        return pc.if_else(pc.is_nan(whole), pa.scalar(None, whole.type), whole)
    return whole


def _typed(table: Table, column: Column, values: pa.Array, timezone: str) -> pa.Array:
    kind = column.dtype.arrow
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if values.type == kind:
        return values
    if pa.types.is_null(values.type):
        return values.cast(kind)
    if not _fits(values.type, column.dtype):
        raise ContractError(
            f"the column holds {values.type}, its type is {column.dtype}",
            where={"table": table.name, "column": column.name},
            hint="Give values of that type: what is given directly is not repaired.",
        )
    if pa.types.is_timestamp(values.type) and values.type.tz is None:
        return _local(table, column, values, timezone)
    if pa.types.is_date(values.type):
        return _local(table, column, values.cast(pa.timestamp("us")), timezone)
    try:
        return values.cast(kind)
    except pa.ArrowInvalid:
        _refuse(table, column.name, values, _uncastable(values, kind), f"does not fit into {column.dtype}")
        raise


def _fits(given: pa.DataType, dtype: DType) -> bool:
    if dtype is DType.BOOL:
        return bool(pa.types.is_boolean(given))
    if dtype is DType.INT:
        return bool(pa.types.is_integer(given))
    if dtype is DType.FLOAT:
        return bool(pa.types.is_integer(given) or pa.types.is_floating(given) or pa.types.is_decimal(given))
    if dtype is DType.TIME:
        return bool(pa.types.is_timestamp(given) or pa.types.is_date(given))
    return bool(pa.types.is_string(given) or pa.types.is_large_string(given) or pa.types.is_string_view(given))


def _local(table: Table, column: Column, values: pa.Array, timezone: str) -> pa.Array:
    if values.type.unit == "ns":
        _refuse(table, column.name, values, _uncastable(values, pa.timestamp("us")), "is finer than a microsecond")
    found = convert(values.cast(pa.timestamp("us")), DType.TIME, timezone=timezone)
    for mask, reason in found.faults:
        _refuse(table, column.name, values, mask, reason)
    return found.values


def _uncastable(values: pa.Array, kind: pa.DataType) -> Mask:
    """Which single values cannot be cast: found by halving, since Arrow tells only that there is one."""
    mask = np.zeros(len(values), bool)
    low, high = 0, len(values)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            values.slice(low, middle - low).cast(kind)
        except pa.ArrowInvalid:
            high = middle
        else:
            low = middle
    mask[low:high] = True
    return mask


def _refuse(table: Table, name: str, values: pa.Array, mask: Mask, reason: str) -> None:
    if not mask.any():
        return
    row = int(np.argmax(mask))
    value = MASKED if table.column(name).personal else values[row].as_py()
    count = int(mask.sum())
    more = f" ({count:,} such rows)" if count > 1 else ""
    raise ContractError(
        f"a value of table {table.name!r} {reason}{more}",
        where={"table": table.name, "column": name, "row": row + 1, "value": repr(value)},
        hint="Nothing was changed. Correct the rows and give them again.",
    )


def _distinct(table: Table, rows: pa.Table) -> None:
    if not table.key or not rows.num_rows:
        return
    if not keys_of(rows, table.key).repeats():
        return
    ids = row_ids([rows], table.key)[0]
    # Ids are dense in order of first appearance: the first that does not count on repeats an earlier one.
    second = int(np.argmax(ids != np.arange(len(ids))))
    first = int(np.argmax(ids == ids[second]))
    raise InputError(
        f"two rows given for table {table.name!r} have the same key",
        where={"table": table.name, "key": key_text(table, rows.slice(second, 1).to_pylist()[0]),
               "rows": f"{first + 1} and {second + 1}"},
        hint="Give each key once: which of the rows counts cannot be guessed.",
    )  # fmt: skip
