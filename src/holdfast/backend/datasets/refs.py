"""Names for versions: branches, which move with each change made on them, and tags, which stay.

`dataset` points at the current version, the tip of the current branch; `branch:<name>` at the tip of each other one,
and `dataset.branch` holds the name of the current branch (`main` until another one is checked out).
"""

import re
import unicodedata
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from holdfast.backend.ports import Clock
from holdfast.backend.store import Pointers, Store
from holdfast.errors import ConflictError, InputError, NotFoundError, nearest

__all__ = ["CURRENT", "MAIN", "POINTER", "VERSION", "Refs", "current_branch", "named", "tips"]

POINTER = "dataset"
"""The pointer that names the current version."""
MAIN = "main"
CURRENT = "dataset.branch"
"""The pointer that holds the name of the current branch."""
_BRANCH, _TAG = "branch:", "tag:"
VERSION = re.compile(r"v\d+\.\d+|data_[0-9a-f]+")
"""A version's number or id: nothing else is named so."""


def current_branch(connection: sa.Connection) -> str:
    """The name of the branch that changes go to."""
    return Pointers(connection).get(CURRENT) or MAIN


def tips(connection: sa.Connection) -> dict[str, str]:
    """The newest version (id) of each branch, by name."""
    pointers = Pointers(connection)
    found = {name.removeprefix(_BRANCH): target for name, target in pointers.all(_BRANCH).items()}
    now = pointers.get(POINTER)
    return dict(sorted((found | ({current_branch(connection): now} if now else {})).items()))


def named(connection: sa.Connection, name: str) -> str | None:
    """The id of the version that a branch or tag names, or None."""
    if VERSION.fullmatch(name):
        return None  # no branch or tag is named so
    return tips(connection).get(name) or Pointers(connection).get(_TAG + name)


class Refs:
    """Branches and tags. Names are any text without spaces and control characters that is no version's number or id."""

    def __init__(self, store: Store, clock: Clock, find: Callable[[sa.Connection, str | None], Any]) -> None:
        self._store = store
        self._clock = clock
        self._find = find

    @property
    def current(self) -> str:
        """The name of the branch that changes go to."""
        with self._store.read() as connection:
            return current_branch(connection)

    def branches(self) -> dict[str, str]:
        """The newest version (its id) of each branch, by name."""
        with self._store.read() as connection:
            return tips(connection)

    def tags(self) -> dict[str, str]:
        """The version (its id) of each tag, by name."""
        with self._store.read() as connection:
            return {name.removeprefix(_TAG): to for name, to in Pointers(connection).all(_TAG).items()}

    def branch(self, name: str, version: str | None = None) -> str:
        """Make a branch at a version (by default the current one) without going to it; returns the version's id.

        ConflictError when the name is taken.
        """
        return self._make(_BRANCH, name, version, "branch")

    def tag(self, name: str, version: str | None = None) -> str:
        """Name a version (by default the current one) for good; returns its id. ConflictError as of `branch`."""
        return self._make(_TAG, name, version, "tag")

    def drop(self, name: str) -> None:
        """Forget a branch or tag; its versions stay until they are collected. The current branch cannot be dropped."""
        with self._store.write("drop name") as connection:
            pointers = Pointers(connection)
            if name == current_branch(connection):
                raise ConflictError(f"{name!r} is the current branch", hint="Check out another one first.")
            kind = next((kind for kind in (_BRANCH, _TAG) if pointers.get(kind + name)), None)
            if kind is None:
                known = [one.partition(":")[2] for kind in (_BRANCH, _TAG) for one in pointers.all(kind)]
                raise NotFoundError(
                    f"there is no branch or tag {name!r}", where={"name": name}, hint=nearest(name, known)
                )
            pointers.drop(kind + name, at=self._clock.now(), why="dropped")

    def go(self, connection: sa.Connection, name: str, why: str) -> str | None:
        """Make the branch of that name current, in somebody's write transaction; None when there is no such branch."""
        pointers, here = Pointers(connection), current_branch(connection)
        target = tips(connection).get(name)
        if target is None or name == here:
            return target
        now, moment = pointers.get(POINTER), self._clock.now()
        if now:
            pointers.move(_BRANCH + here, now, at=moment, why=f"left for {name}")
        pointers.move(CURRENT, name, at=moment, why=why)
        pointers.move(POINTER, target, at=moment, why=why)
        return target

    def _make(self, kind: str, name: str, version: str | None, what: str) -> str:
        _check(name, what)
        with self._store.write(what) as connection:
            identifier = str(self._find(connection, version).id)
            if named(connection, name):
                raise ConflictError(
                    f"there is a branch or tag {name!r} already",
                    where={"name": name},
                    hint="Choose another name, or drop that one first.",
                )
            Pointers(connection).move(kind + name, identifier, at=self._clock.now(), why=what, expect=None)
        return identifier


def _check(name: str, what: str) -> None:
    bad = not name or name.startswith("-") or VERSION.fullmatch(name)
    if bad or any(unicodedata.category(sign)[0] in "ZC" for sign in name):
        raise InputError(
            f"{name!r} cannot be the name of a {what}",
            hint="Use letters, digits and signs of any script without spaces; not a version's number such as v1.0.",
        )
