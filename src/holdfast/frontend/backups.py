"""The client's verbs of backups and remotes: a part of `Project`; and what makes a project out of one of them."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from holdfast.backend.layout import PROJECT_FILE
from holdfast.backend.store.files import write_whole
from holdfast.backend.wiring import Services, empty_rows, file_reader, open_place
from holdfast.errors import ConfigError, IntegrityError, nearest

if TYPE_CHECKING:
    from holdfast.backend.pipelines.backup import Backup
    from holdfast.backend.pipelines.ingest import IngestResult
    from holdfast.backend.pipelines.push import Synced
    from holdfast.backend.pipelines.restore import Proof
    from holdfast.backend.pipelines.vault import Vault

__all__ = ["BackupVerbs", "clone", "restore", "verify_backup"]

Progress = Callable[[int, int, str], None]


class BackupVerbs:
    """Backups of the project, and remotes that it is pushed to and pulled from."""

    _services: Services
    _verb: Callable[[str, str], AbstractContextManager[None]]
    _run: Callable[..., Any]
    ingest: Callable[..., "IngestResult"]

    def backup(
        self, to: str | Path | None = None, *, note: str = "", keep: int | None = None, progress: Progress | None = None
    ) -> "Backup":
        """Back the project up into a folder or bucket (by default `backup.to`), while it runs.

        Afterwards only the newest `keep` (by default `backup.keep`; None: all) are left there. Weights that were edited
        by hand in data/model become a version first.
        """
        place = to if to is None or "://" in str(to) else Path(to).absolute()
        self._services.vault(place)  # refused before it is recorded: a wrong URL may hold a secret
        arguments = {"to": None if place is None else str(place), "note": note, "keep": keep}
        made: Backup = self._run("backup", arguments, "create", progress=progress)
        return made

    def backups(self, at: str | Path | None = None) -> "list[Backup]":
        """The backups in a place, by default `backup.to`, oldest first."""
        from holdfast.backend.pipelines.backup import list_backups

        return list_backups(self._services.vault(at))

    def verify_backup(self, backup: str | None = None) -> "Proof":
        """Prove a backup in `backup.to` (the newest by default) by restoring it; see this module's `verify_backup`."""
        with self._verb("backup", f"verify {backup or 'the newest'}"):
            return _verified(self._services.vault(None), backup)

    def push(self, remote: str = "origin") -> "Synced":
        """Bring a remote (a name of `remotes`) what it lacks; its pointers go forward.

        ConflictError when the data there has gone another way, or somebody else pushed meanwhile: pull first.
        """
        from holdfast.backend.pipelines.push import push

        with self._verb("remote", f"push {remote}"):
            self._services.registry.sync()
            return push(self._services.remote_rooms, *self._remote(remote))

    def pull(self, remote: str = "origin") -> "Synced":
        """Bring the project what a remote has; pointers that are behind it go forward.

        ConflictError when the data there has gone another way: it was brought as a branch, to be merged. Who was erased
        here and comes back with a version from there is erased again.
        """
        from holdfast.backend.pipelines.pull import pull

        with self._verb("remote", f"pull {remote}"):
            before = {version.id for version in self._services.datasets.list()}
            again = 0
            try:
                done = pull(self._services.remote_rooms, *self._remote(remote))
            finally:
                if new := {version.id for version in self._services.datasets.list()} - before:
                    again = _erased_since(self._services, new)
        note = f"{again} persons who were erased here were in it, and are erased again"
        return replace(done, notes=(*done.notes, note)) if again else done

    def import_dvc(
        self, paths: Sequence[str | Path], *, period: str, note: str = "", progress: Progress | None = None
    ) -> "IngestResult":
        """Import what DVC tracks at `paths` (`.dvc` files, tracked files or folders, `dvc.yaml`) as one delivery.

        FileError or IntegrityError when content is not in DVC's cache, or damaged there; else as `ingest`.
        """
        from holdfast.backend.pipelines.dvc import stage, tracked

        found = tracked([Path(path) for path in paths])
        with TemporaryDirectory(prefix="holdfast-dvc-") as folder:
            return self.ingest(period, stage(found, Path(folder)), note=note or "from DVC", progress=progress)

    def _remote(self, remote: str) -> "tuple[Vault, str]":
        from holdfast.backend.pipelines.vault import REMOTE, Vault

        known = self._services.settings.remotes
        if remote not in known:
            raise ConfigError(
                f"there is no remote {remote!r}", where={"key": "remotes"},
                hint=nearest(remote, known) if known else "Name one in the project file: `remotes: {origin: PLACE}`.",
            )  # fmt: skip
        return Vault(open_place(known[remote], self._services.layout.root), REMOTE), remote


def verify_backup(place: str | Path, backup: str | None = None) -> "Proof":
    """Prove a backup of a place, without its project: restore it into a scratch folder, check every hash, the databases
    and the audit chain, and replay the golden rows of what is deployed. IntegrityError or NotFoundError say what fails.
    """  # fmt: skip
    from holdfast.backend.pipelines.vault import BACKUPS, Vault

    return _verified(Vault(open_place(str(place), Path.cwd()), BACKUPS), backup)


