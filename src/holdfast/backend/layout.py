"""Where things are in a project folder."""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["PROJECT_FILE", "Layout"]

PROJECT_FILE = "holdfast.yaml"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are in a project folder."""

    root: Path

    @property
    def project_file(self) -> Path:
        """The project file."""
        return self.root / PROJECT_FILE

    @property
    def raw(self) -> Path:
        """Raw files as delivered, a folder a delivery."""
        return self.root / "data" / "raw"

    @property
    def processed(self) -> Path:
        """Columnar tables of the current version."""
        return self.root / "data" / "processed"

    @property
    def query(self) -> Path:
        """Query data; nothing here ever reaches a training set."""
        return self.root / "data" / "query"

    @property
    def features(self) -> Path:
        """Matrices and definitions."""
        return self.root / "features"

    @property
    def models(self) -> Path:
        """Packages of the current model versions."""
        return self.root / "data" / "model"

    @property
    def logs(self) -> Path:
        """Log files."""
        return self.root / "logs"

    @property
    def private(self) -> Path:
        """Holdfast's own: metadata database, blobs, locks, scratch space."""
        return self.root / ".holdfast"

    @property
    def erasure_key(self) -> Path:
        """The secret with which erased persons are hashed."""
        return self.private / "erasure.key"

    @property
    def online(self) -> Path:
        """The embedded online store."""
        return self.private / "online.db"

    @property
    def database_url(self) -> str:
        """The metadata database."""
        return f"sqlite:///{self.private / 'holdfast.db'}"
