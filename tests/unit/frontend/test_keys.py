"""Keys by the command line: told once, listed without their secret, and in no file."""

import json
from pathlib import Path

import pytest
from tests.unit.frontend.test_cli import PROJECT, ok, run

from holdfast.frontend.client import Project


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "holdfast.yaml").write_text(PROJECT, encoding="utf-8")
    return tmp_path


def test_a_key_is_told_once(folder: Path) -> None:
    said = ok(folder, "keys", "add", "王芳", "--role", "operator", "--expires", "90d")
    assert "This is the first key" in said
    (key,) = [line for line in said.splitlines() if line.startswith("hf_")]
    made = json.loads(ok(folder, "keys", "add", "门店系统", "--role", "predictor", "--json"))
    assert made.keys() == {"id", "name", "role", "expires_at", "key"}
    assert made["expires_at"] is None
    listed = json.loads(ok(folder, "keys", "list", "--json"))
    assert [(one["name"], one["role"], one["state"]) for one in listed] == [
        ("王芳", "operator", "live"),
        ("门店系统", "predictor", "live"),
    ]
    revoked = json.loads(ok(folder, "keys", "revoke", made["key"], "--json"))
    assert [(one["id"], one["state"]) for one in revoked] == [(made["id"], "revoked")]
    assert "revoked" in ok(folder, "keys", "list")
    entries = json.loads(ok(folder, "audit", "list", "--object", "key:", "--json"))
    assert [entry["action"] for entry in entries] == ["add key", "add key", "revoke key"]
    secrets = [one.rpartition("_")[2].encode() for one in (key, made["key"])]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.name == "holdfast.log" for path in files)
    assert [path for path in files for secret in secrets if secret in path.read_bytes()] == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("add", "x", "--role", "operater"), 1, "Did you mean 'operator'"),
        (("add", "x", "--role", "viewer", "--expires", "soon"), 1, "is not a duration"),
        (("add", "x"), 2, "--role"),
        (("revoke", "nobody"), 1, "no live key"),
    ],
)
def test_what_cannot_be_is_said(folder: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    done = run(folder, "keys", *arguments)
    assert done.returncode == code
    assert said in done.stderr


def test_a_key_given_for_a_name_is_in_no_log_and_no_error(folder: Path) -> None:
    with Project(folder) as project:
        key = project.add_key("app", "viewer").key
        listed = project.keys()
        assert [one.name for one in listed] == ["app"]
        assert [one.state for one in project.revoke_key("app")] == ["revoked"]
    secret = key.rpartition("_")[2]
    for arguments in (("add", key, "--role", "viewer"), ("revoke", key)):
        done = run(folder, "keys", *arguments)
        assert done.returncode == 1
        assert secret not in done.stdout + done.stderr
    logs = [path.read_text(encoding="utf-8") for path in (folder / "logs").iterdir() if path.is_file()]
    assert any("revoke" in text for text in logs)
    assert not any(secret in text for text in logs)
