"""A project folder with the real reader, for tests and for the child process that the crash test kills."""

import sys
from contextlib import ExitStack
from pathlib import Path

from holdfast.backend.adapters.clock import SystemClock
from holdfast.backend.adapters.localfs import LocalBlobs
from holdfast.backend.datasets import Datasets
from holdfast.backend.layout import Layout
from holdfast.backend.pipelines.ingest import ingest, ingest_folder
from holdfast.backend.project_file import parse
from holdfast.backend.store import Store
from holdfast.backend.wiring import file_reader

SF = """
project: sf-inspections
timezone: America/Los_Angeles
tables:
  businesses: {files: businesses.csv, key: business_id, delivery: full, columns: {postal_code: category}}
  inspections: {files: inspections.xlsx, key: [business_id, date, type], time: date, links: {business_id: businesses}}
  violations: {files: violations.csv, time: date, links: {business_id: businesses}}
"""


class World:
    def __init__(self, root, project=SF):
        self.root = Path(root)
        self.layout = Layout(self.root)
        self.settings = parse(project)
        self._open = ExitStack()
        self.reader = self._open.enter_context(file_reader())
        self.store = Store(self.layout.database_url)
        self.store.upgrade()
        self.datasets = Datasets(self.store, LocalBlobs(self.layout.private / "blobs"), SystemClock(), self.layout)

    def use(self, project):
        self.settings = parse(project)

    def ingest(self, period, *files, **more):
        return ingest(self.datasets, self.settings, self.reader, period, [Path(f) for f in files], **more)

    def ingest_folder(self, folder, **more):
        return ingest_folder(self.datasets, self.settings, self.reader, Path(folder), **more)

    def deliver(self, period, /, folder="incoming", **texts):
        """Write CSV texts by table name and ingest them."""
        target = self.root / folder / period
        target.mkdir(parents=True, exist_ok=True)
        for old in target.iterdir():
            old.unlink()
        files = []
        for name, text in texts.items():
            file = target / f"{name}.csv"
            file.write_text(text, encoding="utf-8")
            files.append(file)
        return self.ingest(period, *files)

    def close(self):
        self._open.close()
        self.store.close()


if __name__ == "__main__":
    world = World(sys.argv[1])
    world.ingest_folder(sys.argv[2], progress=lambda done, total, message: print(done, message, flush=True))
