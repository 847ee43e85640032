"""The frame around one training.

The checkpoint is the design: a training only writes new blobs, and one transaction records its versions and moves the
pointers. Until that transaction commits, models, pointers and data/model are the old ones; so a failure has nothing to
undo but its run, which is recorded as failed, and the folder, which is made to show the pointers again.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from holdfast.backend.records import Run
from holdfast.backend.registry.registry import Registry
from holdfast.backend.store.locks import file_lock
from holdfast.core.names import escape
from holdfast.errors import LockedError

__all__ = ["end_interrupted", "model_locks", "training_session"]


@contextmanager
def training_session(registry: Registry, run: Run, models: Sequence[str]) -> Iterator[None]:
    """Hold the locks of `models` and record `run` as running for the block.

    LockedError at once, saying who since when, if any of them is being trained. When the block raises, the run is
    recorded as failed with the error and everything current is as it was. The block ends the run itself (register).
    """
    with model_locks(registry, models):
        end_interrupted(registry)
        registry.start_run(run)
        try:
            yield
        except BaseException as error:
            registry.fail_run(run.id, f"{type(error).__name__}: {error}")
            registry.refresh()
            raise


@contextmanager
def model_locks(registry: Registry, models: Sequence[str]) -> Iterator[None]:
    """Hold the locks of `models`. LockedError at once, saying who since when, if any of them is being trained."""
    with ExitStack() as held:
        for model in sorted(set(models)):  # one order for all, so that two trainings never wait for each other
            held.enter_context(_lock(registry, model))
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


@contextmanager
def _lock(registry: Registry, model: str) -> Iterator[bool]:
    path = registry.layout.private / "locks" / f"train-{escape(model)}.lock"
    with file_lock(path, now=registry.clock.now(), what=f"the training of {model}") as stale:
        yield stale
