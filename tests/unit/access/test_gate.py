"""The gate is kept current, and closed until it was read."""

import threading

import pytest

from holdfast.backend.access import Caller, Gate, Role, Watch
from holdfast.errors import UnauthenticatedError, UnavailableError


def test_before_the_keys_were_read_only_what_needs_none_passes() -> None:
    gate = Watch(Gate.open_to_local).gate
    assert not gate.local
    assert gate.caller("hf_x_y", Role.ANYONE).role is Role.ANYONE
    for key in (None, "hf_x_y"):
        with pytest.raises(UnavailableError, match="not been read"):
            gate.caller(key)


def test_a_watch_follows_and_keeps_what_it_saw_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.backend.access.gate.INTERVAL", 0.001)
    looked = threading.Semaphore(0)
    answers: list[Gate | Exception] = [Gate.open_to_local()]

    def read() -> Gate:
        looked.release()
        if isinstance(answers[-1], Exception):
            raise answers[-1]
        return answers[-1]

    def looks(count: int) -> None:
        for _ in range(count):
            assert looked.acquire(timeout=20)

    watch = Watch(read)
    watch.start()
    assert watch.gate.local
    answers.append(Gate({}, int))
    looks(4)
    assert not watch.gate.local
    answers.append(OSError("the database is gone"))
    looks(4)
    with pytest.raises(UnauthenticatedError):
        watch.gate.caller(None)
    answers.append(Gate({}, int, without=Caller("again", Role.VIEWER)))
    while looked.acquire(blocking=False):
        pass
    looks(3)
    assert watch.gate.caller(None).name == "again"
    watch.stop()
    assert not any(thread.name == "gate" for thread in threading.enumerate())
