"""A metadata database of every kind."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.backend.store import Store


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An upgraded, empty metadata database."""
    url = f"sqlite:///{tmp_path / '库' / 'holdfast.db'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url")
    store = Store(url)
    store.upgrade()
    yield store
    store.close()
