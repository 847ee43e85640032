"""Whose rows are whose: the rows that belong to a person, over all tables that link to each other.

A row belongs to the person when it is the person's own, or links to a row that does. Keys are compared as text in one
spelling, so that 7, 7.0 and "7" are the same key whatever type a part or a raw file has it in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from holdfast.core.prepare.convert import convert, to_text
from holdfast.core.schema import DType

__all__ = ["Frame", "belonging", "key_text", "raw_key_text"]

Mask = npt.NDArray[np.bool_]


@dataclass
class Frame:
    """n rows of one table from one `place`: `key` as text (None for no key of one column), `links` as text.

    `links` pairs the table that is linked to with the text of the links. `mask` (bool [n]) says which belong.
    """

    table: str
    place: str
    rows: int
    key: pa.Array | None
    links: Sequence[tuple[str, pa.Array]]
    mask: Mask = field(init=False)

    def __post_init__(self) -> None:
        self.mask = np.zeros(self.rows, bool)


def key_text(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Keys as text in one spelling: whole numbers without a fraction, times as their microseconds. Nulls stay."""
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if pa.types.is_timestamp(array.type):
        array = array.cast(pa.timestamp("us", tz=array.type.tz)).cast(pa.int64())
    if pa.types.is_floating(array.type):
        whole = pc.and_(pc.equal(pc.floor(array), array), pc.less(pc.abs(array), 2.0**62))
        ints = pc.if_else(whole, array, 0.0).cast(pa.int64())
        return pc.if_else(whole, ints.cast(pa.string()), array.cast(pa.string()))
    return array.cast(pa.string())


def raw_key_text(values: pa.Array | pa.ChunkedArray, dtype: DType, timezone: str) -> pa.Array:
    """`key_text` of raw cells, read as the key's type; a cell that cannot be read so is its trimmed text."""
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return pc.coalesce(
        key_text(convert(array, dtype, timezone=timezone).values),
        pc.utf8_trim_whitespace(to_text(array).cast(pa.string())),
    )


def belonging(frames: Sequence[Frame], table: str, key: str) -> dict[str, frozenset[str]]:
    """Mark in every frame the rows that belong to the row of `table` with `key` (as `key_text` spells it).

    Returns the keys of all rows that belong, by table. A key of a table that is linked to counts only if none of its
    rows links elsewhere: a visit that was moved to another person is that person's now, but for the states before.
    """
    keys: dict[str, set[str]] = {table: {key}}
    grown = True
    while grown:
        grown = False
        for frame in frames:
            frame.mask = _marked(frame, keys)
        for name in {frame.table for frame in frames if frame.key is not None}:
            found = _keys(frames, name, keys) - keys.get(name, set())
            if found:
                keys.setdefault(name, set()).update(found)
                grown = True
    return {name: frozenset(found) for name, found in keys.items()}


def _marked(frame: Frame, keys: Mapping[str, set[str]]) -> Mask:
    mask = frame.mask.copy()
    columns = [(frame.table, frame.key)] if frame.key is not None else []
    for name, column in (*columns, *frame.links):
        if keys.get(name):
            mask |= _is_in(column, keys[name])
    return mask


def _keys(frames: Sequence[Frame], table: str, keys: Mapping[str, set[str]]) -> set[str]:
    """Keys of marked rows of a table that no row with a link to elsewhere has."""
    marked: set[str] = set()
    elsewhere: set[str] = set()
    theirs = [(frame, frame.key) for frame in frames if frame.table == table and frame.key is not None]
    for frame, own in theirs:
        marked.update(own.filter(pa.array(frame.mask)).drop_null().to_pylist())
    for frame, own in theirs if marked else ():
        for name, link in frame.links:
            if keys.get(name):
                other = pc.is_valid(link).to_numpy(zero_copy_only=False) & ~_is_in(link, keys[name])
                elsewhere.update(own.filter(pa.array(other & _is_in(own, marked))).drop_null().to_pylist())
    return marked - elsewhere


def _is_in(column: pa.Array, values: set[str]) -> Mask:
    found: Mask = pc.is_in(column, value_set=pa.array(sorted(values), pa.string())).to_numpy(zero_copy_only=False)
    return found
