"""Which rows features read, and which asked rows a changed row can touch: a plan followed in SQL.

`Need` walks from keys of the entity to the rows that their values depend on; `touched` walks the other way, from
changed states to keys of the entity, with the earliest cutoff at which each can matter.
"""

from collections.abc import Mapping

from holdfast.backend.features.scratch import ScratchTables
from holdfast.core.features.plan import Stage
from holdfast.core.schema import Link

__all__ = ["Need", "touched"]


class Need:
    """The rows that a stage reads for some keys of its table: per (table, column) the wanted values, as kept tables."""

    def __init__(self, tables: ScratchTables, stage: Stage, keys: str) -> None:
        self.tables = tables
        self.wanted: dict[tuple[str, str], list[str]] = {}
        self.made: list[str] = []
        self._keyed(stage, keys)

    def where(self, table: str) -> str:
        """SQL of the rows of a table that are needed, over alias t."""
        terms = []
        for (name, column), keys in self.wanted.items():
            if name == table:
                union = " UNION ALL ".join(f"SELECT k FROM {one}" for one in dict.fromkeys(keys))  # noqa: S608
                terms.append(f"t.{column} IN ({union})")
        return " OR ".join(terms) or "false"

    def drop(self) -> None:
        """Forget the kept tables."""
        self.tables.drop(self.made)

    def _want(self, table: str, column: str, keys: str) -> None:
        self.wanted.setdefault((table, column), []).append(keys)

    def _keyed(self, stage: Stage, keys: str) -> None:
        column = self.tables.key(stage.table)
        self._want(stage.table, column, keys)
        self._around(stage, column, keys)

    def _around(self, stage: Stage, column: str, keys: str) -> None:
        """What the rows whose `column` is among `keys` need around them."""
        for link, above, _ in stage.parents:
            self._keyed(above, self._step(stage.table, column, keys, link.column))
        for children in stage.children:
            key = self.tables.key(stage.table)
            down = keys if key == column else self._distinct(stage.table, column, keys, key)
            child = self.tables.column(children.link.child, children.link.column)
            self._want(children.link.child, child, down)
            if children.stage is not None:
                self._around(children.stage, child, down)
        for link in _within(stage):
            siblings = self._step(stage.table, column, keys, link.column)
            self._want(stage.table, self.tables.column(stage.table, link.column), siblings)

    def _step(self, table: str, column: str, keys: str, to: str) -> str:
        return self._distinct(table, column, keys, self.tables.column(table, to))

    def _distinct(self, table: str, column: str, keys: str, to: str) -> str:
        name = self.tables.make(
            f"SELECT DISTINCT t.{to} AS k FROM {self.tables.table(table)} t "  # noqa: S608 - our own names
            f"WHERE t.{column} IN (SELECT k FROM {keys}) AND t.{to} IS NOT NULL"
        )
        self.made.append(name)
        return name


def _within(stage: Stage) -> list[Link]:
    return list(dict.fromkeys(step.feature.link for step in stage.steps if step.feature.link))


def touched(tables: ScratchTables, stage: Stage, changed: Mapping[str, str], rows: Mapping[str, str]) -> str:
    """A kept table (k, m): features of key k of the stage's table may have changed at cutoffs of at least m.

    `changed` names, by table, kept tables of changed states (columns of the table and `m`, the earliest cutoff that
    the change can matter at); `rows` names those of all states, old and new.
    """
    return _Touched(tables, changed, rows).of(stage, tables.key(stage.table))


class _Touched:
    def __init__(self, tables: ScratchTables, changed: Mapping[str, str], rows: Mapping[str, str]) -> None:
        self.tables = tables
        self.changed = changed
        self.rows = rows

    def of(self, stage: Stage, on: str) -> str:
        """Changes of the values of rows of the stage, by their column `on`."""
        table, key = stage.table, self.tables.key
        found = [self._own(table, on)]
        for link, above, _ in stage.parents:
            column = self.tables.column(table, link.column)
            found.append(self._joined(table, on, column, self.of(above, key(link.parent))))
        for children in stage.children:
            below = self.below(children.link, children.stage)
            found.append(
                f"SELECT k, m FROM {below}"  # noqa: S608
                if on == key(table)
                else self._joined(table, on, key(table), below)
            )
        for link in _within(stage):
            column = self.tables.column(table, link.column)
            before = self.tables.make(self._own(table, column))
            found.append(self._joined(table, on, column, before))
        return self._least(found)

    def below(self, link: Link, stage: Stage | None) -> str:
        """Changes of what is behind a link, by the key of the parent."""
        column = self.tables.column(link.child, link.column)
        return self._least([self._own(link.child, column)]) if stage is None else self.of(stage, column)

    def _own(self, table: str, on: str) -> str:
        return f"SELECT t.{on} AS k, t.m FROM {self.changed[table]} t WHERE t.{on} IS NOT NULL"  # noqa: S608

    def _joined(self, table: str, on: str, column: str, by: str) -> str:
        return (
            f"SELECT t.{on} AS k, e.m FROM {self.rows[table]} t JOIN {by} e ON t.{column} = e.k "  # noqa: S608
            f"WHERE t.{on} IS NOT NULL"
        )

    def _least(self, queries: list[str]) -> str:
        return self.tables.make(f"SELECT k, min(m) AS m FROM ({' UNION ALL '.join(queries)}) GROUP BY k")  # noqa: S608
