"""Names of any kind as file names that every file system takes, and back.

Letters, digits and most signs of any script stay. `%XX` stands for a byte of the UTF-8 form of a character that some
file system refuses or changes. A name that would be too long keeps its beginning and a digest: `beginning%~digest`;
the label itself is inside the file.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable

__all__ = ["distinct_stems", "escape", "matching", "unescape"]

_LONGEST = 180
"""Bytes; 255 are allowed, and prefixes, suffixes and temporary names need room."""
_DIGEST = 16
_REFUSED = frozenset('%/\\:*?"<>|')
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(\.|$)", re.IGNORECASE)


def escape(label: str) -> str:
    """The label as a file name of at most 180 bytes, without directories, for use with a suffix such as `.onnx`.

    Different labels have different names, though some differ in case only: see `distinct_stems`.
    """
    name = "".join(_escape_one(char) for char in label)
    if name[:1] in (".", " ", "~", "-"):
        name = f"%{ord(name[0]):02X}{name[1:]}"
    if name[-1:] in (".", " "):
        name = f"{name[:-1]}%{ord(name[-1]):02X}"
    if _DEVICES.match(name):
        name = f"%{ord(name[0]):02X}{name[1:]}"
    return name if 0 < len(name.encode()) <= _LONGEST else _digested(label, name)


def unescape(name: str) -> str | None:
    """The label that `escape` made `name` of.

    None where only a digest is left of it (the file's content knows it), or no label has that name.
    """
    if "%~" in name:
        return None
    data = re.sub(rb"%([0-9A-F]{2})", lambda hit: bytes.fromhex(hit[1].decode()), name.encode("utf-8", "surrogatepass"))
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return None


def distinct_stems(labels: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """A file name for each (target, label), also distinct where case or Unicode forms do not count.

    The first keeps the name of its label, so that those who come later change nobody's files; one that collides is
    named after target and label, and if that is taken too, with a digest.
    """
    stems: dict[tuple[str, str], str] = {}
    taken: set[str] = set()
    for target, label in labels:
        whole = f"{target}/{label}"
        tries = (escape(label), escape(whole), _digested(whole, escape(label)))
        stem = next(stem for stem in tries if _folded(stem) not in taken)
        taken.add(_folded(stem))
        stems[target, label] = stem
    return stems


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _escape_one(char: str) -> str:
    kind = unicodedata.category(char)
    if char in _REFUSED or kind in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogatepass"))
    return char


def _digested(label: str, name: str) -> str:
    digest = hashlib.sha256(label.encode("utf-8", "surrogatepass")).hexdigest()[: 2 * _DIGEST]
    start = name.encode()[: _LONGEST - len(digest) - 2].decode(errors="ignore")
    # A cut escape would read as another character.
    return re.sub(r"%[0-9A-F]?$", "", start) + f"%~{digest}"


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """The names that a pattern means, in their order: `*` stands for any characters, `?` for one, all else for itself.

    No other character is special, because names of features hold brackets.
    """
    parts = (".*" if char == "*" else "." if char == "?" else re.escape(char) for char in pattern)
    rule = re.compile("".join(parts), re.DOTALL)
    return [name for name in names if rule.fullmatch(name)]
