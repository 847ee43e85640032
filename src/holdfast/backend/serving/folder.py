"""A deployment as a folder: everything that answers rows of features, and nothing else.

`deployment.json` and a serving bundle for each label. Made by `export_deployment`; `open_deployment` needs neither
database nor project, imports little, and never writes.
"""

import json
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.backend.ports import Clock
from holdfast.backend.registry.bundle import load_bundle
from holdfast.backend.serving.predictor import Predictor
from holdfast.core.features.definitions import FeatureSet
from holdfast.errors import ConflictError, HoldfastError, IntegrityError, NotFoundError

if TYPE_CHECKING:
    from holdfast.backend.serving.loader import Sources

__all__ = ["FORMAT", "Exported", "export_deployment", "open_deployment"]

FORMAT = "holdfast deployment 1"
_FILE = "deployment.json"


@dataclass(frozen=True)
class Exported:
    """A deployment out of a folder; `strict` is what holds for requests that do not say."""

    predictor: Predictor
    strict: bool


def export_deployment(sources: "Sources", target: str, folder: Path, *, strict: bool) -> list[Path]:
    """Write what answers `target` now to `folder`, which must be new or empty: all of it, or nothing.

    NotFoundError when nothing is deployed; ConflictError when the folder holds something.
    """
    # The store loads its database driver, which opening a folder does without.
    from holdfast.backend.store.files import place

    current = sources.deployments.current(target)
    if current is None:
        raise NotFoundError(f"nothing is deployed for the target {target!r}", where={"target": target})
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConflictError(f"{folder} is there already", hint="Name a new folder, or empty that one.")
    models: dict[str, dict[str, str]] = {}
    versions = {label: sources.model(identity) for label, identity in current.models.items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = folder.with_name(f".{folder.name}.{secrets.token_hex(6)}.new")
    try:
        scratch.mkdir()
        for number, (label, version) in enumerate(versions.items()):
            name = f"{number}.bundle"
            shutil.copyfile(sources.blobs.path(version.serving), scratch / name)
            models[label] = {"file": name, "sha256": version.serving, "id": version.id, "version": version.version}
        definitions = sources.feature_set(next(iter(versions.values())).feature_set).to_dict()
        told = {"format": FORMAT, "id": current.id, "target": target, "strict": strict, "models": models,
                "definitions": definitions}  # fmt: skip
        (scratch / _FILE).write_text(json.dumps(told, ensure_ascii=False), encoding="utf-8")
        # What cannot answer is not handed out.
        open_deployment(scratch, sources.clock)
        place(scratch, folder, "export")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return sorted(folder.iterdir())


def open_deployment(folder: Path, clock: Clock) -> Exported:
    """Open, check (SHA-256) and replay a deployment. NotFoundError when there is none; IntegrityError when damaged."""
    path = folder / _FILE
    try:
        told: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise NotFoundError(
            f"{folder} holds no deployment: {error.strerror}", where={"file": str(path)},
            hint="Make one with: holdfast deployments export TARGET DIR",
        ) from error  # fmt: skip
    except ValueError as error:
        raise IntegrityError(f"{path} is no JSON: {error}", where={"file": str(path)}) from error
    try:
        if told["format"] != FORMAT:
            raise IntegrityError(
                f"{path} is of the format {told['format']!r}, not {FORMAT!r}", where={"file": str(path)}
            )
        models = {label: load_bundle(folder / one["file"], one["sha256"]) for label, one in told["models"].items()}
        predictor = Predictor(told["id"], told["target"], models, FeatureSet.from_dict(told["definitions"]), clock)
        strict = bool(told["strict"])
    except HoldfastError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise IntegrityError(f"{path} is damaged: {error!r}", where={"file": str(path)}) from error
    predictor.verify()
    return Exported(predictor, strict)
