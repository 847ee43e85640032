"""TLS: the same files for all servers, looked at before any of them starts."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from holdfast.backend.settings import TlsSettings
from holdfast.errors import ConfigError

__all__ = ["Tls", "open_tls", "tls_context"]


@dataclass(frozen=True, slots=True)
class Tls:
    """Files that were looked at and fit together. With `client_ca`, clients need a certificate that it signed."""

    certificate: Path
    key: Path
    client_ca: Path | None


def open_tls(settings: TlsSettings | None, root: Path) -> Tls | None:
    """The files of `serving.tls`, relative to `root`; None without TLS.

    ConfigError names the key and file of one that is absent, cannot be read, is no PEM, or does not fit the other: at
    the start, and not as a worker that dies.
    """
    if settings is None:
        return None
    certificate = _pem(settings.certificate, root, "certificate", "BEGIN CERTIFICATE")
    key = _pem(settings.key, root, "key", "PRIVATE KEY-----")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if "ENCRYPTED" in key.read_text(encoding="utf-8"):
        raise _wrong("key", key, "is encrypted with a password", "Give it decrypted, readable by the server only.")
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            hint = "Give the key that the certificate was made with; the server's certificate comes first in its file."
            raise _wrong("key", key, f"is not the key of {certificate}", hint) from error
        raise _wrong("certificate", certificate, f"cannot be used with its key: {_said(error)}") from error
    if settings.client_ca is None:
        return Tls(certificate, key, None)
    client_ca = _pem(settings.client_ca, root, "client_ca", "BEGIN CERTIFICATE")
    try:
        context.load_verify_locations(client_ca)
    except ssl.SSLError as error:
        raise _wrong("client_ca", client_ca, f"cannot be used: {_said(error)}") from error
    return Tls(certificate, key, client_ca)


def tls_context(tls: Tls | None) -> ssl.SSLContext | None:
    """TLS 1.3 with those files; None without."""
    if tls is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(tls.certificate, tls.key)
    context.set_alpn_protocols(["http/1.1"])
    if tls.client_ca is not None:
        context.load_verify_locations(tls.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _pem(given: str, root: Path, name: str, mark: str) -> Path:
    path = (root / Path(given).expanduser()).absolute()
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise _wrong(name, path, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        text = ""
    if mark not in text:
        what = "private key" if name == "key" else "certificate"
        raise _wrong(name, path, f"holds no {what} in PEM", f"PEM is text that says -----{mark.rstrip('-')}-----.")
    return path


def _said(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).lower().replace("_", " ")


def _wrong(name: str, path: Path, what: str, hint: str | None = None) -> ConfigError:
    return ConfigError(f"serving.tls.{name} {what}", where={"key": f"serving.tls.{name}", "file": str(path)}, hint=hint)
