"""The readable face of the registry: data/model.

Files are written first, each whole (temporary name, fsync, rename); the manifest of their hashes comes last. What an
interruption left is seen at the next `refresh`, because the manifest then names another version than the registry.
Files that the manifest does not name are never touched.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.backend.ports import Blobs
from holdfast.backend.records import ModelVersion
from holdfast.backend.store.files import sha256_of, write_whole
from holdfast.core.names import distinct_stems, escape

__all__ = ["MANIFEST", "Edit", "Face", "definitions_file", "entries", "read_manifest", "stem_key"]

MANIFEST = "manifest.json"
_FORMAT = "holdfast-models/1"
_SCRATCH = ".*.new"
"""What `write_whole` leaves behind when it is killed."""


@dataclass(frozen=True, slots=True)
class Edit:
    """A weights file that somebody changed: of which version, where, and its content."""

    version: ModelVersion
    path: Path
    content: bytes


class Face:
    """The folder data/model."""

    def __init__(self, folder: Path, blobs: Blobs) -> None:
        self.folder = folder
        self._blobs = blobs

    def refresh(self, current: Sequence[ModelVersion], firsts: Sequence[tuple[str, str]]) -> list[str]:
        """Make the folder show `current`; returns the models whose files were written.

        `firsts` is `stem_key` of all models ever, in the order they came, which decides file names. Another label's
        files are not touched. Whoever calls holds the lock of the folder.
        """
        shown = read_manifest(self.folder)["models"]
        wanted = entries(current, firsts)
        stale = [m for m, entry in wanted.items() if not self._shows(shown.get(m), entry)]
        gone = [m for m in shown if m not in wanted]
        if not stale and not gone:
            return []
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.glob(_SCRATCH):
            left.unlink(missing_ok=True)
        kept = {name for entry in wanted.values() for name in entry["files"]}
        for model in stale:
            before = shown.get(model, {}).get("files", {})
            for name, file in wanted[model]["files"].items():
                self._replace(name, file, before.get(name, {}).get("sha256"))
        for model in stale + gone:
            for name in set(shown.get(model, {}).get("files", {})) - kept:
                (self.folder / name).unlink(missing_ok=True)
        body = {"format": _FORMAT, "models": wanted}
        text = json.dumps(body, ensure_ascii=False, indent=1, sort_keys=True)
        _write(self.folder / MANIFEST, text.encode("utf-8", "surrogatepass"))
        return stale

    def edits(self, current: Sequence[ModelVersion]) -> list[Edit]:
        """Weights files whose content is neither what the manifest nor what the current version recorded."""
        shown = read_manifest(self.folder)["models"]
        found = []
        for version in current:
            files: Mapping[str, Any] = shown.get(version.model, {}).get("files", {})
            name = next((n for n, file in files.items() if file["role"] == "weights"), None)
            if name is None or not (self.folder / name).is_file():
                continue
            content = (self.folder / name).read_bytes()
            if sha256_of(content) not in (files[name]["sha256"], version.files["weights"]):
                found.append(Edit(version, self.folder / name, content))
        return found

    def _replace(self, name: str, file: Mapping[str, Any], before: str | None) -> None:
        path = self.folder / name
        if path.is_file():
            found = sha256_of(path.read_bytes())
            if found == file["sha256"]:
                return
            if file["role"] == "weights" and found != before:
                # Somebody edited it since it was last read; what a person wrote is not thrown away.
                path.replace(path.with_name(f"{name}.edited"))
        _write(path, self._blobs.path(file["sha256"]).read_bytes())

    def _shows(self, entry: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> bool:
        return entry == wanted and all((self.folder / name).is_file() for name in wanted["files"])


def entries(current: Sequence[ModelVersion], firsts: Sequence[tuple[str, str]]) -> dict[str, dict[str, Any]]:
    """What the manifest of a folder says that shows `current`, by model; `firsts` as for `Face.refresh`."""
    stems = distinct_stems(firsts)
    return {v.model: _entry(v, stems[stem_key(v.target, v.label, v.task)]) for v in current}


def stem_key(target: str, label: str, task: str) -> tuple[str, str]:
    """What a model's files are named after: its label, or its target where that has one label only."""
    return (target, label if task == "multilabel" else target)


def definitions_file(digest: str) -> str:
    """The file of feature definitions by their hash; models of the same features share it."""
    return f"feature_definitions_{digest[:12]}.json"


def _write(path: Path, data: bytes) -> None:
    write_whole(path, lambda scratch: scratch.write_bytes(data))


def _entry(version: ModelVersion, stem: str) -> dict[str, Any]:
    if version.task == "multilabel":
        package = f"multilabel_model_{stem}.pkl"
    else:
        package = f"{escape(version.task)}_model_{stem}.pkl"
    names = {
        "package": package,
        "weights": f"feature_weights_{stem}.yaml",
        "shap": f"shap_explainer_{stem}.pkl",
        "onnx": f"{stem}.onnx",
        "definitions": definitions_file(version.files.get("definitions", "")),
    }
    return {
        "id": version.id,
        "version": version.version,
        "target": version.target,
        "label": version.label,
        "task": version.task,
        "algorithm": version.algorithm,
        "made_at": version.made_at,
        "dataset": version.dataset,
        "feature_set": version.feature_set,
        "files": {names[role]: {"role": role, "sha256": digest} for role, digest in version.files.items()},
    }


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder of models; one without models where there is none or it cannot be read."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):
        manifest = None
    sound = isinstance(manifest, dict) and manifest.get("format") == _FORMAT
    models = manifest.get("models") if sound and manifest else None
    if not isinstance(models, dict) or not all(_sound(entry) for entry in models.values()):
        return {"format": _FORMAT, "models": {}}
    return {"format": _FORMAT, "models": models}


def _sound(entry: object) -> bool:
    """Whether an entry of a manifest, which anybody may have written, says what is used of it; names stay inside."""
    if not isinstance(entry, dict) or not isinstance(entry.get("files"), dict):
        return False
    texts = [entry.get(name) for name in ("version", "task", "algorithm")]
    for name, file in entry["files"].items():
        if not isinstance(file, dict) or "/" in name or "\\" in name or name in ("", ".", ".."):
            return False
        texts += [file.get("role"), file.get("sha256")]
    return all(isinstance(text, str) for text in texts)
