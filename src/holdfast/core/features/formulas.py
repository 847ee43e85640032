"""Features that a user writes: the text of a feature's name, read back as a definition."""

import re

from holdfast.core.features.definitions import Condition, Feature, Kind
from holdfast.core.features.primitives import PRIMITIVES, Input
from holdfast.core.schema import DType, Link, Schema
from holdfast.core.timeline import parse_duration
from holdfast.errors import ConfigError, HoldfastError

__all__ = ["parse_feature"]

_CALL = re.compile(r"([A-Z_]+)\((.*)\)", re.DOTALL)
_WINDOW = re.compile(r"(.*),\s*(\d+\s*(?:us|ms|s|min|h|d|w))", re.DOTALL)
_WHERE = re.compile(r"(.*?)\s+WHERE\s+(.+?)\s*=\s*(.*)", re.DOTALL)
_TABLE = re.compile(r"(.+?)(?:\[(.+)\])?")
_NUMBERS = (DType.INT, DType.FLOAT, DType.BOOL)
_TAKEN = {
    Input.NUMBER: _NUMBERS,
    Input.TRUTH: (DType.BOOL,),
    Input.CATEGORY: (DType.CATEGORY,),
    Input.ANY: (*_NUMBERS, DType.CATEGORY),
}
_TAKES = {
    Input.NUMBER: "numbers",
    Input.TRUTH: "truth values",
    Input.CATEGORY: "categories",
    Input.ANY: "numbers, truth values and categories",
}


def parse_feature(formula: str, schema: Schema, table: str) -> Feature:
    """The feature of `table` that a formula such as `MEAN(inspections.Score WHERE type = Routine, 30d)` describes.

    It reads `column`, `parent.feature`, `PRIMITIVE(child)`, `PRIMITIVE(child.feature)` and `PRIMITIVE(time column)`;
    `child[column]` names the link where there are several. ConfigError says which part is wrong.
    """
    try:
        feature = _parse(formula.strip(), schema, table)
    except ConfigError as error:
        where = {"key": "features.include", "feature": formula, **error.where}
        raise ConfigError(error.message, where=where, hint=error.hint) from error
    except HoldfastError as error:
        raise ConfigError(
            f"feature {formula!r}: {error.message}", where={"key": "features.include"}, hint=error.hint
        ) from error
    if feature.dtype in (DType.TIME, DType.TEXT):
        raise ConfigError(
            f"feature {formula!r} would be a {feature.dtype}", where={"key": "features.include"},
            hint="A time becomes a feature by TIME_SINCE(...), YEAR(...) and the like; text does not.",
        )  # fmt: skip
    return feature


def _parse(text: str, schema: Schema, table: str) -> Feature:
    call = _CALL.fullmatch(text)
    if call:
        return _parse_call(call[1], call[2].strip(), schema, table)
    head, dot, tail = text.partition(".")
    if text in schema.table(table).names or not dot:
        column = schema.table(table).column(text)
        return Feature(Kind.COLUMN, table, column.dtype, column=text)
    link = _link(head, schema.parents(table), "parent")
    inner = _parse(tail, schema, link.parent)
    return Feature(Kind.DIRECT, table, inner.dtype, inputs=(inner,), link=link)


def _parse_call(name: str, inside: str, schema: Schema, table: str) -> Feature:
    if name not in PRIMITIVES:
        raise ConfigError(f"there is no primitive {name!r}", where={"key": "features.include"},
                          hint=f"Primitives are: {', '.join(PRIMITIVES)}")  # fmt: skip
    primitive = PRIMITIVES[name]
    if not primitive.aggregates:
        moment = Feature(Kind.CUTOFF, "", DType.TIME) if inside == "cutoff" else _parse(inside, schema, table)
        if moment.dtype is not DType.TIME:
            raise ConfigError(f"{name} takes a time, and {inside!r} is {moment.dtype}")
        return Feature(Kind.TRANSFORM, moment.table, primitive.gives or DType.FLOAT, primitive=name, inputs=(moment,))
    window = _WINDOW.fullmatch(inside)
    inside = window[1] if window else inside
    where = _WHERE.fullmatch(inside)
    if where and (odd := re.search(r",\s*(\d+\s*\w+)$", where[3])):
        raise ConfigError(f"{odd[1]!r} is not a window", hint="Write it as 90d, 12h, 30min or 2w.")
    inside = where[1] if where else inside
    head, dot, tail = inside.partition(".")
    link = _link(head, schema.children(table), "child")
    inner = _parse(tail, schema, link.child) if dot else None
    if (inner is None) != (primitive.takes is Input.ROWS):
        raise ConfigError(f"{name} takes {'no column, only a table' if inner else 'a column: table.column'}")
    if inner and inner.dtype not in _TAKEN[primitive.takes]:
        raise ConfigError(f"{name} takes {_TAKES[primitive.takes]}, and {tail!r} is {inner.dtype}")
    return Feature(
        Kind.AGGREGATE,
        table,
        primitive.gives or (inner.dtype if inner else DType.FLOAT),
        primitive=name,
        inputs=(inner,) if inner else (),
        link=link,
        window=parse_duration(window[2]) if window else None,
        condition=_condition(where[2], where[3], schema, link.child) if where else None,
    )


def _condition(column: str, text: str, schema: Schema, table: str) -> Condition:
    dtype = schema.table(table).column(column).dtype
    if dtype is DType.TIME:
        raise ConfigError(f"a condition compares categories, numbers or truth values, and {column!r} is a time")
    if not dtype.is_number:
        return Condition(column, text)
    if dtype is DType.BOOL and text.lower() in {"true", "false"}:
        return Condition(column, text.lower() == "true")
    try:
        return Condition(column, int(text) if dtype is DType.INT else float(text))
    except ValueError as error:
        raise ConfigError(f"{column!r} is {dtype}, and {text!r} is no such value") from error


def _link(text: str, links: list[Link], kind: str) -> Link:
    match = _TABLE.fullmatch(text.strip())
    table, column = (match[1], match[2]) if match else (text, None)
    fitting = [
        link for link in links
        if (link.parent if kind == "parent" else link.child) == table and column in (None, link.column)
    ]  # fmt: skip
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(sorted({f"{link.parent if kind == 'parent' else link.child}[{link.column}]" for link in links}))
    problem = "has several links; name one of" if fitting else f"is no {kind} here; there are"
    raise ConfigError(f"{table!r} {problem}: {names or 'none'}", where={"key": "features.include"})
