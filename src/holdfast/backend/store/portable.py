"""All records of one snapshot in a database of any kind: how backups leave and enter PostgreSQL and SQLite alike."""

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from holdfast.backend.store.database import Store, metadata
from holdfast.errors import ConflictError, IntegrityError

__all__ = ["copy_records", "insert_rows", "is_empty"]

_PAGE = 1000
_OF_THE_MOMENT = {"leases"}
"""Tables about what runs now and here: a copy has none of it."""


def copy_records(source: sa.Connection, target: Store) -> int:
    """Copy what the snapshot `source` shows into an upgraded, empty database, all or nothing; returns how many rows.

    ConflictError when `target` holds records. IntegrityError when its tables are not those of this program.
    """
    with target.write("copy records") as connection:
        there = set(sa.inspect(connection).get_table_names())
        absent = sorted(set(metadata.tables) - there)
        if absent:
            raise IntegrityError(f"the database lacks the tables {', '.join(absent)}", where={"database": target.url})
        if not is_empty(connection):
            raise ConflictError(
                "the database holds records already", where={"database": target.url},
                hint="Give an empty one (--database), so that nothing of it is lost.",
            )  # fmt: skip
        return sum(
            insert_rows(connection, table, _rows(source, table))
            for table in metadata.sorted_tables
            if table.name not in _OF_THE_MOMENT
        )


def is_empty(connection: sa.Connection) -> bool:
    """Whether no table of ours has a row."""
    return not any(
        connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first()
        for table in metadata.sorted_tables
        if table.name not in _OF_THE_MOMENT
    )


def insert_rows(connection: sa.Connection, table: sa.Table, rows: Iterator[dict[str, Any]]) -> int:
    """Insert rows with their own numbers; those of a table that refers to itself after what they refer to."""
    count, page = 0, []
    for row in _parents_first(table, rows):
        page.append(row)
        if len(page) == _PAGE:
            connection.execute(table.insert(), page)
            count, page = count + len(page), []
    if page:
        connection.execute(table.insert(), page)
    _go_on_counting(connection, table)
    return count + len(page)


def _rows(source: sa.Connection, table: sa.Table) -> Iterator[dict[str, Any]]:
    query = sa.select(table).order_by(*table.primary_key.columns)
    for page in source.execute(query, execution_options={"yield_per": _PAGE}).partitions():
        for row in page:
            yield dict(row._mapping)


def _parents_first(table: sa.Table, rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    refers = [(key.parent.name, key.column.name) for key in table.foreign_keys if key.column.table is table]
    waiting = list(rows) if refers else []
    if not refers:
        yield from rows
    while waiting:
        later = {row[parent] for _, parent in refers for row in waiting}
        ready = [row for row in waiting if not any(row[child] in later for child, _ in refers)]
        if not ready:
            raise IntegrityError(f"rows of {table.name} refer to each other in a circle")
        yield from ready
        done = {id(row) for row in ready}
        waiting = [row for row in waiting if id(row) not in done]


def _go_on_counting(connection: sa.Connection, table: sa.Table) -> None:
    """PostgreSQL counts numbers of its own apart from the rows; SQLite looks at the rows."""
    counted = table.autoincrement_column
    if connection.dialect.name != "postgresql" or counted is None:
        return
    name = connection.dialect.identifier_preparer.format_table(table)
    sequence = connection.execute(sa.select(sa.func.pg_get_serial_sequence(name, counted.name))).scalar()
    if sequence is not None:
        highest = sa.select(sa.func.coalesce(sa.func.max(counted), 0) + 1).scalar_subquery()
        connection.execute(sa.select(sa.func.setval(sequence, highest, False)))
