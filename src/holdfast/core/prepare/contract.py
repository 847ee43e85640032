"""The contract of a table's columns: what was observed, what binds, and what breaks it.

A rule is `nullable`, `min`, `max`, `values` or `pattern`. A rule that was only observed warns; one that was declared in
the project file or confirmed by a person sends rows to quarantine.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from holdfast.core.prepare.infer import CATEGORY_LIMIT
from holdfast.core.schema import DType

__all__ = ["RULES", "Breach", "ColumnContract", "TableContract", "check", "observe"]

RULES = ("nullable", "min", "max", "values", "pattern")


@dataclass(frozen=True, slots=True)
class ColumnContract:
    """What is known of a column beyond its type.

    `format` reads its times in text. `provisional`: no value was seen yet, so the type is still open. `declared` and
    `confirmed` name the rules that bind.
    """

    format: str | None = None
    provisional: bool = False
    nullable: bool = True
    min: float | None = None
    max: float | None = None
    values: tuple[str, ...] | None = None
    pattern: str | None = None
    declared: tuple[str, ...] = ()
    confirmed: tuple[str, ...] = ()

    @property
    def binding(self) -> dict[str, Any]:
        """The rules that bind, with their values."""
        return {rule: getattr(self, rule) for rule in RULES if rule in self.declared or rule in self.confirmed}

    def confirm(self) -> "ColumnContract":
        """The same with every observed rule binding."""
        observed = {rule: getattr(self, rule) for rule in RULES}
        found = [
            rule
            for rule, value in observed.items()
            if value is not None and value is not True and rule not in self.declared
        ]
        return replace(self, confirmed=tuple(found))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the inverse of `from_dict`."""
        return {
            "format": self.format,
            "provisional": self.provisional,
            **{rule: getattr(self, rule) for rule in RULES},
            "values": None if self.values is None else list(self.values),
            "declared": list(self.declared),
            "confirmed": list(self.confirmed),
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "ColumnContract":
        """The inverse of `to_dict`."""
        lists = {name: tuple(data[name]) for name in ("declared", "confirmed")}
        values = None if data["values"] is None else tuple(data["values"])
        return ColumnContract(**{**data, **lists, "values": values})


@dataclass(frozen=True, slots=True)
class TableContract:
    """The rules of a table: how a row is known, how deliveries replace each other, and its columns' contracts."""

    known: str
    delivery: str
    columns: Mapping[str, ColumnContract] = field(default_factory=dict)

    @property
    def binding(self) -> dict[str, Any]:
        """All that binds, as plain data: it changes when a rule does."""
        columns = {name: column.binding for name, column in self.columns.items() if column.binding}
        return {"known": self.known, "delivery": self.delivery, "columns": columns}

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the inverse of `from_dict`."""
        columns = {name: column.to_dict() for name, column in self.columns.items()}
        return {"known": self.known, "delivery": self.delivery, "columns": columns}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "TableContract":
        """The inverse of `to_dict`."""
        columns = {name: ColumnContract.from_dict(column) for name, column in data["columns"].items()}
        return TableContract(data["known"], data["delivery"], columns)


@dataclass(frozen=True, slots=True)
class Breach:
    """Cells that break a rule. `binds`: their rows go to quarantine; otherwise it is a warning."""

    rule: str
    mask: npt.NDArray[np.bool_]
    reason: str
    binds: bool


def check(contract: ColumnContract, dtype: DType, values: pa.Array) -> list[Breach]:
    """Every rule of `contract` that some of the typed `values` break."""
    tests: dict[str, Callable[[], pa.Array]] = {}
    reasons: dict[str, str] = {}
    if not contract.nullable:
        tests["nullable"], reasons["nullable"] = lambda: pc.is_null(values), "is missing"
    if dtype.is_number and dtype is not DType.BOOL:
        # Mostly none is out of range, which the two ends tell soonest.
        low, high = (pa.scalar(end, values.type) for end in _ends(values))
        if contract.min is not None and pc.less(low, contract.min).as_py():
            tests["min"], reasons["min"] = lambda: pc.less(values, contract.min), f"is less than {contract.min:g}"
        if contract.max is not None and pc.greater(high, contract.max).as_py():
            tests["max"], reasons["max"] = lambda: pc.greater(values, contract.max), f"is more than {contract.max:g}"
    if dtype in (DType.CATEGORY, DType.TEXT):
        if contract.values is not None:
            allowed = pa.array(contract.values, pa.string())
            tests["values"] = lambda: pc.and_(pc.is_valid(values), pc.invert(pc.is_in(values, value_set=allowed)))
            reasons["values"] = "is not one of the known values"
        if contract.pattern is not None:
            tests["pattern"] = lambda: _unmatched(values, contract.pattern or "")
            reasons["pattern"] = f"does not match {contract.pattern}"
    breaches = []
    for rule, test in tests.items():
        broken = test()
        if pc.any(broken).as_py():
            mask = pc.fill_null(broken, False).to_numpy(zero_copy_only=False)
            breaches.append(Breach(rule, mask, reasons[rule], rule in contract.binding))
    return breaches


def _ends(values: pa.Array) -> tuple[Any, Any]:
    """The least and the greatest of numbers; None where there are none."""
    if len(values) and not values.null_count:
        # Several times as fast, but a NaN would hide the others.
        numbers = values.to_numpy(zero_copy_only=False)
        low, high = numbers.min().item(), numbers.max().item()
        if not math.isnan(low + high):
            return low, high
    low, high = pc.min_max(values).as_py().values()
    return low, high


def _unmatched(values: pa.Array, pattern: str) -> pa.Array:
    encoded = values.dictionary_encode()
    fits = [re.fullmatch(pattern, text) is None for text in encoded.dictionary.to_pylist()]
    return pa.array(fits, pa.bool_()).take(encoded.indices)


def observe(
    contract: ColumnContract, dtype: DType, values: pa.Array, *, first: bool, identifier: bool
) -> ColumnContract:
    """`contract` widened to cover `values`; rules that bind stay. `first`: nothing was observed before.

    Keys and links (`identifier`) and times grow by nature: no range or set of theirs is observed.
    """
    seen: dict[str, Any] = {}
    if len(values):
        seen["nullable"] = bool(values.null_count) or (contract.nullable and not first)
    present = len(values) - values.null_count
    if present and dtype in (DType.INT, DType.FLOAT) and not identifier:
        low, high = _ends(values)
        seen["min"] = low if contract.min is None else min(low, contract.min)
        seen["max"] = high if contract.max is None else max(high, contract.max)
    if present and dtype is DType.CATEGORY and not identifier and (first or contract.values is not None):
        found = {*pc.unique(values.drop_null()).to_pylist(), *(contract.values or ())}
        seen["values"] = tuple(sorted(found)) if len(found) <= CATEGORY_LIMIT else None
    return replace(contract, **{rule: value for rule, value in seen.items() if rule not in contract.binding})
