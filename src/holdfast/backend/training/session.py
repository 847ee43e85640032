"""The frame around one training.

The checkpoint is the design: a training only writes new blobs, and one transaction records its versions and moves the
pointers. Until that transaction commits, models, pointers and data/model are the old ones; so a failure has nothing to
undo but its run, which is recorded as failed, and the folder, which is made to show the pointers again.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from holdfast.backend.records import Run
from holdfast.backend.registry.registry import Registry
from holdfast.backend.store import Leases
from holdfast.errors import LockedError

__all__ = ["end_interrupted", "model_locks", "training_session"]


@contextmanager
def training_session(registry: Registry, run: Run, models: Sequence[str]) -> Iterator[None]:
    """Hold the locks of `models` and record `run` as running for the block.

    LockedError at once, saying who since when, if any of them is being trained. When the block raises, the run is
    recorded as failed with the error and everything current is as it was. The block ends the run itself (register).
    """
    end_interrupted(registry)
    with model_locks(registry, models):
        registry.start_run(run)
        try:
            yield
        except BaseException as error:
            registry.fail_run(run.id, f"{type(error).__name__}: {error}")
            registry.refresh()
            raise


@contextmanager
def model_locks(registry: Registry, models: Sequence[str]) -> Iterator[None]:
    """Hold the leases of `models`. LockedError at once, saying who since when, if any of them is being trained."""
    with Leases(registry.store, registry.clock).hold([f"model:{model}" for model in models], doing="training"):
        yield


def end_interrupted(registry: Registry) -> list[Run]:
    """Record as failed the running runs whose process is gone; returns them. For every start of the project."""
    ended = []
    for run in registry.runs(state="running"):
        try:
            with model_locks(registry, run.parameters.get("models", ())):
                registry.fail_run(run.id, "interrupted: its process ended before the run did")
                ended.append(run)
        except LockedError:
            continue
    return ended
