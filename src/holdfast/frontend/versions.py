"""The client's verbs of data versions: a part of `Project`."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from holdfast.backend.store.audit import actor
from holdfast.backend.wiring import Services

if TYPE_CHECKING:
    from holdfast.backend.datasets import Datasets
    from holdfast.backend.datasets.changing import Changed
    from holdfast.backend.datasets.collecting import Collected
    from holdfast.backend.datasets.merging import Conflict, MergeResult
    from holdfast.backend.datasets.rewriting import Compacted
    from holdfast.backend.records import DatasetVersion

__all__ = ["VersionVerbs", "conflicts_csv", "decisions_from"]


class VersionVerbs:
    """Rows changed without files; branches, tags, merges; what is taken out, put together and collected."""

    _services: Services
    _verb: Callable[[str, str], AbstractContextManager[None]]
    _run: Callable[..., Any]

    @property
    def data(self) -> "Datasets":
        """Versions of the data: list, show, read, compare, go back, confirm the contract."""
        return self._services.datasets

    @property
    def author(self) -> str:
        """Who is working, for records."""
        return actor()

    def append(self, table: str, rows: Any, *, known: str = "now", note: str = "") -> "Changed":
        """Add rows (Arrow, pandas, or a list of mappings) to a table, as a new version.

        They are known from now, or with `known="rule"` as the table's `known:` says. ContractError names table, column
        and row of what does not fit; ConflictError lists keys that are there already.
        """
        return self._change(table, rows, "append", known, note)

    def upsert(self, table: str, rows: Any, *, known: str = "now", note: str = "") -> "Changed":
        """Add rows, and replace those whose key is there: whole rows, known from now. Errors as of `append`."""
        return self._change(table, rows, "upsert", known, note)

    def delete(self, table: str, keys: Any, *, note: str = "") -> "Changed":
        """Remove rows by key from now on: earlier cutoffs still see them. NotFoundError lists absent ones."""
        return self._change(table, keys, "delete", "now", note)

    def _change(self, table: str, rows: Any, mode: str, known: str, note: str) -> "Changed":
        from holdfast.backend.datasets.changing import change

        with self._verb("data", f"{mode} {table}"):
            return change(self.data, table, rows, mode, known=known, note=note, author=self.author)

    def branch(self, name: str, version: str | None = None) -> "DatasetVersion":
        """Make a branch at a version (by default the current one); `data.checkout(name)` goes to it."""
        with self._verb("data", f"branch {name}"):
            return self.data.get(self.data.refs.branch(name, version))

    def tag(self, name: str, version: str | None = None) -> "DatasetVersion":
        """Name a version (by default the current one) for good."""
        with self._verb("data", f"tag {name}"):
            return self.data.get(self.data.refs.tag(name, version))

    def merge(
        self,
        theirs: str,
        *,
        rule: str | None = None,
        decisions: Mapping[tuple[str, str], str] | None = None,
        note: str = "",
    ) -> "MergeResult":
        """Merge a branch, tag or version into the current version, by key.

        ConflictError lists rows that both changed differently, unless `decisions` or a `rule` (ours, theirs, newest)
        decide each: see `holdfast.backend.datasets.merging.merge`.
        """
        from holdfast.backend.datasets.merging import merge

        with self._verb("data", f"merge {theirs}"):
            return merge(self.data, theirs, rule=rule, decisions=decisions, note=note, author=self.author)

    def conflicts(self, theirs: str) -> "list[Conflict]":
        """The rows that a merge of `theirs` would have to decide on."""
        from holdfast.backend.datasets.merging import list_conflicts

        return list_conflicts(self.data, theirs)

    def revert(self, version: str, *, note: str = "") -> "DatasetVersion":
        """Take one import, change or merge out of the current version's history, as a new version.

        ConflictError lists the keys that later versions changed again.
        """
        from holdfast.backend.datasets.rewriting import revert

        with self._verb("data", f"revert {version}"):
            return revert(self.data, version, note=note, author=self.author)

    def compact(self, *, note: str = "") -> "Compacted":
        """Put small parts together: a version of the same data that reads faster."""
        made: Compacted = self._run("compact", {"note": note}, "compact")
        return made

    def collect(self, *, keep: int | None = None, grace: str = "1h", dry_run: bool = False) -> "Collected":
        """Delete what nothing refers to any more; with `keep`, versions beyond the newest so many of each branch, too.

        Blobs put within `grace` (30min, 12h, 2d ...) stay. With `dry_run` nothing goes.
        """
        from holdfast.backend.datasets.collecting import collect
        from holdfast.core.timeline import parse_duration

        microseconds = 0 if grace == "0" else parse_duration(grace)
        if not dry_run:
            done: Collected = self._run("collect", {"keep": keep, "grace": microseconds}, "collect")
            return done
        services = self._services
        return collect(self.data, services.store, services.blobs, keep=keep, grace=microseconds, dry_run=True)


def conflicts_csv(conflicts: "Sequence[Conflict]") -> str:
    """Conflicts as a CSV file to decide on: table, key, ours, theirs, and an empty column `take`."""
    from holdfast.backend.datasets.merging import conflicts_csv

    return conflicts_csv(conflicts)


def decisions_from(text: str, file: str) -> dict[tuple[str, str], str]:
    """What such a file decides, for `merge`. InputError names the line that is wrong."""
    from holdfast.backend.datasets.merging import decisions_from

    return decisions_from(text, file)
