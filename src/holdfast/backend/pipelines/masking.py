"""What is shown of personal columns: that there is a value, not which."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from holdfast.backend.datasets import Datasets
from holdfast.backend.settings import Settings
from holdfast.core.prepare.delivery import MASKED
from holdfast.core.schema import Schema

__all__ = ["mask_comparison", "mask_rows", "masked_faults", "personal_columns"]


def personal_columns(settings: Settings, schema: Schema) -> dict[str, frozenset[str]]:
    """Personal columns by table: as the version's schema says, or the project file by now, and links to such keys.

    A column that a table derives from a personal one is personal too, and so is a link to a personal key.
    """
    found = {name: {c.name for c in table.columns if c.personal} for name, table in schema.tables.items()}
    for name, said in settings.tables.items():
        found.setdefault(name, set()).update(c for c, column in said.columns.items() if column.personal)
    for _ in schema.tables:
        for name, table in schema.tables.items():
            if table.source:
                found[name] |= found[table.source] & set(table.names)
            for column, parent in table.links.items():
                if parent in schema.tables and set(schema.tables[parent].key) & found[parent]:
                    found[name].add(column)
    return {name: frozenset(columns) for name, columns in found.items()}


def mask_rows(rows: pa.Table, columns: frozenset[str]) -> pa.Table:
    """The rows with the values of `columns` as ***; what is null stays null."""
    for name in columns & set(rows.column_names):
        masked = pa.array([MASKED if value.is_valid else None for value in rows[name]], pa.string())
        rows = rows.set_column(rows.column_names.index(name), name, masked)
    return rows


def masked_faults(settings: Settings, datasets: Datasets, version: str | None) -> pa.Table:
    """The quarantine of a version (columns as `Datasets.quarantine`) without personal values."""
    found = datasets.quarantine(version)
    personal = personal_columns(settings, datasets.schema(version))
    values = [
        MASKED if value is not None and set((column or "").split(", ")) & personal.get(table, frozenset()) else value
        for table, column, value in zip(
            found["table"].to_pylist(), found["column"].to_pylist(), found["value"].to_pylist(), strict=True
        )
    ]
    place = found.column_names.index("value")
    return found.set_column(place, found.schema.field(place), pa.array(values, pa.string()))


def mask_comparison(comparison: Mapping[str, Any], personal: Mapping[str, frozenset[str]]) -> dict[str, Any]:
    """A comparison of versions as plain data, its examples without personal values."""
    tables = {}
    for name, told in comparison["tables"].items():
        hidden = personal.get(name, frozenset())
        tables[name] = {**told, "examples": _masked(told["examples"], hidden)}
    return {**comparison, "tables": tables}


def _masked(value: Any, hidden: frozenset[str]) -> Any:
    """Plain data in which what stands under a hidden name is ***, at any depth."""
    if isinstance(value, Mapping):
        return {k: MASKED if k in hidden and v is not None else _masked(v, hidden) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(item, hidden) for item in value]
    return value
