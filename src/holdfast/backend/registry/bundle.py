"""Opening serving bundles from files; imports neither the database nor scikit-learn, pandas or a web framework."""

import hashlib
import mmap
from pathlib import Path

from holdfast.core.learn.serving import ServedModel
from holdfast.errors import IntegrityError

__all__ = ["load_bundle"]


def load_bundle(path: Path, sha256: str | None = None) -> ServedModel:
    """The model of the bundle file `path`, memory-mapped and verified on its golden rows.

    With `sha256` (hex) the content must have that hash. IntegrityError naming the file when it has not, when the file
    is damaged or cut short, or when an answer is not the recorded one; nothing is unpickled.
    """
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise IntegrityError(f"the serving bundle cannot be read: {error}", where={"file": str(path)}) from error
    if sha256 is not None and (found := hashlib.sha256(mapped).hexdigest()) != sha256:
        raise IntegrityError(
            f"the serving bundle was changed: its SHA-256 is {found}, recorded is {sha256}", where={"file": str(path)}
        )
    try:
        model = ServedModel(memoryview(mapped))
        model.verify()
    except IntegrityError as error:
        raise IntegrityError(error.message, where={"file": str(path), **error.where}, hint=error.hint) from error
    return model
