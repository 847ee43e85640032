"""The gate: an immutable snapshot of the keys that says who asks, and whether they may. No database, no HTTP.

A key is `hf_<id>_<secret>`; the gate finds the id and compares the key's SHA-256 with the recorded one in constant
time. A fast hash is right here, unlike for passwords: slow hashes (bcrypt, Argon2) make guessing *likely* secrets
expensive, and a secret of 256 random bits has no likely values; trying all of them is out of reach at any speed. A slow
hash would only cost every request its milliseconds, and give whoever floods the server a lever.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from hmac import compare_digest

from holdfast.errors import AccessError, UnauthenticatedError, UnavailableError

__all__ = ["ID_LENGTH", "INTERVAL", "NOBODY", "PREFIX", "Caller", "Gate", "Known", "Role", "Watch", "hashed"]

INTERVAL = 0.5
"""Seconds between looks of a `Watch`."""
PREFIX = "hf_"
ID_LENGTH = 12
_ID = slice(len(PREFIX), len(PREFIX) + ID_LENGTH)
_log = logging.getLogger("holdfast.access")


class Role(IntEnum):
    """What somebody may do; each may do all that those below it may. ANYONE needs no key and is given to none."""

    ANYONE = 0
    PREDICTOR = 1
    VIEWER = 2
    SCIENTIST = 3
    OPERATOR = 4
    ADMIN = 5

    @property
    def word(self) -> str:
        """As people write it."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `name` is "" for whoever needs no key."""

    name: str
    role: Role


NOBODY = Caller("", Role.ANYONE)
"""Who gave no key where none is needed."""
_LOCAL = Caller("", Role.OPERATOR)


@dataclass(frozen=True, slots=True)
class Known:
    """What the gate knows of a key: its SHA-256, whose it is, and from which instant on it `ended`.

    `ended` is None for a key without an end, 0 for a revoked one.
    """

    hash: bytes
    caller: Caller
    ended: int | None


def hashed(key: str) -> bytes:
    """SHA-256 of a key; any text has one."""
    return sha256(key.encode("utf-8", "surrogatepass")).digest()


class Gate:
    """Who may pass, at one moment. Immutable; to be shared by any number of threads."""

    __slots__ = ("_keys", "_now", "_unread", "_without", "local")

    def __init__(
        self, keys: Mapping[str, Known], now: Callable[[], int], *, without: Caller | None = None, unread: bool = False
    ) -> None:
        """`keys` by id; `now` gives the instant. `without` is who everybody is, whatever key they give."""
        self._keys = keys
        self._now = now
        self._without = without
        self._unread = unread
        self.local = without is not None

    @staticmethod
    def open_to_local() -> "Gate":
        """The gate of a project without keys whose server listens on this machine only: everybody is an operator.

        `local` says so: such a gate is safe only together with the checks that keep browsers' foreign pages out.
        """
        return Gate({}, int, without=_LOCAL)

    @staticmethod
    def unread() -> "Gate":
        """The gate until the keys were read for the first time: only what needs no key passes."""
        return Gate({}, int, unread=True)

    def caller(self, key: str | None, needs: Role = Role.PREDICTOR) -> Caller:
        """Who asks with `key`, when they may do what needs the role `needs`.

        UnauthenticatedError when the key is none that lives; AccessError when its role is too low; UnavailableError
        before the keys were read. Where ANYONE may, a key that is none is as good as none.
        """
        found = self._without
        if found is None and key is not None:
            known = self._keys.get(key[_ID])
            if known is not None and compare_digest(hashed(key), known.hash):
                if known.ended is None or known.ended > self._now():
                    found = known.caller
                elif needs is not Role.ANYONE:
                    # Only somebody who has the secret gets here: they may know what became of it.
                    raise UnauthenticatedError(
                        f"the key of {known.caller.name!r} {'has expired' if known.ended else 'was revoked'}",
                        hint="Ask for a new one: holdfast keys add NAME --role ROLE",
                    )
        if found is None:
            if needs is Role.ANYONE:
                return NOBODY
            raise self._stranger(key)
        if found.role < needs:
            who = (
                f"{found.name!r} is {found.role.word}"
                if found.name
                else f"without keys everybody is {_LOCAL.role.word}"
            )
            raise AccessError(
                f"this needs the role {needs.word}; {who} is {found.role.word}",
                where={"needs": needs.word},
                hint=f"Ask for a key of that role: holdfast keys add NAME --role {needs.word}",
            )
        return found

    def _stranger(self, key: str | None) -> AccessError | UnavailableError:
        if self._unread:
            return UnavailableError("the keys have not been read yet", hint="Repeat in a second.")
        if key is None:
            return UnauthenticatedError(
                "this needs a key", hint="Send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`."
            )
        return UnauthenticatedError("nobody has that key", hint="See what there is with: holdfast keys list")


class Watch:
    """Keeps a gate current, in a thread of its own: a revoked key must not wait for a model that is being loaded.

    When the keys cannot be read, the gate stays as it was last seen; before that it is `Gate.unread()`.
    """

    def __init__(self, read: Callable[[], Gate]) -> None:
        self.gate = Gate.unread()
        self._read = read
        self._trouble = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Read the keys, then follow them."""
        self.look()
        self._thread = threading.Thread(target=self._follow, name="gate", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop following."""
        self._stop.set()
        if self._thread:
            self._thread.join(5)

    def look(self) -> None:
        """Read the keys once."""
        try:
            self.gate = self._read()
        except Exception:  # noqa: BLE001 - a thread's edge: requests must go on being judged, whatever the look met
            if not self._trouble:
                _log.exception("the API keys cannot be read; those seen last hold on")
            self._trouble = True
        else:
            self._trouble = False

    def _follow(self) -> None:
        while not self._stop.wait(INTERVAL):
            self.look()
