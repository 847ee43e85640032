"""How new models come to answer: the policy of a target's rollouts."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from holdfast.backend.settings.base import Model
from holdfast.core.timeline import SECOND, parse_duration
from holdfast.errors import ConfigError

__all__ = ["ABSettings", "CanarySettings", "DeploymentSettings", "RuleSettings", "StepSettings", "WaitSettings"]


def _duration(value: str) -> str:
    try:
        parse_duration(value)
    except ConfigError as error:
        raise ValueError(f"{error.message}. {error.hint}") from error
    return value


Duration = Annotated[str, AfterValidator(_duration)]


class StepSettings(Model):
    """A step of a canary: its `share` of the requests, and for how long at least."""

    share: float = Field(gt=0, le=1)
    for_: Duration = Field("10min", alias="for")

    @property
    def seconds(self) -> float:
        """For how long at least."""
        return parse_duration(self.for_) / SECOND


class CanarySettings(Model):
    """The steps of a canary; after the last one it is promoted."""

    steps: tuple[StepSettings, ...] = Field(
        tuple(StepSettings(share=share) for share in (0.05, 0.25, 0.5)),
        min_length=1,
    )

    @model_validator(mode="after")
    def _growing(self) -> Self:
        shares = [step.share for step in self.steps]
        if shares != sorted(set(shares)):
            raise ValueError(f"the shares of `steps` grow from step to step, not {shares}")
        return self


class WaitSettings(Model):
    """How long a shadow, or a blue/green pair after its switch, is watched."""

    for_: Duration = Field("1h", alias="for")

    @property
    def seconds(self) -> float:
        """For how long at least."""
        return parse_duration(self.for_) / SECOND


class ABSettings(Model):
    """An A/B test: the candidate's share, what is compared, and for how long at most.

    `metric` names what is told by outcomes that are no label of the target; by default the models' loss is compared.
    """

    share: float = Field(0.5, gt=0, lt=1)
    metric: str | None = None
    goal: Literal["higher", "lower"] = "higher"
    alpha: float = Field(0.05, gt=0, lt=0.5)
    for_: Duration = Field("14d", alias="for")

    @property
    def seconds(self) -> float:
        """For how long at most."""
        return parse_duration(self.for_) / SECOND


class RuleSettings(Model):
    """When a candidate is rolled back by itself; null switches a rule off."""

    error_rate: float | None = Field(0.01, gt=0, lt=1)
    latency: float | None = Field(1.0, gt=0)
    auc_drop: float | None = Field(0.05, gt=0, lt=1)
    shift: float | None = Field(0.2, gt=0)
    min_requests: int = Field(100, ge=1)
    min_labels: int = Field(100, ge=20)
    alpha: float = Field(0.01, gt=0, lt=0.5)
    window: Duration = "5min"

    @property
    def window_seconds(self) -> float:
        """What counts as lately."""
        return parse_duration(self.window) / SECOND


class DeploymentSettings(Model):
    """How rollouts of a target go."""

    canary: CanarySettings = CanarySettings()
    shadow: WaitSettings = WaitSettings()
    ab: ABSettings = ABSettings()
    blue_green: WaitSettings = WaitSettings()
    rules: RuleSettings = RuleSettings()
