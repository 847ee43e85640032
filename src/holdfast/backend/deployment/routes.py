"""Which deployment answers a request: the stable one, or an arm of a rollout. Pure; called once a request."""

import random
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

__all__ = ["Arm", "Mode", "Route"]

Mode = Literal["canary", "shadow", "ab", "green"]
_ALL = 1 << 64


@dataclass(frozen=True, slots=True)
class Arm:
    """A deployment beside the stable one. `share` (0 to 1) of the units are its; a shadow sees that share as copies."""

    deployment: str
    share: float
    mode: Mode


@dataclass(frozen=True, slots=True)
class Route:
    """Where the requests of a target go. `salt` differs from rollout to rollout, so that none inherits a division."""

    stable: str
    arms: tuple[Arm, ...] = ()
    salt: str = ""

    def choose(self, unit: str | None = None) -> str:
        """The deployment that answers for `unit`: always the same one while shares stay, and a share that grows keeps
        the units it had. None: drawn by lot, request by request.
        """
        if not self.arms:
            return self.stable
        place = self._place(unit)
        for arm in self.arms:
            if arm.mode == "shadow":
                continue
            if place < arm.share:
                return arm.deployment
            place -= arm.share
        return self.stable

    def shadows(self, unit: str | None = None) -> tuple[str, ...]:
        """The deployments that get a copy of a request of `unit`; their answers are only looked at."""
        return tuple(arm.deployment for arm in self.arms if arm.mode == "shadow" and self._place(unit) < arm.share)

    @property
    def deployments(self) -> tuple[str, ...]:
        """Everything that has to be loaded, the stable one first."""
        return (self.stable, *(arm.deployment for arm in self.arms))

    def _place(self, unit: str | None) -> float:
        """Of a unit its place in [0, 1), evenly over units; of none any place."""
        if unit is None:
            return random.random()  # noqa: S311 - a lot, not a secret
        digest = blake2b(f"{self.salt}\0{unit}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") / _ALL
