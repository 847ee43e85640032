"""How online vectors become bytes, for every online store: keys, values, and the columns they stand for.

Values are MessagePack without their names: a batch's column names are a *layout*, stored once under its hash.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from holdfast.backend.records import Key, OnlineRow
from holdfast.errors import InputError, IntegrityError

__all__ = ["decode_columns", "decode_payload", "encode_columns", "encode_key", "encode_rows", "layout_of"]

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode
_KEYS = (int, str, float, bool)
_VALUES = {int, str, float, bool, type(None)}


def encode_key(group: str, key: Key) -> bytes:
    """The bytes of a key; InputError for what is none."""
    if type(key) not in _KEYS:
        raise InputError(
            f"{key!r} is no key of an entity",
            where={"group": group},
            hint="A key is a number, a text or a truth value.",
        )
    try:
        return _pack(key)
    except (ValueError, OverflowError) as error:  # half a surrogate pair; more than 64 bits
        raise InputError(f"{key!r} is no key of an entity: {error}", where={"group": group}) from error


def encode_columns(group: str, columns: Sequence[str]) -> bytes:
    """The bytes of a batch's column names; InputError when one is there twice."""
    if len(set(columns)) != len(columns):
        twice = next(name for name in columns if list(columns).count(name) > 1)
        raise InputError(f"column {twice!r} is given twice", where={"group": group, "column": twice})
    return _pack(list(columns))


def decode_columns(data: bytes) -> tuple[str, ...]:
    """The inverse of `encode_columns`."""
    return tuple(_unpack(data))


def layout_of(columns: bytes) -> int:
    """The name of a layout: 63 bits of the SHA-256 of its encoded columns."""
    return int.from_bytes(hashlib.sha256(columns).digest()[:8], "big") >> 1


def encode_rows(
    group: str, columns: Sequence[str], rows: Iterable[OnlineRow], origin: str
) -> Iterator[tuple[bytes, int, bytes]]:
    """(key, event time, payload) of each row. InputError names entity and column of what cannot be stored."""
    width = len(columns)
    for entity, values, event_at in rows:
        if len(values) != width:
            raise InputError(f"{len(values)} values for {width} columns", where={"group": group, "entity": entity})
        if not _VALUES.issuperset(map(type, values)):
            column, value = next(pair for pair in zip(columns, values, strict=True) if type(pair[1]) not in _VALUES)
            raise InputError(
                f"a value of type {type(value).__name__} cannot be stored",
                where={"group": group, "entity": entity, "column": column},
                hint="A value is a float, int, bool, text or null.",
            )
        try:
            payload = _pack((origin, values))
        except (ValueError, OverflowError) as error:
            raise InputError(f"a value cannot be stored: {error}", where={"group": group, "entity": entity}) from error
        yield encode_key(group, entity), event_at, payload


def decode_payload(group: str, data: bytes) -> tuple[str, list[object]]:
    """Origin and values of a payload; IntegrityError when it is none."""
    try:
        origin, values = _unpack(data)
    except (msgspec.DecodeError, ValueError, TypeError) as error:
        raise IntegrityError(
            "a stored vector cannot be read", where={"group": group}, hint="Materialise the group again."
        ) from error
    return origin, values
