"""The client's verbs of rollouts and outcomes: a part of `Project`."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.backend.wiring import Services, file_reader
from holdfast.errors import NotFoundError

if TYPE_CHECKING:
    from holdfast.backend.deployment import OutcomesAdded, Rollouts
    from holdfast.backend.records import Rollout, RolloutEvent

__all__ = ["RolloutVerbs"]


class RolloutVerbs:
    """New models on trial beside those that answer, and what became of predictions."""

    _services: Services
    _verb: Callable[[str, str], AbstractContextManager[None]]
    _run: Callable[..., Any]
    chosen: Callable[..., tuple[str, dict[str, str]]]

    @property
    def rollouts(self) -> "Rollouts":
        """What is and was on trial: current, history, events."""
        from holdfast.backend.deployment import Rollouts

        return Rollouts(self._services.store, self._services.clock, self._services.deployments)

    def start_rollout(
        self, mode: str, target: str | None = None, *, versions: Mapping[str, str] | None = None,
        share: float | None = None, seconds: float | None = None, note: str = "",
    ) -> "Rollout":  # fmt: skip
        """Put the current models of a target (or for some labels other `versions`) on trial.

        `mode` is canary, shadow, ab or green (blue/green). `share` of the requests and `seconds` a step are by default
        those of the project file. A running server watches it, and promotes it or rolls it back by itself.
        """
        from holdfast.backend.pipelines.rollout import start_of

        name, models = self.chosen(target, versions)
        arguments = start_of(self._services.settings, name, models, mode, share=share, seconds=seconds, note=note)
        made: Rollout = self._run("rollout_start", arguments, f"{mode} {name}")
        return made

    def promote(self, target: str | None = None, *, why: str = "") -> "RolloutEvent":
        """Let the candidate of a target's rollout answer everything, now."""
        return self._end(target, "promote", why)

    def stop_rollout(self, target: str | None = None, *, why: str = "") -> "RolloutEvent":
        """End a target's rollout: the stable deployment answers everything."""
        return self._end(target, "stop", why)

    def _end(self, target: str | None, action: str, why: str) -> "RolloutEvent":
        from holdfast.backend.pipelines.features import find_target

        rollout = self.rollouts.current(find_target(self._services.settings, target))
        arguments = {"rollout": rollout.id, "action": action, "why": why}
        made: RolloutEvent = self._run("rollout_end", arguments, f"{action} {rollout.target}")
        return made

    def rollout_status(self, target: str | None = None) -> dict[str, Any]:
        """How the rollout of a target goes, or how its last one went, as plain data.

        NotFoundError when it never had one.
        """
        from holdfast.backend.pipelines.features import find_target
        from holdfast.backend.pipelines.rollout import status

        name = find_target(self._services.settings, target)
        known = self.rollouts.history(name)
        if not known:
            raise NotFoundError(
                f"{name!r} never had a rollout", where={"target": name},
                hint=f"Start one: holdfast rollout start {name} --canary",
            )  # fmt: skip
        running = self.rollouts.running().get(name)
        return status(self._services, known[0] if running is None else self.rollouts.get(running))

    def add_outcomes(self, file: str | Path) -> "OutcomesAdded":
        """Record what became of predictions, from a file with the columns prediction, label and value; all or none."""
        from holdfast.backend.pipelines.outcomes import add_outcomes, outcomes_of

        path = Path(file)
        with self._verb("outcomes", path.name), file_reader() as read:
            return add_outcomes(self._services, outcomes_of(read(path), path.name), file=path.name)
