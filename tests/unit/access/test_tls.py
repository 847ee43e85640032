"""The files of TLS are looked at before anything starts."""

import ssl
from pathlib import Path

import pytest

from holdfast.backend.api.tls import Tls, open_tls, tls_context
from holdfast.backend.settings import TlsSettings
from holdfast.errors import ConfigError
from tests.certificates import Authority


def told(root: Path, **names: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        open_tls(TlsSettings(**names), root)
    return caught.value


def test_files_that_fit_are_taken_from_the_project(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "证书")
    certificate, key = authority.issue("server")
    assert open_tls(None, tmp_path) is None
    names = {"certificate": "证书/server.pem", "key": "证书/server.key"}
    assert open_tls(TlsSettings(**names), tmp_path) == Tls(certificate, key, None)
    both = open_tls(TlsSettings(**names, client_ca=str(authority.file)), Path("/nowhere") / tmp_path)
    assert both == Tls(certificate, key, authority.file)
    assert tls_context(None) is None
    for made, verify in ((Tls(certificate, key, None), ssl.CERT_NONE), (both, ssl.CERT_REQUIRED)):
        context = tls_context(made)
        assert context is not None
        assert (context.verify_mode, context.minimum_version) == (verify, ssl.TLSVersion.TLSv1_3)


def test_what_is_wrong_is_named_with_its_key_and_file(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.issue("server")
    authority.issue("other")
    authority.issue("locked", password=b"x")
    (tmp_path / "noise").write_bytes(b"\xff\x00\xfe")
    (tmp_path / "cut.pem").write_text((tmp_path / "server.pem").read_text()[:200])
    good = {"certificate": "server.pem", "key": "server.key"}
    cases: list[tuple[dict[str, str], str, str]] = [
        ({"certificate": "none.pem"}, "certificate", "No such file"),
        ({"key": "none.key"}, "key", "No such file"),
        ({"certificate": "."}, "certificate", "directory"),
        ({"certificate": "noise"}, "certificate", "holds no certificate"),
        ({"certificate": "server.key"}, "certificate", "holds no certificate"),
        ({"key": "server.pem"}, "key", "holds no private key"),
        ({"certificate": "cut.pem"}, "certificate", "cannot be used"),
        ({"key": "other.key"}, "key", "is not the key of"),
        ({"certificate": "other.pem"}, "key", "is not the key of"),
        ({"key": "locked.key"}, "key", "encrypted"),
        ({"client_ca": "none.pem"}, "client_ca", "No such file"),
        ({"client_ca": "cut.pem"}, "client_ca", "cannot be used"),
    ]
    for changed, name, said in cases:
        error = told(tmp_path, **{**good, **changed})
        assert said in error.message, changed
        assert error.where["key"] == f"serving.tls.{name}"
        assert Path(str(error.where["file"])).parent in (tmp_path, tmp_path.parent)


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    Authority(tmp_path).issue("server")
    loop = tmp_path / "loop"
    loop.symlink_to(tmp_path / "loop")
    error = told(tmp_path, certificate="server.pem", key="loop")
    assert "cannot be read" in error.message
