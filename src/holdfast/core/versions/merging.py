"""Three-way merge of the states of rows: what a branch did since the common ancestor, applied to another.

All three sides are states in order of delivery that come after the same earlier ones (which need not be looked at):
those of the ancestor, of ours and of theirs. A key is *changed* on a side whose states of it are not the ancestor's.
What only one side changed is taken from it; what both changed to the same is kept; the rest is a conflict.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from holdfast.core.prepare import row_ids
from holdfast.core.prepare.states import number_equal

__all__ = ["Conflicts", "RowMerge", "merge_keyed", "merge_unkeyed"]

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Conflicts:
    """n keys that both sides changed differently: positions of the last state of each on either side, int64 [n].

    -1 where a side has none: it took back (reverted) what the ancestor had.
    """

    ours: Ints
    theirs: Ints

    def __len__(self) -> int:
        return len(self.ours)


@dataclass(frozen=True, slots=True)
class RowMerge:
    """Positions of states of theirs to add after ours (`take`), and of ours to leave out (`drop`), both ascending."""

    take: Ints
    drop: Ints
    conflicts: Conflicts

    def resolved(self, theirs_wins: Mask, ours_ids: Ints, keys_of_ours: Ints) -> "RowMerge":
        """With the conflicts decided, bool [n]: theirs' last state is added, or ours' states go where theirs has none.

        `ours_ids` are the ids of our states, `keys_of_ours` those of the n conflicts.
        """
        won = self.conflicts.theirs[theirs_wins]
        gone = keys_of_ours[theirs_wins][won < 0]
        drop = np.flatnonzero(np.isin(ours_ids, gone)) if len(gone) else np.zeros(0, np.int64)
        none = np.zeros(0, np.int64)
        return RowMerge(
            np.unique(np.r_[self.take, won[won >= 0]]), np.unique(np.r_[self.drop, drop]), Conflicts(none, none)
        )


class _Side:
    """States of one side by key: how many each key has, and where the j-th of a key is."""

    def __init__(self, ids: Ints, contents: Ints, keys: int) -> None:
        self.ids, self.contents = ids, contents
        self.counts = np.bincount(ids, minlength=keys)
        self.order = np.argsort(ids, kind="stable")
        self.starts = np.cumsum(self.counts) - self.counts
        self.numbers = number_equal(ids)

    def agreeing(self, other: "_Side") -> Ints:
        """Per key: how many states of `other` equal the state of the same number here."""
        there = np.flatnonzero(other.numbers < self.counts[other.ids])
        mine = self.order[self.starts[other.ids[there]] + other.numbers[there]]
        equal = there[self.contents[mine] == other.contents[there]]
        return np.bincount(other.ids[equal], minlength=len(self.counts))

    def same(self, other: "_Side") -> Mask:
        """Per key: whether both have the same states."""
        equal: Mask = (self.counts == other.counts) & (self.agreeing(other) == self.counts)
        return equal

    def last(self) -> Ints:
        """Per key: the position of its last state, -1 where it has none."""
        found = np.full(len(self.counts), -1, np.int64)
        has = self.counts > 0
        found[has] = self.order[(self.starts + self.counts - 1)[has]]
        return found


def merge_keyed(
    sides: tuple[pa.Table, pa.Table, pa.Table], key: Sequence[str], columns: Sequence[str], known: str, removed: str
) -> tuple[RowMerge, Ints]:
    """Merge (ancestor, ours, theirs): states with the columns `key`, `columns`, `known` and `removed`.

    Returns the merge and the ids of our states: what `RowMerge.resolved` asks for, with those of the conflicts by
    `ids[conflicts.ours]`.
    """
    ids = row_ids([side.select(key) for side in sides], key)
    keys = int(max((one.max(initial=-1) for one in ids), default=-1)) + 1
    states = row_ids(sides, [*columns, removed, known])
    base, ours, theirs = (_Side(one, content, keys) for one, content in zip(ids, states, strict=True))
    they, we = ~base.same(theirs), ~base.same(ours)
    both = they & we & ~ours.same(theirs)
    only = they & ~we
    extends = base.agreeing(theirs) == base.counts
    later = theirs.numbers >= base.counts[theirs.ids]
    take = only[theirs.ids] & (later | ~extends[theirs.ids])
    drop = only[ours.ids] & ~extends[ours.ids]
    lasts = ours.last(), theirs.last()
    fought = np.flatnonzero(both)
    plain = row_ids([sides[1], sides[2]], [*columns, removed])
    here, there = lasts[0][fought], lasts[1][fought]
    agreed = np.zeros(len(fought), bool)
    present = (here >= 0) & (there >= 0)
    agreed[present] = plain[0][here[present]] == plain[1][there[present]]
    conflicts = Conflicts(here[~agreed], there[~agreed])
    return RowMerge(np.flatnonzero(take), np.flatnonzero(drop), conflicts), ids[1]


def merge_unkeyed(sides: tuple[pa.Table, pa.Table, pa.Table], columns: Sequence[str]) -> RowMerge:
    """Merge rows that are told apart by content: the n-th of equal rows is there, or not, on each side.

    One that the ancestor had goes when either side took it back; one that it had not comes when either side added it.
    There are no conflicts.
    """
    ids = row_ids(sides, columns)
    size = int(max((one.max(initial=-1) for one in ids), default=-1)) + 1
    base, ours, theirs = (np.bincount(one, minlength=size) for one in ids)
    stay = np.minimum(base, np.minimum(ours, theirs))
    fresh = np.maximum(np.maximum(ours, theirs), base) - base
    # What the ancestor had and a side went below is gone; what any side has beyond the ancestor is there.
    wanted = stay + fresh
    more, fewer = np.maximum(wanted - ours, 0), np.maximum(ours - wanted, 0)
    take = _last_of(ids[2], theirs, more)
    drop = _last_of(ids[1], ours, fewer)
    none = np.zeros(0, np.int64)
    return RowMerge(take, drop, Conflicts(none, none))


def _last_of(ids: Ints, counts: Ints, how_many: Ints) -> Ints:
    """Positions of the last `how_many` of each id."""
    return np.flatnonzero(number_equal(ids) >= (counts - np.minimum(how_many, counts))[ids]) if len(ids) else ids
