"""Conditions that the project file declares."""

import pytest

from holdfast.backend.features.resolving import declared_conditions
from holdfast.errors import ConfigError

from .worlds import SCHEMA


def test_values_are_typed_as_their_column_is() -> None:
    found = declared_conditions(
        SCHEMA,
        {"orders.paid": ("true", False), "items.数量": ("5", 6), "orders.渠道": (7, "yes"), "orders.total": (1,)},
    )
    assert {column: [(type(v), v) for v in values] for (_, column), values in found.items()} == {
        "paid": [(bool, True), (bool, False)],
        "数量": [(int, 5), (int, 6)],
        "渠道": [(str, "7"), (str, "yes")],
        "total": [(float, 1.0)],
    }


@pytest.mark.parametrize(
    ("key", "value", "wrong"),
    [
        ("orders.渠道", True, "'渠道' holds categories, and true is a truth value"),
        ("orders.paid", "maybe", "'paid' is bool, and 'maybe' is no such value"),
        ("orders.nothing", 1, "no column 'nothing'"),
        ("ordres.paid", True, "no table 'ordres'"),
    ],
)
def test_what_does_not_fit_names_its_key(key: str, value: object, wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong) as caught:
        declared_conditions(SCHEMA, {key: (value,)})  # type: ignore[dict-item]
    assert caught.value.where["key"] == f"features.conditions.{key}"
