"""Header cells to column names."""

from collections.abc import Sequence

from holdfast.errors import LimitError

__all__ = ["unique_names"]


def unique_names(header: Sequence[str], file: str, limit: int) -> tuple[list[str], list[str]]:
    """Unique, non-empty names for header cells, in order, and notes about those that had to change.

    An empty cell becomes `column_<position>`; a repeated name gets the first free of `_2`, `_3` ... The same header
    always gives the same names. LimitError when there are more than `limit` cells.
    """
    if len(header) > limit:
        raise LimitError(
            f"{file} has {len(header):,} columns, more than {limit:,}",
            where={"file": file},
            hint="Remove the columns that are not needed, or turn the table on its side",
        )
    taken = {name for name in header if name}
    seen: set[str] = set()
    names: list[str] = []
    notes: list[str] = []
    for position, cell in enumerate(header, start=1):
        name = cell or f"column_{position}"
        if (name in seen) or (not cell and name in taken):
            stem, count = name, 2
            while f"{stem}_{count}" in taken:
                count += 1
            name = f"{stem}_{count}"
            taken.add(name)
        if not cell:
            notes.append(f"header cell {position} is empty: the column is called {name!r}")
        elif name != cell:
            notes.append(f"the header repeats {cell!r}: column {position} is called {name!r}")
        taken.add(name)
        seen.add(name)
        names.append(name)
    return names, notes
