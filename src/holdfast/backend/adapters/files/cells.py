"""Cells as Python values to Arrow columns of the few types a RawTable has."""

import datetime as dt
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

__all__ = ["column", "to_text"]

_INT64 = 1 << 63
_EXACT = 1 << 53
_TIMESTAMP = pa.timestamp("us")


def to_text(cell: Any) -> str | None:
    """A cell as text, as people write it: an integral number has no `.0`, midnight no time of day."""
    if cell is None or isinstance(cell, str):
        return cell
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float):
        return str(int(cell)) if cell.is_integer() and abs(cell) < 1e16 else repr(cell)
    if isinstance(cell, dt.datetime):
        return cell.isoformat(" ") if cell.time() != dt.time() else cell.date().isoformat()
    if isinstance(cell, dt.timedelta):
        seconds = cell.days * 86_400 + cell.seconds
        fraction = f".{cell.microseconds:06d}".rstrip("0") if cell.microseconds else ""
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{fraction}"
    return cell.isoformat() if isinstance(cell, (dt.date, dt.time)) else str(cell)


def column(cells: Sequence[Any], *, integral: bool) -> tuple[pa.Array, str]:
    """One typed column from cells, and a note ("" if there is nothing to say).

    All bool → bool; all numbers → int64 or float64; all dates and times → timestamp[us]; anything else, times of day,
    durations and mixtures included → string. `integral`: floats without fraction are int64 (Excel knows floats only).
    Numbers that would lose digits in int64 or float64 stay text.
    """
    kinds = set(map(type, cells))
    kinds.discard(type(None))
    if kinds <= {str}:
        return pa.array(cells, pa.string()), ""
    if kinds == {bool}:
        return pa.array(cells, pa.bool_()), ""
    if kinds <= {int, float}:
        return _numbers(cells, kinds, integral)
    if kinds <= {dt.datetime, dt.date}:
        return pa.array([_moment(cell) for cell in cells], _TIMESTAMP), ""
    names = sorted({_KIND.get(kind, kind.__name__) for kind in kinds})
    mixed = f"mixes {' and '.join(names)}: read as text" if len(names) > 1 else f"holds {names[0]}s: read as text"
    return pa.array([to_text(cell) for cell in cells], pa.string()), mixed


_KIND = {str: "text", bool: "truth value", int: "number", float: "number", dt.datetime: "date", dt.date: "date",
         dt.time: "time of day", dt.timedelta: "duration"}  # fmt: skip


def _moment(cell: dt.datetime | dt.date | None) -> dt.datetime | None:
    if cell is None or isinstance(cell, dt.datetime):
        return cell
    return dt.datetime(cell.year, cell.month, cell.day)  # noqa: DTZ001 - the file gives no zone


def _numbers(cells: Sequence[Any], kinds: set[type], integral: bool) -> tuple[pa.Array, str]:
    if float not in kinds:
        if all(cell is None or -_INT64 <= cell < _INT64 for cell in cells):
            return pa.array(cells, pa.int64()), ""
        return pa.array([to_text(cell) for cell in cells], pa.string()), "holds integers beyond 64 bits: read as text"
    if integral and all(cell is None or (cell == cell // 1 and abs(cell) <= _EXACT) for cell in cells):
        return pa.array([None if cell is None else int(cell) for cell in cells], pa.int64()), ""
    if int in kinds and any(isinstance(cell, int) and abs(cell) > _EXACT for cell in cells):
        texts = [to_text(cell) for cell in cells]
        return pa.array(texts, pa.string()), "mixes fractions and large integers: read as text"
    return pa.array([None if cell is None else float(cell) for cell in cells], pa.float64()), ""
