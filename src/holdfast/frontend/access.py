"""The client's verbs of access: API keys. A part of `Project`."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from holdfast.backend.wiring import Services

if TYPE_CHECKING:
    from holdfast.backend.access import ApiKey, NewKey

__all__ = ["AccessVerbs"]


class AccessVerbs:
    """Who may ask the servers for what."""

    _services: Services
    _verb: Callable[[str, str], AbstractContextManager[None]]

    def add_key(self, name: str, role: str, *, expires: str | None = None) -> "NewKey":
        """Make an API key for a person or program: predictor, viewer, scientist, operator or admin.

        `key` of the answer is the only time it is told. `expires` is how long it lives, such as `90d`. From the first
        key on every request to a server needs one. InputError for a name or role that cannot be.
        """
        # Neither is logged before it was looked at: what was given as a name may be a key.
        with self._verb("keys", "add"):
            return self._services.keys.add(name, role, expires=expires)

    def keys(self) -> "list[ApiKey]":
        """All API keys that were ever made, oldest first; their secrets are stored nowhere."""
        return self._services.keys.list()

    def revoke_key(self, which: str) -> "list[ApiKey]":
        """End the key of that id, or all live ones of that name; servers follow within a second.

        A whole key is taken for its id. NotFoundError when no live key is meant.
        """
        with self._verb("keys", "revoke"):
            return self._services.keys.revoke(which)
