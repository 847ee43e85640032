"""A clock that is set by hand, and the contract suite of clocks."""

import pytest

from holdfast.backend.ports import Clock
from holdfast.core.timeline import parse_instant

__all__ = ["ClockContract", "FakeClock"]


class FakeClock:
    """Stands still until `advance`; begins at `start` (ISO 8601, UTC)."""

    def __init__(self, start: str = "2024-01-01") -> None:
        self._now = parse_instant(start)

    def now(self) -> int:
        """Microseconds since 1970-01-01 UTC."""
        return self._now

    def advance(self, microseconds: int) -> None:
        """Go on by a positive time."""
        if microseconds < 0:
            raise ValueError("a clock does not go back")
        self._now += microseconds


class ClockContract:
    """What every Clock must do. Subclass it and give the fixture `clock`."""

    @pytest.fixture
    def clock(self) -> Clock:
        """The clock under test."""
        raise NotImplementedError

    def test_counts_microseconds_of_this_age(self, clock: Clock) -> None:
        """Between 2000 and 2200."""
        assert parse_instant("2000-01-01") < clock.now() < parse_instant("2200-01-01")

    def test_never_goes_back(self, clock: Clock) -> None:
        """Later answers are not smaller."""
        seen = [clock.now() for _ in range(1000)]
        assert seen == sorted(seen)
