"""`kill -9` in the middle of an import: what was committed stays readable, and the import can be repeated."""

import os
import random
import subprocess
import sys

import pytest

MONTHS = 4


@pytest.fixture(scope="module")
def months(data_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("months")
    for source in sorted((data_dir / "sf_inspections").iterdir())[:MONTHS]:
        (folder / source.name).symlink_to(source)
    return folder


@pytest.fixture(scope="module")
def clean(open_world, months):
    """The same months imported without a crash."""
    world = open_world("clean")
    world.ingest_folder(months)
    return world


def _leftovers(world):
    named = {file.delivery for file in world.datasets.files()} if world.datasets.current() else set()
    return {path.name for path in world.layout.raw.iterdir()} - named


@pytest.mark.parametrize("seed", range(3))
def test_killed_import_is_repeated(make_world, clean, months, world_script, tmp_path, seed):
    random_ = random.Random(seed)
    root = tmp_path / "项目"
    kills = 0
    for _ in range(3):
        child = subprocess.Popen(
            [sys.executable, str(world_script), str(root), str(months)], stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        stop_after = random_.randint(1, 2)
        for _line in zip(range(stop_after), child.stdout, strict=False):
            pass
        try:
            child.wait(timeout=random_.uniform(0, 0.25))
        except subprocess.TimeoutExpired:
            child.kill()
            kills += 1
        child.wait()
        child.stdout.close()
        world = make_world(root=root)
        if world.datasets.current() is None:
            continue
        version = world.datasets.get()
        tables = world.datasets.read(current_only=True)
        assert {name: table.num_rows for name, table in tables.items()} == version.rows
        for file in world.datasets.files():
            assert (root / file.path).stat().st_size == file.bytes
    assert kills
    world = make_world(root=root)
    results = world.ingest_folder(months)
    assert len(results) == MONTHS
    assert [v.version for v in world.datasets.list()] == [f"v1.{n}" for n in range(MONTHS)]
    assert _leftovers(world) == set()
    one, other = world.datasets.read(), clean.datasets.read()
    assert all(one[name].equals(other[name]) for name in one)
    assert world.datasets.get().rows == clean.datasets.get().rows
