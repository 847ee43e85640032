"""The client's verbs of safety: time travel, checkpoints, the check, the audit log, erasure. A part of `Project`."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.backend.wiring import Services, empty_rows, file_reader
from holdfast.core.timeline import parse_instant

if TYPE_CHECKING:
    import pyarrow as pa

    from holdfast.backend.pipelines.erase import Erased
    from holdfast.backend.pipelines.integrity import Finding
    from holdfast.backend.pipelines.travel import Travelled
    from holdfast.backend.store import AuditEntry, AuditHead
    from holdfast.backend.store.checkpoints import Checkpoint

__all__ = ["UndoVerbs"]

_MOVES = {"ingest": ("dataset",), "train": ("model:",), "import": ("model:",), "deploy": ("deployment:",)}
"""What a change may move, by the module that it is logged under."""


class UndoVerbs:
    """The whole system at a moment and back, checkpoints, whether all holds together, and who did what."""

    _services: Services
    _verb: Callable[[str, str], AbstractContextManager[None]]

    def at(self, moment: str) -> dict[str, Any]:
        """What was live at a time, a data version (the last moment at which it was current) or a checkpoint."""
        from holdfast.backend.pipelines.travel import state_at

        return state_at(self._services, moment)

    def go_back(self, to: str, *, dry_run: bool = False, note: str = "") -> "Travelled":
        """Bring data, models and deployments back to a moment, together, after the checks that a deployment makes.

        A later moment brings them forward again: `forward` of the answer names it.
        """
        from holdfast.backend.pipelines.travel import go_back

        with self._verb("rollback", to):
            return go_back(self._services, to, dry_run=dry_run, why=note)

    def checkpoint(self, name: str | None = None, note: str = "") -> "Checkpoint":
        """Record where everything points now, by default under the present time."""
        from holdfast.backend.pipelines.checkpoints import create

        return create(self._services.store, self._services.clock, name, note)

    def checkpoints(self) -> "list[Checkpoint]":
        """All checkpoints, oldest first."""
        from holdfast.backend.pipelines.checkpoints import list_checkpoints

        return list_checkpoints(self._services.store, self._services.clock)

    def restore_checkpoint(self, name: str) -> "Travelled":
        """Bring data, models and deployments back to a checkpoint. NotFoundError with the nearest name."""
        from holdfast.backend.store.checkpoints import Checkpoints

        with self._services.store.read() as connection:
            Checkpoints(connection).get(name)
        return self.go_back(name, note=f"restore checkpoint {name}")

    def remove_checkpoint(self, name: str) -> "Checkpoint":
        """Forget a checkpoint; what it named stays."""
        from holdfast.backend.pipelines.checkpoints import remove

        return remove(self._services.store, self._services.clock, name)

    def check(self, *, deep: bool = False) -> "list[Finding]":
        """Everything that is wrong with the project; empty when it holds together. `deep` reads and hashes it all."""
        from holdfast.backend.pipelines.integrity import check

        return check(self._services, deep=deep)

    def audit(
        self, object_: str | None = None, *, who: str | None = None, since: str | None = None
    ) -> "Iterator[AuditEntry]":
        """Audit entries, oldest first: of objects whose name begins with `object_`, by `who`, since a time."""
        from holdfast.backend.pipelines.auditing import entries

        moment = None if since is None else parse_instant(since, self._services.settings.timezone)
        return entries(self._services.store, object_=object_, who=who, since=moment)

    def verify_audit(self) -> "AuditHead":
        """Go over the whole audit log. IntegrityError names the first entry that is not what was written."""
        from holdfast.backend.pipelines.auditing import verify

        return verify(self._services.store)

    def export_audit(self, file: str | Path) -> int:
        """Write the audit log to a .jsonl or .csv file; returns how many entries."""
        from holdfast.backend.pipelines.auditing import export

        return export(self._services.store, Path(file))

    def erase(self, table: str, key: str, reason: str, *, dry_run: bool = False, drop_raw: bool = False) -> "Erased":
        """Erase the row of `table` with `key` and all rows that link to it, from everything but the models.

        `drop_raw` empties raw files whole whose rows cannot be emptied one by one. See the manual's page on privacy.
        """
        from holdfast.backend.pipelines.backup import keep_erasures
        from holdfast.backend.pipelines.belongings import RawAccess
        from holdfast.backend.pipelines.erase import erase

        with self._verb("erase", table), file_reader() as read:
            raw = RawAccess(read, empty_rows)
            done = erase(self._services, raw, table, key, reason, dry_run=dry_run, drop_raw=drop_raw)
            if self._services.settings.backup.to is not None and not dry_run:
                keep_erasures(self._services.backup_rooms, self._services.vault(None))
            return done

    def faults(self, version: str | None = None) -> "pa.Table":
        """Rows kept out of a version, with personal values masked, also those of columns marked personal since."""
        import pyarrow as pa

        from holdfast.backend.pipelines.masking import masked_faults

        found: pa.Table = masked_faults(self._services.settings, self._services.datasets, version)
        self._told("quarantine", version=version or "current", faults=len(found))
        return found

    def masked(self, comparison: dict[str, Any], version: str | None = None) -> dict[str, Any]:
        """A comparison of versions as plain data, with the personal values of its examples masked."""
        from holdfast.backend.pipelines.masking import mask_comparison, personal_columns

        personal = personal_columns(self._services.settings, self._services.datasets.schema(version))
        return mask_comparison(comparison, personal)

    def _told(self, object_: str, **details: Any) -> None:
        """Audit that rows were shown."""
        from holdfast.backend.pipelines.auditing import tell_read

        tell_read(self._services.store, self._services.clock, object_, **details)

    @contextmanager
    def _kept(self, module: str, what: str) -> Iterator[None]:
        """Keep a checkpoint while a change runs."""
        from holdfast.backend.pipelines.forgetting import finish_interrupted

        finish_interrupted(self._services)
        if module not in _MOVES:
            yield
            return
        from holdfast.backend.pipelines.checkpoints import checkpointed

        said = what if what.startswith(module) else f"{module} {what}"
        with checkpointed(self._services.store, self._services.clock, said, _MOVES[module]):
            yield
