"""API keys: told once, stored as hashes, audited; on every database."""

import pytest
import sqlalchemy as sa

from holdfast.backend.access import Keys, Role
from holdfast.backend.store import Audit, Store, acting
from holdfast.backend.store.portable import copy_records
from holdfast.core.timeline import DAY
from holdfast.errors import AccessError, ConfigError, InputError, NotFoundError, UnauthenticatedError
from holdfast.testing.clock import FakeClock

HERE, ANYWHERE = "127.0.0.1", "0.0.0.0"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def keys(store: Store, clock: FakeClock) -> Keys:
    return Keys(store, clock)


def test_a_key_opens_to_its_role_and_only_its_hash_is_stored(keys: Keys, store: Store) -> None:
    made = keys.add("王芳", "operator")
    assert made.key.startswith(f"hf_{made.id}_")
    assert len(made.key.rpartition("_")[2]) == 64
    assert made.key not in repr(made)
    caller = keys.gate(HERE).caller(made.key, Role.OPERATOR)
    assert (caller.name, caller.role) == ("王芳", Role.OPERATOR)
    with store.read() as connection:
        kept = [
            str(row) for name in ("api_keys", "audit") for row in connection.execute(sa.text(f"SELECT * FROM {name}"))
        ]
    assert len(kept) == 2
    assert not any(made.key.rpartition("_")[2] in row for row in kept)


def test_no_two_keys_are_alike(keys: Keys) -> None:
    made = [keys.add("app", "predictor") for _ in range(20)]
    assert len({one.id for one in made}) == len({one.key for one in made}) == 20


def test_each_role_may_what_those_below_it_may(keys: Keys) -> None:
    grantable = [role for role in Role if role is not Role.ANYONE]
    made = {role: keys.add(role.word, role.word).key for role in grantable}
    gate = keys.gate(HERE)
    for role, key in made.items():
        for needed in Role:
            if role >= needed:
                assert gate.caller(key, needed).role is role
                continue
            with pytest.raises(AccessError, match=f"needs the role {needed.word}") as caught:
                gate.caller(key, needed)
            assert caught.value.code == "forbidden"


def test_a_key_is_nothing_when_any_character_is_another(keys: Keys) -> None:
    made, other = keys.add("a", "admin"), keys.add("b", "admin")
    gate = keys.gate(HERE)
    secret = made.key.rpartition("_")[2]
    flipped = made.key[:-1] + ("0" if made.key[-1] != "0" else "1")
    wrong = [None, "", "hf", "hf__", made.id, secret, flipped, made.key + "0", made.key[:-1], made.key.upper(),
             f"hx_{made.id}_{secret}", f"hf_{other.id}_{secret}", f" {made.key}", "\ud800", "密钥" * 50]  # fmt: skip
    for key in wrong:
        with pytest.raises(UnauthenticatedError) as caught:
            gate.caller(key)
        assert secret not in str(caught.value)
        assert gate.caller(key, Role.ANYONE).role is Role.ANYONE


def test_a_key_expires(keys: Keys, clock: FakeClock) -> None:
    made = keys.add("app", "viewer", expires="2d")
    gate = keys.gate(HERE)
    clock.advance(2 * DAY - 1)
    assert gate.caller(made.key).name == "app"
    clock.advance(1)
    with pytest.raises(UnauthenticatedError, match="has expired"):
        gate.caller(made.key)
    assert [key.state for key in keys.list()] == ["expired"]


def test_revoking_by_id_by_name_and_by_the_key_itself(keys: Keys) -> None:
    first, second, third = (keys.add("王芳", "admin") for _ in range(3))
    other = keys.add("app", "viewer")
    assert [key.id for key in keys.revoke(first.id)] == [first.id]
    assert [key.id for key in keys.revoke(other.key)] == [other.id]
    gate = keys.gate(HERE)
    with pytest.raises(UnauthenticatedError, match="was revoked"):
        gate.caller(first.key)
    assert gate.caller(second.key).name == "王芳"
    assert {key.id for key in keys.revoke("王芳")} == {second.id, third.id}
    assert {key.state for key in keys.list()} == {"revoked"}
    with pytest.raises(NotFoundError):
        keys.revoke("王芳")


