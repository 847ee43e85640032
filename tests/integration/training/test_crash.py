"""A training that fails, is killed, or meets another one leaves everything as it was."""

import itertools
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast.backend.adapters.localfs import LocalBlobs
from holdfast.backend.records import ModelVersion
from holdfast.backend.registry import face as face_module
from holdfast.backend.store.locks import file_lock
from holdfast.backend.training import end_interrupted, training_session
from holdfast.errors import ConflictError, HoldfastError, LockedError

from .world import World, make_settings

ROOT = Path(__file__).resolve().parents[3]
KILLED = """
    import os, signal, sys
    from pathlib import Path
    from tests.integration.training.world import World, make_settings
    from holdfast.backend.registry import face

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    world = World.at(Path(sys.argv[1]), start="2024-05-01")
    where = sys.argv[2]
    if where == "face":
        write, done = face._write, []
        def counted(path, data):
            done.append(path)
            die() if len(done) > 3 else write(path, data)
        face._write = counted
    if where == "transaction":
        import holdfast.backend.registry.registry as module
        move = module.Pointers.move
        module.Pointers.move = lambda *a, **k: (move(*a, **k), die())
    world.train(settings=make_settings(seed=99), progress=lambda _done, _all, text: where in text and die())
"""


def kill_training(world: World, where: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(world.root), where]
    ended = subprocess.run(command, check=False, timeout=120, env=environment)
    assert ended.returncode == -signal.SIGKILL


@pytest.mark.parametrize("where", ["高风险: round 3", "Low/Risk: measuring", "transaction"])
def test_killed_before_the_commit_nothing_changed(world: World, where: str) -> None:
    world.train()
    before = world.snapshot()
    kill_training(world, where)
    assert world.snapshot() == before
    running = world.registry.runs(state="running")
    assert len(running) == 1
    assert [run.id for run in end_interrupted(world.registry)] == [running[0].id]
    assert "interrupted" in world.registry.run(running[0].id).error
    world.registry.sync()
    assert world.snapshot() == before
    assert {m.version for m in world.train(settings=make_settings(seed=99)).models} == {"v1.1"}


def test_killed_while_the_folder_is_written_it_is_mended_at_the_next_open(world: World) -> None:
    world.train()
    kill_training(world, "face")
    assert {version.version for version in world.registry.current()} == {"v1.1"}
    assert world.registry.sync() == []  # a half-written folder is no edit
    files, current = world.snapshot()
    again = World.at(world.root)
    for version in again.registry.current():
        assert version.id == current[version.model]
        for digest in version.files.values():
            assert any(again.blobs.put(data) == digest for data in files.values())
    assert not [name for name in files if name.endswith(".new")]
    again.store.close()


class Full(LocalBlobs):
    """A blob store whose disk is full after some puts."""

    left = 0

    def put(self, data: bytes) -> str:
        if self.left == 0:
            raise OSError(28, "No space left on device")
        self.left -= 1
        return super().put(data)


@pytest.mark.parametrize("left", [0, 3, 7])
def test_a_full_disk_fails_the_run_and_nothing_else(world: World, left: int) -> None:
    world.train()
    before = world.snapshot()
    full = Full(world.registry.layout.private / "blobs")
    full.left = left
    world.registry.blobs = full
    with pytest.raises(OSError, match="No space"):
        world.train(settings=make_settings(seed=2))
    assert world.snapshot() == before
    failed = world.registry.runs(state="failed")
    assert ["No space left" in run.error for run in failed] == [True]
    world.registry.blobs = world.blobs
    world.train(settings=make_settings(seed=2))


def test_a_folder_that_cannot_be_written_is_said_and_mended(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.train()

    def refuse(path: Path, data: bytes) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr(face_module, "_write", refuse)
        with pytest.raises(HoldfastError, match="the models are registered"):
            world.train(settings=make_settings(seed=2))
    assert [run.state for run in world.registry.runs()] == ["done", "done"]
    world.registry.sync()
    assert b"v1.1" in (world.models / "feature_weights_高风险.yaml").read_bytes()


def test_a_version_registered_meanwhile_is_a_conflict(world: World) -> None:
    world.train()
    registry = world.registry
    moved: list[ModelVersion] = []

    def overtake(_done: int, _all: int, text: str) -> None:
        if "measuring" in text and not moved:
            moved.append(registry.get("risk/Low/Risk"))
            with registry.store.write("test") as connection:
                from holdfast.backend.store import Pointers

                Pointers(connection).move("model:risk/Low/Risk", "model_other", at=1, why="test")

    before = registry.get("risk/高风险").id
    with pytest.raises(ConflictError, match="moved meanwhile"):
        world.train(settings=make_settings(seed=2), progress=overtake)
    assert registry.get("risk/高风险").id == before
    assert len(registry.versions("risk/高风险")) == 1
    assert registry.runs()[0].state == "failed"


def test_one_training_at_a_time_per_model(world: World) -> None:
    done = world.train()
    models = ["risk/高风险", "other/高风险"]
    again = replace(done.run, id="run_2", state="running", ended_at=None, fingerprint="", parameters={"models": models})
    with training_session(world.registry, again, models), ThreadPoolExecutor() as other:
        with pytest.raises(LockedError) as caught:
            other.submit(world.train, force=True).result()
        assert "the training of " in caught.value.message
        assert str(os.getpid()) in caught.value.message
        assert "since 2024-03-01" in caught.value.message
        assert caught.value.where["pid"] == os.getpid()
        assert other.submit(end_interrupted, world.registry).result() == []  # it lives
        assert not other.submit(world.train, labels=["Low/Risk"], force=True).result().repeated
    assert {m.version for m in world.train(force=True).models} == {"v1.1", "v1.2"}


def test_a_lock_whose_holder_died_is_free_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "锁.lock"
    script = f"""
import os, signal
from pathlib import Path
from holdfast.backend.store.locks import file_lock
with file_lock(Path({str(path)!r}), now=0, what="it"):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    assert b'"pid"' in path.read_bytes()
    with file_lock(path, now=0, what="it") as stale:
        assert stale
    with file_lock(path, now=0, what="it") as stale:
        assert not stale


def stop_at(step: int) -> Callable[[int, int, str], None]:
    steps = itertools.count()

    def told(_done: int, _all: int, _text: str) -> None:
        if next(steps) == step:
            raise KeyboardInterrupt

    return told


def test_wherever_it_is_interrupted_nothing_changed(world: World, tmp_path: Path) -> None:
    texts: list[str] = []
    dry = World.at(tmp_path / "dry")
    dry.train(settings=make_settings(seed=6), progress=lambda _done, _all, text: texts.append(text))
    dry.store.close()
    world.train()
    before = world.snapshot()
    places = (0, len(texts) // 2, len(texts) - 2)
    for place in places:
        with pytest.raises(KeyboardInterrupt):
            world.train(settings=make_settings(seed=6), progress=stop_at(place))
        assert world.snapshot() == before
    assert len(world.registry.runs(state="failed")) == len(places)
