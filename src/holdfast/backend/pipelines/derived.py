"""Derived tables of the project file, in the words of a schema."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from holdfast.backend.settings import Settings
from holdfast.core.prepare import TableContract
from holdfast.core.schema import Table
from holdfast.errors import ConfigError, ConflictError, nearest

__all__ = ["derived_tables", "root_of", "typed_links"]


def root_of(settings: Settings, name: str) -> str:
    """The delivered table that a table's rows come from in the end; the table itself if it is delivered."""
    while (source := settings.tables[name].from_) is not None:
        name = source
    return name


def typed_links(settings: Settings, name: str) -> Iterator[tuple[str, str, str]]:
    """(column, other, its column) for columns of a delivered table that hold what a column of another one does.

    They hold its key, or the key of what derives from it, and take its type.
    """
    for other, table in settings.tables.items():
        if root_of(settings, other) == name:
            for column, parent in table.links.items():
                if (root := root_of(settings, parent)) != name:
                    yield column, root, settings.tables[parent].key[0]


def derived_tables(
    settings: Settings, tables: Mapping[str, Table], before: Mapping[str, Table]
) -> dict[str, tuple[Table, TableContract]]:
    """The derived tables of what is in `tables`, by name, each after the one it comes from.

    `before` is the schema so far. ConfigError when the source lacks a column, ConflictError when a table that was
    delivered is to be derived from now on, or when a bound key changes.
    """
    known = dict(tables)
    found: dict[str, tuple[Table, TableContract]] = {}
    waiting = [name for name, said in settings.tables.items() if said.from_ is not None]
    while ready := [name for name in waiting if settings.tables[name].from_ in known]:
        for name in ready:
            known[name] = _derived(settings, name, known)
            _check_bound(known[name], before.get(name))
            found[name] = known[name], TableContract(f"as {known[name].source}", "derived")
        waiting = [name for name in waiting if name not in ready]
    return found


def _derived(settings: Settings, name: str, known: Mapping[str, Table]) -> Table:
    said = settings.tables[name]
    source = known[said.from_ or ""]
    for column in said.names:
        if column not in source.names:
            place = "columns" if column in said.columns else "links" if column in said.links else "key"
            raise ConfigError(
                f"table {source.name!r} has no column {column!r} that {name!r} could take from it",
                where={"key": f"tables.{name}.{place}"},
                hint=nearest(column, source.names),
            )
    required = {*said.key, *((said.time,) if said.time else ())}
    # In the order of the source, so that the project file may name them in any.
    columns = tuple(
        replace(column, nullable=column.name not in required) for column in source.columns if column.name in said.names
    )
    # Rows of a request are derived as well; what is known of them is known with the rows they come from.
    known_rule = "event" if said.time else "delivery"
    return Table(name, columns, said.key, said.time, settings.links_of(name), known_rule, source.name)


def _check_bound(table: Table, before: Table | None) -> None:
    if before is None:
        return
    if not before.source:
        raise ConflictError(
            f"table {table.name!r} was delivered as files so far; it cannot derive from {table.source!r}",
            where={"table": table.name, "key": f"tables.{table.name}.from"},
            hint="Give the derived table another name.",
        )
