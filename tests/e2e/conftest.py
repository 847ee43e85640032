"""The demo, made once for all end-to-end tests."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What `holdfast demo demo --json` says."""
    folder = tmp_path_factory.mktemp("e2e")
    command = [sys.executable, "-m", "holdfast", "demo", "demo", "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="session")
def demo(told: Any) -> Path:
    """The demo's folder. Copy it to change it."""
    return Path(told["root"])
