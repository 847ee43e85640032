"""One column of raw cells as one logical type: exact where it can be, repaired and counted where it must be.

A cell that cannot be read as the type becomes null and is reported in `faults`; nothing is guessed.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from holdfast.core.prepare.times import Kind, choose_format, localize, parser
from holdfast.core.schema import DType
from holdfast.core.words import TRUTH

__all__ = ["NULL_WORDS", "TRUTH", "Converted", "convert", "time_format", "to_text", "unify"]

Mask = npt.NDArray[np.bool_]

NULL_WORDS = frozenset({"", "na", "n/a", "null", "none", "nan", "-", "--", "?", "#n/a", "无", "缺失", "空"})
"""Words (lower case, trimmed) that mean "no value" in a column of numbers, times or truth values; text keeps them."""
_INT = re.compile(r"[+-]?\d+")
_DECIMAL_INT = re.compile(r"([+-]?\d+)\.0+")
_FLOAT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?")
_PLAIN_INT = r"^-?(0|[1-9][0-9]{0,17})$"
_PLAIN_FLOAT = r"^-?(0|[1-9][0-9]{0,17})(\.[0-9]+)?$"

_NUMBER_FAULT = "is not a number"
_INT_FAULT = "is not a whole number"
_RANGE_FAULT = "does not fit into 64 bits"
_BOOL_FAULT = "is not true or false"


@dataclass(frozen=True, slots=True)
class Converted:
    """`values` has the type's Arrow type; a cell at fault is null there.

    `faults` pairs a mask of cells with the reason; `repairs` counts cells whose text was not exact, by what was done.
    """

    values: pa.Array
    faults: tuple[tuple[Mask, str], ...] = ()
    repairs: dict[str, int] = field(default_factory=dict)


_Outcome = tuple[object, str, str]  # value, repair, fault


def convert(array: pa.Array, dtype: DType, *, formats: Sequence[str] = (), timezone: str = "UTC") -> Converted:
    """Read `array` (string, bool, int64, float64, timestamp or null) as `dtype`.

    Times in text are read by the first of `formats` that fits a cell, always also ISO; without any, by the one format
    found out over the whole column. Naive times are in `timezone`.
    """
    array = _plain(array)
    if pa.types.is_null(array.type):
        return Converted(pa.nulls(len(array), dtype.arrow))
    if dtype in (DType.CATEGORY, DType.TEXT):
        return Converted(
            to_text(array), (), _counted("number or time as text", array, not pa.types.is_string(array.type))
        )
    if dtype is DType.TIME:
        return _times(array, formats, timezone)
    if pa.types.is_timestamp(array.type):
        return Converted(pa.nulls(len(array), dtype.arrow), ((_valid(array), f"is a time, not {_article(dtype)}"),))
    if pa.types.is_string(array.type):
        return _from_text(array, dtype)
    return _from_number(array, dtype)


def to_text(array: pa.Array) -> pa.Array:
    """Cells as text: whole floats without a fraction, times in ISO 8601, truth values as true/false."""
    array = _plain(array)
    if pa.types.is_string(array.type):
        return array
    if pa.types.is_floating(array.type):
        texts = [None if v is None else str(int(v)) if v.is_integer() else repr(v) for v in array.to_pylist()]
        return pa.array(texts, pa.string())
    if pa.types.is_timestamp(array.type):
        return pa.array([None if v is None else v.isoformat(sep=" ") for v in array.to_pylist()], pa.string())
    return pc.cast(array, pa.string())


def unify(arrays: Sequence[pa.Array]) -> pa.Array:
    """The same column of several files as one array; kinds that differ meet in float64 if exact, else in text."""
    plain = [_plain(array) for array in arrays]
    if len(plain) == 1:
        return plain[0]
    kinds = {array.type for array in plain if not pa.types.is_null(array.type)}
    if len(kinds) <= 1:
        kind = kinds.pop() if kinds else pa.null()
        return pa.concat_arrays([array.cast(kind) for array in plain])
    if all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in kinds):
        try:
            return pa.concat_arrays([array.cast(pa.float64()) for array in plain])
        except pa.ArrowInvalid:
            pass
    return pa.concat_arrays([to_text(array) if not pa.types.is_null(array.type) else array.cast(pa.string())
                             for array in plain])  # fmt: skip


def _plain(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One of the few types the rest knows, with NaN as null."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks() if array.num_chunks != 1 else array.chunk(0)
    kind = array.type
    if pa.types.is_dictionary(kind):
        return _plain(array.dictionary_decode())
    if pa.types.is_floating(kind):
        values = array.cast(pa.float64())
        nan = pc.is_nan(values)
        return pc.if_else(nan, pa.scalar(None, pa.float64()), values) if pc.any(nan).as_py() else values
    if pa.types.is_unsigned_integer(kind) and kind.bit_width == 64:
        return _plain(array.cast(pa.string()))
    if pa.types.is_integer(kind):
        return array.cast(pa.int64())
    if pa.types.is_decimal(kind):
        return array.cast(pa.float64(), safe=False)
    if pa.types.is_date(kind):
        return array.cast(pa.timestamp("us"))
    if pa.types.is_timestamp(kind):
        return array.cast(pa.timestamp("us", kind.tz), safe=False)
    if pa.types.is_boolean(kind) or pa.types.is_null(kind) or pa.types.is_string(kind):
        return array
    if pa.types.is_large_string(kind):
        return array.cast(pa.string())
    return pa.array([None if cell is None else str(cell) for cell in array.to_pylist()], pa.string())


def _article(dtype: DType) -> str:
    return {DType.INT: "a whole number", DType.FLOAT: "a number", DType.BOOL: "true or false"}[dtype]


def _valid(array: pa.Array) -> Mask:
    mask: Mask = pc.is_valid(array).to_numpy(zero_copy_only=False)
    return mask


def _counted(what: str, array: pa.Array, happened: bool) -> dict[str, int]:
    count = len(array) - array.null_count
    return {what: count} if happened and count else {}


def _from_text(array: pa.Array, dtype: DType) -> Converted:
    if dtype is not DType.BOOL:
        plain = pc.match_substring_regex(array, _PLAIN_INT if dtype is DType.INT else _PLAIN_FLOAT)
        if pc.all(plain, min_count=0).as_py():
            return Converted(array.cast(dtype.arrow))
    parse = {DType.INT: _int, DType.FLOAT: _float, DType.BOOL: _bool}[dtype]
    return _by_distinct(array, dtype.arrow, parse)


def _by_distinct(array: pa.Array, arrow: pa.DataType, parse: Callable[[str], _Outcome]) -> Converted:
    encoded = array.dictionary_encode()
    outcomes = [parse(text) for text in encoded.dictionary.to_pylist()]
    values = pa.array([outcome[0] for outcome in outcomes], arrow).take(encoded.indices)
    codes = encoded.indices.fill_null(-1).to_numpy()
    counts = np.bincount(codes[codes >= 0], minlength=len(outcomes))
    repairs: dict[str, int] = {}
    for (_, repair, _), count in zip(outcomes, counts.tolist(), strict=True):
        if repair:
            repairs[repair] = repairs.get(repair, 0) + count
    reasons = sorted({outcome[2] for outcome in outcomes if outcome[2]})
    faults = []
    for reason in reasons:
        hit = np.array([*(outcome[2] == reason for outcome in outcomes), False])
        faults.append((hit[codes], reason))
    return Converted(values, tuple(faults), repairs)


def _cleaned(raw: str) -> tuple[str, str]:
    text = unicodedata.normalize("NFKC", raw).strip()
    return text, "" if text == raw else "trimmed or full-width"


def _int(raw: str) -> _Outcome:
    text, repair = _cleaned(raw)
    if text.lower() in NULL_WORDS:
        return None, "word for missing", ""
    if _THOUSANDS.fullmatch(text):
        text, repair = text.replace(",", ""), "thousands separator"
    if match := _DECIMAL_INT.fullmatch(text):
        text, repair = match[1], "decimal zero"
    if not _INT.fullmatch(text):
        return None, "", _INT_FAULT
    value = int(text) if len(text) < 32 else 2**64
    if not -(2**63) <= value < 2**63:
        return None, "", _RANGE_FAULT
    if len(text.lstrip("+-")) > 1 and text.lstrip("+-").startswith("0"):
        repair = "leading zero"
    return value, repair, ""


def _float(raw: str) -> _Outcome:
    text, repair = _cleaned(raw)
    if text.lower() in NULL_WORDS:
        return None, "word for missing", ""
    if _THOUSANDS.fullmatch(text):
        text, repair = text.replace(",", ""), "thousands separator"
    if not _FLOAT.fullmatch(text):
        return None, "", _NUMBER_FAULT
    value = float(text)
    return (None, "", _RANGE_FAULT) if value in (float("inf"), float("-inf")) else (value, repair, "")


def _bool(raw: str) -> _Outcome:
    text, repair = _cleaned(raw)
    word = text.lower()
    for true, false in TRUTH:
        if word in (true, false):
            return word == true, repair, ""
    return (None, "word for missing", "") if word in NULL_WORDS else (None, "", _BOOL_FAULT)


def _from_number(array: pa.Array, dtype: DType) -> Converted:
    if array.type == dtype.arrow:
        if dtype is not DType.FLOAT:
            return Converted(array)
        return _faulty(array, pc.is_inf(array), "is infinite", dtype)
    if dtype is DType.BOOL:
        number = array.cast(pa.float64(), safe=False)
        return _faulty(
            pc.equal(number, 1.0), pc.and_(pc.not_equal(number, 0.0), pc.not_equal(number, 1.0)), _BOOL_FAULT, dtype
        )
    if pa.types.is_boolean(array.type):
        return Converted(array.cast(pa.int8()).cast(dtype.arrow), (), _counted("truth value as number", array, True))
    if dtype is DType.FLOAT:
        exact = pc.and_(pc.less_equal(array, 2**53), pc.greater_equal(array, -(2**53)))
        return _faulty(array.cast(pa.float64(), safe=False), pc.invert(exact), "is too large for an exact float", dtype)
    whole = pc.and_(pc.equal(pc.trunc(array), array), pc.less(pc.abs(array), 2.0**53))
    safe = pc.if_else(whole, array, pa.scalar(None, pa.float64()))
    return _faulty(safe.cast(pa.int64()), pc.invert(whole), _INT_FAULT, dtype)


def _faulty(values: pa.Array, fault: pa.Array, reason: str, dtype: DType) -> Converted:
    mask: Mask = fault.fill_null(False).to_numpy(zero_copy_only=False)
    if not mask.any():
        return Converted(values)
    return Converted(pc.if_else(pa.array(~mask), values, pa.scalar(None, dtype.arrow)), ((mask, reason),))


def _times(array: pa.Array, formats: Sequence[str], timezone: str) -> Converted:
    if pa.types.is_boolean(array.type):
        return Converted(pa.nulls(len(array), DType.TIME.arrow), ((_valid(array), "is no time"),))
    if pa.types.is_timestamp(array.type):
        if array.type.tz is not None:
            return Converted(array.cast(DType.TIME.arrow))
        wall = array.cast(pa.int64()).fill_null(0).to_numpy()
        kinds = np.where(_valid(array), Kind.WALL, -1).astype(np.int8)
        # Midnight from a typed file is a date cell far more often than a moment.
        kinds[(kinds == Kind.WALL) & (wall % 86_400_000_000 == 0)] = Kind.DAY
        return _located(wall, kinds, {}, timezone, "")
    array = to_text(array)
    if not formats:
        found, ambiguous = time_format(array)
        if ambiguous:
            reason = "could be day/month or month/day: declare `format`"
            return Converted(pa.nulls(len(array), DType.TIME.arrow), ((_valid(array), reason),))
        formats = (found,) if found else ()
    encoded = array.dictionary_encode()
    texts = encoded.dictionary.to_pylist()
    parsers = [parser(name) for name in dict.fromkeys((*formats, "iso"))]
    micros, kinds = np.zeros(len(texts) + 1, np.int64), np.full(len(texts) + 1, -1, np.int8)
    missing = 0
    codes = encoded.indices.fill_null(len(texts)).to_numpy()
    counts = np.bincount(codes, minlength=len(texts) + 1)
    for position, text in enumerate(texts):
        clean = unicodedata.normalize("NFKC", text).strip()
        if clean.lower() in NULL_WORDS:
            missing += int(counts[position])
            continue
        parsed = next((p for parse in parsers if (p := parse(clean))[1] is not Kind.BAD), (0, Kind.BAD))
        micros[position], kinds[position] = parsed
    expected = " or ".join(dict.fromkeys((*formats, "iso")))
    return _located(micros[codes], kinds[codes], {"word for missing": missing} if missing else {}, timezone, expected)


def time_format(array: pa.Array) -> tuple[str | None, bool]:
    """The format that fits most cells where times are expected, and whether day/month order is open."""
    array = _plain(array)
    if pa.types.is_timestamp(array.type) or pa.types.is_null(array.type):
        return None, False
    cells = pc.value_counts(to_text(array).drop_null())
    texts = [_cleaned(text)[0] for text in cells.field("values").to_pylist()]
    found = {text: n for text, n in zip(texts, cells.field("counts").to_pylist(), strict=True)
             if text.lower() not in NULL_WORDS}  # fmt: skip
    return choose_format(list(found), list(found.values()), expected=True)


def _located(
    micros: npt.NDArray[np.int64], kinds: npt.NDArray[np.int8], repairs: dict[str, int], timezone: str, expected: str
) -> Converted:
    """Wall-clock times as instants. `kinds` is -1 for null."""
    naive = (kinds == Kind.WALL) | (kinds == Kind.DAY)
    local, absent, twice = localize(micros, kinds == Kind.DAY, timezone)
    instants = np.where(naive, local, micros)
    bad, absent, twice = kinds == Kind.BAD, absent & naive, twice & naive & (kinds == Kind.WALL)
    null = (kinds == -1) | bad | absent
    values = pa.array(instants, pa.int64(), mask=null).cast(DType.TIME.arrow)
    faults = []
    if bad.any():
        faults.append((bad, f"is no time of format {expected}"))
    if absent.any():
        faults.append((absent, f"does not exist in {timezone}: the clocks went forward"))
    if twice.any():
        repairs = {**repairs, "exists twice (clocks went back): the earlier": int(twice.sum())}
    return Converted(values, tuple(faults), repairs)