def test_a_revoked_key_is_dead_where_the_clock_is_behind(keys: Keys, store: Store, clock: FakeClock) -> None:
    made = keys.add("app", "viewer")
    clock.advance(DAY)
    keys.revoke(made.id)
    with pytest.raises(UnauthenticatedError):
        Keys(store, FakeClock()).gate(HERE).caller(made.key)


def test_once_there_was_a_key_the_gate_never_opens_again(keys: Keys) -> None:
    gate = keys.gate(HERE)
    assert gate.local
    assert gate.caller(None, Role.OPERATOR).name == ""
    with pytest.raises(AccessError, match="needs the role admin"):
        gate.caller(None, Role.ADMIN)
    keys.revoke(keys.add("x", "admin").id)
    gate = keys.gate(HERE)
    assert not gate.local
    with pytest.raises(UnauthenticatedError, match="needs a key"):
        gate.caller(None)


@pytest.mark.parametrize(
    "host", [ANYWHERE, "::", "10.0.0.7", "server.example", "", "localhost.example", "127.0.0.1.example"]
)
def test_a_host_that_others_reach_is_never_open(keys: Keys, host: str) -> None:
    assert not keys.gate(host).local
    with pytest.raises(ConfigError, match="there is no API key") as caught:
        keys.check_host(host)
    assert "holdfast keys add" in str(caught.value.hint)
    keys.add("x", "viewer")
    keys.check_host(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost"])
def test_a_host_of_this_machine_is_open_without_keys(keys: Keys, host: str) -> None:
    keys.check_host(host)
    assert keys.gate(host).local


def test_every_change_is_audited(keys: Keys, store: Store) -> None:
    with acting("李雷"):
        made = keys.add("app", "viewer", expires="90d")
        keys.revoke(made.id)
    with store.read() as connection:
        entries = list(Audit(connection).entries(object=f"key:{made.id}"))
        Audit(connection).verify()
    assert [(e.who, e.action, e.before, e.after) for e in entries] == [
        ("李雷", "add key", None, "viewer"),
        ("李雷", "revoke key", "viewer", None),
    ]
    assert entries[0].details == {"name": "app", "role": "viewer", "expires": "2024-03-31T00:00:00Z"}


@pytest.mark.parametrize(
    ("name", "role", "expires"),
    [("", "viewer", None), (" \t", "viewer", None), ("a\nb", "viewer", None), ("x" * 101, "viewer", None),
     ("\x1b[31m", "viewer", None), ("x", "root", None), ("x", "ADMIN", None), ("x", "anyone", None), ("x", "", None),
     ("x", "viewer", "soon"), ("x", "viewer", "0d"), ("x", "viewer", "-1d")],
)  # fmt: skip
def test_what_cannot_be_is_refused_and_leaves_nothing(keys: Keys, name: str, role: str, expires: str | None) -> None:
    with pytest.raises(InputError):
        keys.add(name, role, expires=expires)
    assert keys.list() == []


def test_a_key_that_was_given_for_a_name_is_not_repeated(keys: Keys) -> None:
    made = keys.add("app", "viewer")
    secret = made.key.rpartition("_")[2]
    with pytest.raises(InputError) as refused:
        keys.add(f"x {made.key}", "viewer")
    keys.revoke(made.id)
    with pytest.raises(NotFoundError) as unknown:
        keys.revoke(made.key + "1")
    assert secret not in f"{refused.value}{unknown.value}"


def test_keys_go_into_copies_as_hashes(keys: Keys, store: Store, tmp_path, clock: FakeClock) -> None:
    made = keys.add("app", "viewer")
    copy = Store(f"sqlite:///{tmp_path / 'copy.db'}")
    copy.upgrade()
    with store.read() as connection:
        copy_records(connection, copy)
    assert Keys(copy, clock).gate(ANYWHERE).caller(made.key).name == "app"
    copy.close()
    assert made.key.rpartition("_")[2].encode() not in (tmp_path / "copy.db").read_bytes()
