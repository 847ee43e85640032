"""Deploying: load and replay the models the way a server will, and only then move the pointer."""

from collections.abc import Callable, Mapping

from holdfast.backend.records import Deployment, new_id
from holdfast.backend.serving.loader import Sources, check_data, load_predictor
from holdfast.errors import ConflictError

__all__ = ["deploy", "resume", "rollback"]

Once = Callable[[Callable[[], Deployment]], Deployment]
"""Does a change, in one transaction with the record that it was done."""


def _plainly(change: Callable[[], Deployment]) -> Deployment:
    return change()


def deploy(
    sources: Sources, target: str, models: Mapping[str, str], note: str = "", *, once: Once = _plainly
) -> Deployment:
    """Deploy `models` (label → ModelVersion id) for `target`; running servers pick it up within a second.

    A package that is missing, damaged, answers its golden rows differently, or does not share the feature set of the
    others is refused with IntegrityError, NotFoundError or ConflictError naming the label; so are models whose features
    the current data version cannot give (ConflictError naming table and column). What answers now goes on.
    """
    current = sources.deployments.current(target)
    now = sources.clock.now()
    candidate = Deployment(new_id("dep", now), target, now, dict(models), (), note)
    if not models:
        raise ConflictError(
            f"there are no models of {target!r} to deploy",
            where={"target": target},
            hint=f"Train them with: holdfast train {target}",
        )
    check_data(load_predictor(candidate, sources), sources.dataset())
    after = current.id if current else None
    return once(lambda: sources.deployments.deploy(target, models, note, after=after))


def rollback(sources: Sources, target: str, to: str | None = None, *, once: Once = _plainly) -> Deployment:
    """Go back to deployment `to`, by default the one before the current, after the same checks as `deploy`."""
    current, goal = sources.deployments.before(target, to)
    check_data(load_predictor(goal, sources), sources.dataset())
    return once(lambda: sources.deployments.rollback(target, goal.id, why=f"rollback from {current.id}"))


def resume(sources: Sources, target: str) -> None:
    """Let what answers, or answered before it was withdrawn, answer: after the same checks as `deploy`."""
    deployments = sources.deployments
    check_data(load_predictor(deployments.get(deployments.last(target)), sources), sources.dataset())
    if target not in deployments.pointers():
        deployments.resume(target)
