"""Primitives of a user's own: modules beside the project file, and those that installed packages offer."""

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from holdfast.core.features.plugins import Aggregation, Transform, own_primitive, own_primitives
from holdfast.core.features.primitives import Primitive
from holdfast.errors import ConfigError

__all__ = ["GROUP", "load_plugins"]

GROUP = "holdfast.primitives"
"""Entry points of this group name a class, or a module of classes."""


def load_plugins(root: Path, names: Iterable[str]) -> tuple[Primitive, ...]:
    """The primitives of installed packages and of the modules `names` in `root`.

    ConfigError names the module or package, the file and line that failed, or the two that have one name.
    """
    found: dict[str, tuple[Primitive, str]] = {}
    for origin, primitive in (*_installed(), *_modules(root, names)):
        if primitive.name in found:
            raise ConfigError(
                f"there are two primitives {primitive.name!r}: of {found[primitive.name][1]} and of {origin}",
                where={"key": "plugins"},
                hint="Give one of them another name.",
            )
        found[primitive.name] = (primitive, origin)
    return tuple(primitive for primitive, _ in found.values())


def _installed() -> list[tuple[str, Primitive]]:
    found = []
    for entry in entry_points(group=GROUP):
        origin = f"package {entry.dist.name if entry.dist else entry.value}"
        try:
            loaded = entry.load()
        except Exception as error:
            raise _failed(error, origin, None) from error
        if isinstance(loaded, ModuleType):
            found += [(origin, primitive) for primitive in own_primitives(vars(loaded))]
        elif isinstance(loaded, type) and issubclass(loaded, Aggregation | Transform):
            found.append((origin, own_primitive(loaded)))
        else:
            raise ConfigError(f"{entry.value} of {origin} is no primitive", where={"key": "plugins"})
    return found


def _modules(root: Path, names: Iterable[str]) -> list[tuple[str, Primitive]]:
    found = []
    for name in names:
        path = root / f"{name}.py"
        try:
            text = path.read_bytes()
        except OSError as error:
            raise ConfigError(
                f"the module {name!r} cannot be read: {error.strerror}",
                where={"key": "plugins", "file": str(path)},
                hint="A plugin is a file beside the project file, named without .py.",
            ) from error
        made = own_primitives(vars(_module(path, text)))
        if not made:
            raise ConfigError(
                f"the module {name!r} holds no primitive", where={"key": "plugins", "file": str(path)},
                hint="Derive a class from holdfast.primitives.Aggregation or Transform, with a name.",
            )  # fmt: skip
        found += [(f"module {name}", primitive) for primitive in made]
    return found


def _module(path: Path, text: bytes) -> ModuleType:
    # Named by its content, so that two projects, or two states of one file, are two modules.
    name = f"holdfast_plugin_{hashlib.sha256(str(path.resolve()).encode() + text).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # The text of its classes is found by way of this.
    sys.modules[name] = module
    try:
        # Not by the loader: it may take compiled code of the same second.
        exec(compile(text, str(path), "exec"), vars(module))  # noqa: S102 - the user's own code, named by them
    except Exception as error:
        del sys.modules[name]
        raise _failed(error, f"module {path.stem!r}", path) from error
    return module


def _failed(error: Exception, origin: str, path: Path | None) -> ConfigError:
    where: dict[str, object] = {"key": "plugins"}
    if path is not None:
        where["file"] = str(path)
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        if line is not None:
            where["line"] = line
    return ConfigError(f"{origin} cannot be loaded: {type(error).__name__}: {error}", where=where)
