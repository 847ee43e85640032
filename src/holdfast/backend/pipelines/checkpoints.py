"""Checkpoints before changes.

Most changes move their pointers in one last transaction: a failure leaves everything as it was, and the checkpoint of
such a change finds nothing to restore. A change of several transactions (the import of many periods) keeps by design
what succeeded before the failure; its checkpoint stays then, so that this can be undone by hand in one step.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from holdfast.backend.datasets.refs import VERSION
from holdfast.backend.ports import Clock
from holdfast.backend.records import new_id
from holdfast.backend.store import Pointers, Store
from holdfast.backend.store.checkpoints import Checkpoint, Checkpoints
from holdfast.backend.store.leases import Holder, this_process
from holdfast.core.timeline import isoformat
from holdfast.errors import HoldfastError, InputError

__all__ = ["checkpointed", "create", "list_checkpoints", "remove"]


def create(store: Store, clock: Clock, name: str | None = None, why: str = "") -> Checkpoint:
    """Record where all pointers point now, by default under the present time. ConflictError when the name is taken."""
    now = clock.now()
    # A version's number must go on naming the version wherever a moment is asked for.
    if name is not None and (not name.isprintable() or name != name.strip() or not name or VERSION.fullmatch(name)):
        hint = "Choose a word or more, in one line; not a version's number such as v1.0."
        raise InputError(f"{name!r} cannot be the name of a checkpoint", hint=hint)
    with store.write("create checkpoint") as connection:
        return Checkpoints(connection).add(new_id("check", now), name or isoformat(now), at=now, why=why)


def remove(store: Store, clock: Clock, name: str) -> Checkpoint:
    """Forget a checkpoint; what it named stays. NotFoundError with the nearest name."""
    with store.write("remove checkpoint") as connection:
        return Checkpoints(connection).remove(name, at=clock.now())


def list_checkpoints(store: Store, clock: Clock) -> list[Checkpoint]:
    """All checkpoints, oldest first. Those of changes whose process died are settled first."""
    with store.read() as connection:
        found = Checkpoints(connection).list()
    if not any(_abandoned(one) for one in found):
        return found
    with store.write("settle checkpoint") as connection:
        for one in Checkpoints(connection).list():
            if _abandoned(one):
                _settle(Checkpoints(connection), Pointers(connection), one, clock.now())
        return Checkpoints(connection).list()


@contextmanager
def checkpointed(store: Store, clock: Clock, why: str, of: Sequence[str]) -> Iterator[Checkpoint]:
    """Keep a checkpoint for the block; `of` are the beginnings of the names of pointers that the block may move.

    It is gone after success, and after a failure that moved nothing. After a failure in the midst of several
    transactions it stays, and the error names it.
    """
    list_checkpoints(store, clock)
    now = clock.now()
    identity = new_id("check", now)
    maker = json.dumps({"pid": os.getpid(), "process": this_process(), "of": list(of)})
    with store.write("checkpoint") as connection:
        kept = Checkpoints(connection).add(identity, f"before {why} {identity[-6:]}", at=now, why=why, maker=maker)
    try:
        yield kept
    except BaseException as error:
        with store.write("settle checkpoint") as connection:
            stays = _settle(Checkpoints(connection), Pointers(connection), kept, clock.now())
        if stays and isinstance(error, HoldfastError):
            said = f'{error.hint or ""} What succeeded before can be undone: holdfast checkpoint restore "{kept.name}"'
            raise type(error)(error.message, where=error.where, hint=said.strip()) from error
        raise
    with store.write("settle checkpoint") as connection:
        Checkpoints(connection).remove(kept.name, at=clock.now())


def _settle(checkpoints: Checkpoints, pointers: Pointers, kept: Checkpoint, now: int) -> bool:
    """After a change that did not succeed: forget its checkpoint, unless something moved. Whether it stays."""
    of = tuple(json.loads(kept.maker)["of"])
    if _those(pointers.all(), of) == _those(kept.pointers, of):
        checkpoints.remove(kept.name, at=now)
        return False
    checkpoints.keep(kept.name, at=now, why=f"{kept.why} did not come to its end")
    return True


def _those(pointers: Mapping[str, str], of: tuple[str, ...]) -> dict[str, str]:
    return {name: target for name, target in pointers.items() if name.startswith(of)}


def _abandoned(one: Checkpoint) -> bool:
    """Whether it was made for a change whose process is known to have ended."""
    if not one.maker:
        return False
    maker = json.loads(one.maker)
    return Holder("", "", maker["process"], "", maker["pid"], "", 0, 0, 0, 0).gone()
