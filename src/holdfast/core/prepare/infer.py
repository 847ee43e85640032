"""What type a column has, proposed from the first cells seen of it."""

import re
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.core.prepare.convert import NULL_WORDS, TRUTH, convert, unify
from holdfast.core.prepare.times import choose_format
from holdfast.core.schema import DType

__all__ = ["CATEGORY_LIMIT", "CATEGORY_SHARE", "Proposal", "propose"]

CATEGORY_LIMIT = 200
CATEGORY_SHARE = 0.05
_FEW = 20
_CODE = re.compile(r"[+-]?0\d+(\.0+)?")


@dataclass(frozen=True, slots=True)
class Proposal:
    """A type; `provisional` when every cell was null. `note` is for people."""

    dtype: DType
    provisional: bool = False
    note: str = ""


def propose(array: pa.Array, *, identifier: bool = False) -> Proposal:
    """The narrowest type that reads every cell.

    Text becomes bool, int, float or time only when all of its cells can be read as such (words for "missing" aside);
    a code with a leading zero stays text. Text is a category when it has at most 200 values or one for every 20 cells,
    and a value is met twice on average (or there are at most 20). `identifier` (keys and links): whole floats are int,
    and text is a category.
    """
    array = unify([array])
    if array.null_count == len(array):
        return Proposal(DType.TEXT, provisional=True)
    if pa.types.is_boolean(array.type):
        return Proposal(DType.BOOL)
    if pa.types.is_integer(array.type):
        return Proposal(DType.INT)
    if pa.types.is_timestamp(array.type):
        return Proposal(DType.TIME)
    if pa.types.is_floating(array.type):
        whole = identifier and pc.all(pc.equal(pc.trunc(array), array)).as_py()
        return Proposal(DType.INT if whole else DType.FLOAT)
    return _of_text(array, identifier)


def _of_text(array: pa.Array, identifier: bool) -> Proposal:
    distinct = [text.strip() for text in pc.unique(array.drop_null()).to_pylist()]
    values = [text for text in distinct if text.lower() not in NULL_WORDS]
    if values:
        words = {text.lower() for text in values}
        if any(words == set(pair) or (pair == TRUTH[0] and words <= set(pair)) for pair in TRUTH[:-1]):
            return Proposal(DType.BOOL)
        if not any(_CODE.fullmatch(text) for text in values):
            number = _number(pa.array(values, pa.string()), identifier)
            if number:
                return Proposal(number)
        chosen, ambiguous = choose_format(values)
        if chosen:
            return Proposal(DType.TIME)
        kind = _string_kind(array, len(distinct), identifier)
        note = "looks like dates, but day/month order is open: declare `type: time` and `format`" if ambiguous else ""
        return Proposal(kind, note=note)
    return Proposal(_string_kind(array, len(distinct), identifier))


def _number(values: pa.Array, identifier: bool) -> DType | None:
    """INT or FLOAT when all of these texts are such numbers."""
    whole = convert(values, DType.INT)
    if not whole.faults:
        decimal = whole.repairs.get("decimal zero", 0)
        return DType.FLOAT if decimal and not identifier else DType.INT
    overflow = any("64 bits" in reason for _, reason in whole.faults)
    return None if overflow or convert(values, DType.FLOAT).faults else DType.FLOAT


def _string_kind(array: pa.Array, distinct: int, identifier: bool) -> DType:
    count = len(array) - array.null_count
    few = distinct <= max(CATEGORY_LIMIT, CATEGORY_SHARE * count)
    repeated = distinct <= _FEW or 2 * distinct <= count
    return DType.CATEGORY if identifier or (few and repeated) else DType.TEXT
