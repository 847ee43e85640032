"""A trained project, and remotes of every kind."""

from tests.integration.backup.conftest import copied, trained

__all__ = ["copied", "trained"]
