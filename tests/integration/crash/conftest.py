"""The process that forks, and states to begin from, on each database."""

from collections.abc import Iterator

import pytest

from .harness import Bench, Databases, Server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """One for all rounds of a test process."""
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def bench(request: pytest.FixtureRequest, server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Projects whose metadata are in that database."""
    databases = Databases(request.getfixturevalue("postgres_server")) if request.param == "postgresql" else None
    yield Bench(server, tmp_path_factory.mktemp(f"crash-{request.param}"), databases)
    if databases is not None:
        databases.close()
