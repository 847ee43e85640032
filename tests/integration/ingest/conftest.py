import importlib.util
from pathlib import Path

import pytest

_PATH = Path(__file__).with_name("world.py")
_SPEC = importlib.util.spec_from_file_location("ingest_world", _PATH)
_MODULE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_MODULE)


@pytest.fixture
def make_world(tmp_path):
    worlds = []

    def make(project=_MODULE.SF, root=None):
        worlds.append(_MODULE.World(root or tmp_path / f"project {len(worlds)} 项目", project))
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()


@pytest.fixture(scope="session")
def world_script():
    return _PATH


@pytest.fixture(scope="session")
def open_world(tmp_path_factory):
    """Projects that live as long as the session."""
    worlds = []

    def open_(name):
        worlds.append(_MODULE.World(tmp_path_factory.mktemp(name)))
        return worlds[-1]

    yield open_
    for world in worlds:
        world.close()


@pytest.fixture(scope="session")
def sf(data_dir, open_world):
    """All 54 months imported once; read it only."""
    world = open_world("sf")
    world.results = world.ingest_folder(data_dir / "sf_inspections")
    return world
