"""API keys: made, listed, revoked; each change is in the audit log."""

import ipaddress
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from holdfast.backend.access.gate import ID_LENGTH, PREFIX, Caller, Gate, Known, Role, hashed
from holdfast.backend.access.tables import api_keys
from holdfast.backend.ports import Clock
from holdfast.backend.store import Audit, Store
from holdfast.core.timeline import isoformat, parse_duration
from holdfast.errors import ConfigError, InputError, NotFoundError, nearest

__all__ = ["ApiKey", "Keys", "NewKey", "is_loopback"]

_SECRET_BYTES = 32
_KEY = re.compile(rf"{PREFIX}([0-9a-f]{{{ID_LENGTH}}})_[0-9a-f]{{{2 * _SECRET_BYTES}}}")
_NAME_LENGTH = 100
_GRANTABLE = [role.word for role in Role if role is not Role.ANYONE]


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it may be shown: whose it is and until when it lives. `state` is live, expired or revoked."""

    id: str
    name: str
    role: str
    made_at: int
    expires_at: int | None
    revoked_at: int | None
    state: str


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made. `key` is the only time that its secret is told: it is stored nowhere."""

    id: str
    name: str
    role: str
    expires_at: int | None
    key: str = field(repr=False)


class Keys:
    """The API keys of a project."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def add(self, name: str, role: str, *, expires: str | None = None) -> NewKey:
        """Make a key for `name` (a person or program; the audit log calls its bearer so) with a role.

        `expires` is how long it lives, such as `90d`; None: until it is revoked. One name may have several keys, so
        that an old one can be replaced without a gap. InputError for a name or role that cannot be.
        """
        name = _checked_name(name)
        if role not in _GRANTABLE:
            raise InputError(f"there is no role {role!r}", where={"role": role}, hint=nearest(role, _GRANTABLE))
        now = self._clock.now()
        ends = None if expires is None else now + _life(expires)
        identity = secrets.token_hex(ID_LENGTH // 2)
        key = f"{PREFIX}{identity}_{secrets.token_hex(_SECRET_BYTES)}"
        row = {"id": identity, "hash": hashed(key).hex(), "name": name, "role": role, "made_at": now,
               "expires_at": ends, "revoked_at": None}  # fmt: skip
        details = {"name": name, "role": role, "expires": None if ends is None else isoformat(ends)}
        with self._store.write("add key") as connection:
            connection.execute(api_keys.insert().values(row))
            Audit(connection).append("add key", f"key:{identity}", at=now, after=role, details=details)
        return NewKey(identity, name, role, ends, key)

    def revoke(self, which: str) -> list[ApiKey]:
        """End, now and for ever, the key of that id, or all live keys of that name; returns them.

        A whole key is taken for its id, so that one that leaked can be pasted. NotFoundError when none that lives is
        meant.
        """
        pasted = _KEY.fullmatch(which.strip())
        meant = pasted[1] if pasted else which.strip()
        now = self._clock.now()
        with self._store.write("revoke key") as connection:
            live = [key for key in self._listed(connection) if key.state == "live"]
            found = [key for key in live if meant == key.id] or [key for key in live if meant == key.name]
            if not found:
                raise NotFoundError(
                    "there is no live key of that id or name", where={"key": _unsecret(meant)},
                    hint=nearest(_unsecret(meant), sorted({key.name for key in live})),
                )  # fmt: skip
            for key in found:
                connection.execute(api_keys.update().where(api_keys.c.id == key.id).values(revoked_at=now))
                details = {"name": key.name, "role": key.role}
                Audit(connection).append("revoke key", f"key:{key.id}", at=now, before=key.role, details=details)
            gone = {key.id for key in found}
            return [key for key in self._listed(connection) if key.id in gone]

    def exist(self) -> bool:
        """Whether a key was ever made: from then on every request needs one, also when all have ended."""
        with self._store.read() as connection:
            return connection.execute(sa.select(sa.literal(1)).select_from(api_keys).limit(1)).first() is not None

    def gate(self, host: str) -> Gate:
        """The gate of a server that listens on `host`: open to this machine only while no key was ever made."""
        with self._store.read() as connection:
            rows = connection.execute(sa.select(api_keys)).all()
        if not rows and is_loopback(host):
            return Gate.open_to_local()
        return Gate({row.id: _known(row._mapping) for row in rows}, self._clock.now)

    def check_host(self, host: str) -> None:
        """ConfigError when a server on `host` would be reached by others while nobody has a key."""
        if not is_loopback(host) and not self.exist():
            raise ConfigError(
                f"serving.host is {host!r}, which others can reach, and there is no API key",
                where={"key": "serving.host"},
                hint="Make one first: holdfast keys add NAME --role operator. Or listen on 127.0.0.1.",
            )

    def _listed(self, connection: sa.Connection) -> list[ApiKey]:
        columns = [column for column in api_keys.c if column.name != "hash"]
        rows = connection.execute(sa.select(*columns).order_by(api_keys.c.made_at, api_keys.c.id))
        now = self._clock.now()
        return [ApiKey(**row._mapping, state=_state(row._mapping, now)) for row in rows]

    def list(self) -> "list[ApiKey]":
        """All keys that were ever made, oldest first."""
        with self._store.read() as connection:
            return self._listed(connection)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server on `host`: an address of the loopback, or `localhost`.

    Another name may mean anything tomorrow, and counts as reached by others.
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _known(row: Mapping[Any, Any]) -> Known:
    caller = Caller(row["name"], Role[row["role"].upper()])
    # A revoked key ends at once, also on a machine whose clock is behind.
    return Known(bytes.fromhex(row["hash"]), caller, row["expires_at"] if row["revoked_at"] is None else 0)


def _state(row: Mapping[Any, Any], now: int) -> str:
    if row["revoked_at"] is not None:
        return "revoked"
    return "expired" if row["expires_at"] is not None and row["expires_at"] <= now else "live"


def _life(text: str) -> int:
    try:
        return parse_duration(text)
    except ConfigError as error:
        raise InputError(error.message, where={"expires": text}, hint="Write it as 90d, 12h or 2w.") from error


def _checked_name(text: str) -> str:
    name = text.strip()
    if _KEY.search(name):
        raise InputError("that is a key, not a name", hint="Revoke it if it was shown: holdfast keys revoke ID")
    if not name or len(name) > _NAME_LENGTH or not name.isprintable():
        raise InputError(
            f"a name has 1 to {_NAME_LENGTH} printable characters", hint="Name the person or program that gets the key."
        )
    return name


def _unsecret(text: str) -> str:
    """`text` as errors may repeat it: what begins as a key does is cut off after its id."""
    return f"{text[: len(PREFIX) + ID_LENGTH]}…" if text.startswith(PREFIX) else text