def _verified(vault: "Vault", backup: str | None) -> "Proof":
    from holdfast.backend.pipelines.backup import find_backup
    from holdfast.backend.pipelines.restore import prove

    found = find_backup(vault, backup)
    with TemporaryDirectory(prefix="holdfast-verify-") as folder:
        services = _filled(vault, found, Path(folder), {"database": "sqlite", "blobs": "local"})
        try:
            return prove(found, services.layout.root, services.store, services.sources, vault.received)
        finally:
            services.close()


def restore(
    place: str | Path,
    into: str | Path,
    *,
    backup: str | None = None,
    database: str | None = None,
    blobs: str | None = None,
) -> "Backup":
    """Make a project out of a backup (the newest by default), in an empty or new folder.

    Its records and blobs go where its project file says, or into `database` and `blobs`, which are then written into
    the file. ConflictError when the folder or the database is not empty.
    """
    from holdfast.backend.pipelines.backup import find_backup
    from holdfast.backend.pipelines.restore import empty_place
    from holdfast.backend.pipelines.vault import BACKUPS, Vault

    vault = Vault(open_place(str(place), Path.cwd()), BACKUPS)
    found = find_backup(vault, backup)
    root = Path(into).resolve()
    storage = {key: value for key, value in (("database", database), ("blobs", blobs)) if value is not None}
    with empty_place(root) as folder:
        services = _filled(vault, found, folder, storage)
        try:
            _erased_again(vault, services)  # before the place can be used: a crash must not leave them there
        finally:
            services.close()
    services = Services(root)
    try:
        services.datasets.refresh_face()
        services.registry.refresh()
    finally:
        services.close()
    return found


def _erased_again(vault: "Vault", services: Services) -> None:
    """Erase whom the project had erased since the backup."""
    from holdfast.backend.pipelines.backup import kept_erasures
    from holdfast.backend.pipelines.belongings import RawAccess
    from holdfast.backend.pipelines.erase import apply_erasures

    secret, erased = kept_erasures(vault)
    if erased:
        write_whole(services.layout.erasure_key, lambda path: path.write_bytes(secret))
        services.layout.erasure_key.chmod(0o600)
        with file_reader() as read:
            apply_erasures(services, RawAccess(read, empty_rows), erased)


def _erased_since(services: Services, versions: set[str]) -> int:
    """Erase once more whom the project had erased, after `versions` came from elsewhere. Returns how many persons."""
    from holdfast.backend.pipelines.belongings import RawAccess
    from holdfast.backend.pipelines.erase import apply_erasures, erasures, recount

    erased = erasures(services)
    if not erased:
        return 0
    with file_reader() as read:
        again = len(apply_erasures(services, RawAccess(read, empty_rows), erased))
    recount(services, versions)
    return again


def clone(place: str | Path, into: str | Path) -> "Synced":
    """Make a project out of a remote, in an empty or new folder; the place becomes its remote `origin`.

    Records and blobs are kept in the folder. ConflictError when it is not empty, NotFoundError when nothing was pushed.
    """
    from holdfast.backend.pipelines.project_text import with_keys
    from holdfast.backend.pipelines.pull import pull
    from holdfast.backend.pipelines.remotes import newest_state, nothing_there
    from holdfast.backend.pipelines.restore import empty_place
    from holdfast.backend.pipelines.vault import REMOTE, Vault

    vault = Vault(open_place(str(place), Path.cwd()), REMOTE)
    there = newest_state(vault)
    if not there.number:
        raise nothing_there(vault)
    root = Path(into).resolve()
    origin = vault.place.url
    with empty_place(root) as folder:
        for name, digest in there.files.items():
            if name != Path(name).name:
                raise IntegrityError("the remote names a file outside of the project", where={"file": name})
            (folder / name).write_bytes(vault.read(digest, name))
        file = folder / PROJECT_FILE
        file.write_text(with_keys(file.read_text(encoding="utf-8"), {"remotes": {"origin": origin}}), encoding="utf-8")
        services = Services(folder, log=False)
        try:
            return pull(services.remote_rooms, vault, "origin")
        finally:
            services.close()


def _filled(vault: "Vault", backup: "Backup", folder: Path, storage: dict[str, str]) -> Services:
    """The rooms of a backup that was restored into a folder."""
    from holdfast.backend.pipelines.restore import restore_files, restore_records

    restore_files(vault, backup, folder)
    _set_storage(folder / PROJECT_FILE, storage)
    services = Services(folder, log=False)
    try:
        restore_records(vault, backup, services.store, services.blobs, services.layout.private)
    except BaseException:
        services.close()
        raise
    return services


def _set_storage(file: Path, storage: dict[str, Any]) -> None:
    import yaml

    from holdfast.backend.pipelines.project_text import with_keys

    if not storage:
        return
    text = file.read_text(encoding="utf-8")
    held = (yaml.safe_load(text) or {}).get("storage") or {}
    file.write_text(with_keys(text, {"storage": {**held, **storage}}), encoding="utf-8")
