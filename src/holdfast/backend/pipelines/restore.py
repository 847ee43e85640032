"""Restoring: a backup becomes a project again, in an empty place; and verifying, which is restoring and looking."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from holdfast.backend.layout import PROJECT_FILE
from holdfast.backend.pipelines.backup import RECORDS, Backup, needed_blobs
from holdfast.backend.pipelines.vault import Vault, all_at_once, scratch_folder
from holdfast.backend.ports import Blobs
from holdfast.backend.serving.loader import Sources, load_predictor
from holdfast.backend.store import Audit, Store
from holdfast.backend.store.disk import disk_errors
from holdfast.backend.store.files import place
from holdfast.backend.store.portable import copy_records
from holdfast.errors import ConflictError, IntegrityError

__all__ = ["Proof", "empty_place", "prove", "restore_files", "restore_records"]


@dataclass(frozen=True, slots=True)
class Proof:
    """What was looked at when a backup was verified: files and blobs by their hash, entries of the audit log, and
    labels whose deployed models gave the recorded answers of their golden rows.
    """  # fmt: skip

    backup: str
    files: int
    blobs: int
    bytes: int
    audit: int
    replayed: tuple[str, ...]


@contextmanager
def empty_place(root: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `root` when the block ends well; else nothing is left.

    ConflictError when there is something at `root` already.
    """
    with disk_errors(root):
        if root.is_symlink() or (root.exists() and (not root.is_dir() or any(root.iterdir()))):
            raise ConflictError(
                f"{root} is there already", where={"folder": str(root)}, hint="Choose an empty or a new folder."
            )
        root.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=root.parent, prefix=f".{root.name}.", suffix=".new") as scratch:
            folder = Path(scratch) / "project"
            folder.mkdir()
            yield folder
            place(folder, root, "restored project")


def restore_files(vault: Vault, backup: Backup, root: Path) -> None:
    """Write the files of a backup into a folder: raw files, project file, plugins, prediction log, online vectors."""
    files = {path: stored for path, stored in backup.files.items() if path != RECORDS}
    all_at_once(lambda path: vault.fetch_file(files[path], root / path, path), files)
    if not (root / PROJECT_FILE).is_file():
        raise IntegrityError(f"the backup has no {PROJECT_FILE}", where={"backup": backup.id})


def restore_records(vault: Vault, backup: Backup, store: Store, blobs: Blobs, private: Path) -> None:
    """Put blobs, then records, where the restored project keeps them; `private` is its folder for scratch files.

    ConflictError when the database holds records already. IntegrityError names what of the backup is damaged.
    """
    with scratch_folder(private / "tmp" / "restore") as scratch:
        there = set(blobs)

        def bring(digest: str) -> None:
            file = scratch / digest
            vault.fetch(digest, file, "a stored file")
            with disk_errors(file):
                blobs.put_file(file)
                file.unlink()

        all_at_once(bring, [digest for digest in backup.blobs if digest not in there])
        vault.fetch_file(backup.files[RECORDS], scratch / "records.db", "the records")
        copy = Store(f"sqlite:///{scratch / 'records.db'}")
        try:
            copy.upgrade()
            with copy.read() as connection:
                lacking = sorted(set(needed := needed_blobs(connection)) - set(backup.blobs))
                if lacking:
                    raise IntegrityError(f"the backup lacks {needed[lacking[0]]}", where={"blob": lacking[0]})
                copy_records(connection, store)
        finally:
            copy.close()


def prove(backup: Backup, root: Path, store: Store, sources: Sources, received: int) -> Proof:
    """Look at a backup that was restored into `root`: its databases are whole, its audit chain ends where it ended,
    and what is deployed answers its golden rows as recorded. IntegrityError says what does not hold.
    """  # fmt: skip
    for path in backup.files:
        if path.endswith(".db") and path != RECORDS:
            _sound(root / path)
    with store.read() as connection:
        head = Audit(connection).verify(backup.audit)
    replayed = []
    for target, deployment in sources.deployments.pointers().items():
        predictor = load_predictor(sources.deployments.get(deployment), sources)  # replays the golden rows
        replayed += [f"{target}/{label}" for label in predictor.models]
    return Proof(backup.id, len(backup.files), len(backup.blobs), received, head.id, tuple(sorted(replayed)))


def _sound(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        said = database.execute("PRAGMA integrity_check").fetchone()[0]
    if said != "ok":
        raise IntegrityError(f"a database in the backup is damaged: {said}", where={"file": path.name})
