"""Puts the rooms together with the outside systems: the only module that names adapters."""

import atexit
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from holdfast.backend.layout import Layout
from holdfast.backend.logging import start_logging
from holdfast.backend.project_file import load
from holdfast.backend.settings import Settings
from holdfast.backend.store.disk import explained
from holdfast.errors import ConfigError

if TYPE_CHECKING:
    from holdfast.backend.access import Keys
    from holdfast.backend.api.control import ControlRooms
    from holdfast.backend.api.rollouts import RolloutRooms
    from holdfast.backend.api.streaming import StreamReport
    from holdfast.backend.datasets import Datasets
    from holdfast.backend.deployment.deployments import Deployments
    from holdfast.backend.features import Features
    from holdfast.backend.features.groups import Groups
    from holdfast.backend.features.vectors import OnlineFeatures
    from holdfast.backend.jobs import Engine, Schedules
    from holdfast.backend.pipelines.backup import BackupRooms
    from holdfast.backend.pipelines.batch_rows import BlockReader
    from holdfast.backend.pipelines.ingest import Reader
    from holdfast.backend.pipelines.materialise import FeatureRooms
    from holdfast.backend.pipelines.push import RemoteRooms
    from holdfast.backend.pipelines.trace import Lineage
    from holdfast.backend.pipelines.vault import Vault
    from holdfast.backend.ports import Blobs, Clock, OnlineStore, Place, Stream
    from holdfast.backend.records import RawTable, Rollout, RolloutEvent
    from holdfast.backend.registry.registry import Registry
    from holdfast.backend.serving.loader import Sources
    from holdfast.backend.serving.service import Service
    from holdfast.backend.store import Store
    from holdfast.core.features.definitions import FeatureSet
    from holdfast.core.features.primitives import Primitive

__all__ = ["Services", "block_reader", "empty_rows", "file_reader", "open_place", "open_stream", "stream"]


class Services:
    """The rooms of one project, each made when it is first asked for. ConfigError when the project file is wrong.

    With `log`, the process writes its log there from now on.
    """

    def __init__(self, root: Path, *, log: bool = True) -> None:
        self.layout = Layout(root)
        self.settings: Settings = load(root)
        self.leaving = threading.Event()  # set when this process is to watch rollouts no more
        self.reader: Callable[[], AbstractContextManager[Reader]] = file_reader
        self.blocks: BlockReader = block_reader
        # Every prediction that was made: a file of its own, so that writing it blocks nothing.
        self.prediction_log = self.layout.private / "predictions.db"
        if log:
            with explained(str(self.layout.logs)):
                start_logging(self.layout.logs)

    @cached_property
    def own(self) -> "tuple[Primitive, ...]":
        """The primitives of the user's own: of `plugins` in the project file, and of installed packages."""
        from holdfast.backend.adapters.plugins import load_plugins

        return load_plugins(self.layout.root, self.settings.plugins)

    @cached_property
    def clock(self) -> "Clock":
        """The system's clock."""
        from holdfast.backend.adapters.clock import SystemClock

        return SystemClock()

    @cached_property
    def blobs(self) -> "Blobs":
        """Content-addressed files of the project, where `storage.blobs` says."""
        from holdfast.backend.adapters.localfs import LocalBlobs
        from holdfast.backend.adapters.places3 import S3Place
        from holdfast.backend.adapters.s3blobs import S3Blobs

        url = self.settings.storage.blobs
        if url == "local":
            return LocalBlobs(self.layout.private / "blobs")
        return S3Blobs(S3Place(url), self.layout.private / "cache")

    @cached_property
    def store(self) -> "Store":
        """The metadata database, with all its tables."""
        # A room's tables hang on the metadata when its module is loaded.
        import holdfast.backend.access
        import holdfast.backend.datasets
        import holdfast.backend.deployment.deployments
        import holdfast.backend.features
        import holdfast.backend.jobs
        import holdfast.backend.registry.registry  # noqa: F401
        from holdfast.backend.store import Store

        url = self.settings.storage.database.get_secret_value()
        store = Store(self.layout.database_url if url == "sqlite" else url, head=self.layout.private / "audit.head")
        store.upgrade()
        return store

    @cached_property
    def datasets(self) -> "Datasets":
        """Versions of the data."""
        from holdfast.backend.datasets import Datasets
        from holdfast.backend.jobs import Queue
        from holdfast.backend.pipelines.handlers import trigger_training

        queue = Queue(self.store, self.clock)
        return Datasets(
            self.store, self.blobs, self.clock, self.layout, partial(trigger_training, queue, self.settings)
        )

    @cached_property
    def features(self) -> "Features":
        """Feature sets and matrices."""
        from holdfast.backend.features import Features

        return Features(self.store, self.blobs, self.clock, self.layout)

    @cached_property
    def online_store(self) -> "OnlineStore":
        """Online vectors, where `online.store` says."""
        from holdfast.backend.adapters.onlineredis import RedisOnline
        from holdfast.backend.adapters.onlinesqlite import SqliteOnline

        url = self.settings.online.store.get_secret_value()
        return SqliteOnline(self.layout.online) if url == "sqlite" else RedisOnline(url, self.settings.project)

    @cached_property
    def groups(self) -> "Groups":
        """Feature groups."""
        from holdfast.backend.features.groups import Groups

        return Groups(
            self.store, self.datasets, self.settings, self.clock, self._feature_set, own=lambda: self.own
        )  # fmt: skip

    @cached_property
    def online(self) -> "OnlineFeatures":
        """Online vectors by group and entity."""
        from holdfast.backend.features.vectors import OnlineFeatures

        return OnlineFeatures(self.groups, self.online_store, self.clock, self.settings.timezone)

    @cached_property
    def feature_rooms(self) -> "FeatureRooms":
        """What the feature store works with."""
        from holdfast.backend.pipelines.materialise import FeatureRooms

        return FeatureRooms(self.datasets, self.online, self.blobs, self.clock, self.layout)

    def _feature_set(self, target: str) -> "FeatureSet":
        """The newest feature set of a target; synthesised when there is none yet."""
        from holdfast.backend.pipelines.features import synthesise_set
        from holdfast.core.features.definitions import FeatureSet

        for record in self.features.sets():
            if record.name == target:
                return FeatureSet.from_dict(record.definitions, self.own)
        return synthesise_set(self.datasets, self.features, self.settings, target, own=self.own).feature_set

    @cached_property
    def registry(self) -> "Registry":
        """Runs and model versions."""
        from holdfast.backend.registry.registry import Registry

        return Registry(self.store, self.blobs, self.clock, self.layout)

    @cached_property
    def deployments(self) -> "Deployments":
        """What answers, and what did."""
        from holdfast.backend.deployment.deployments import Deployments

        return Deployments(self.store, self.clock)

    @cached_property
    def keys(self) -> "Keys":
        """API keys."""
        from holdfast.backend.access import Keys

        return Keys(self.store, self.clock)

    @cached_property
    def sources(self) -> "Sources":
        """What a server reads."""
        from holdfast.backend.serving.loader import Sources
        from holdfast.core.features.definitions import FeatureSet

        return Sources(
            deployments=self.deployments,
            model=self.registry.get,
            feature_set=lambda identity: FeatureSet.from_dict(self.features.get(identity).definitions, self.own),
            dataset=self.datasets.current,
            tables=lambda version: self.datasets.read(version.id),
            blobs=self.blobs,
            clock=self.clock,
            gate=partial(self.keys.gate, self.settings.serving.host),
        )

    @cached_property
    def service(self) -> "Service":
        """Predictions within this process."""
        from holdfast.backend.serving.loader import Live
        from holdfast.backend.serving.log import PredictionLog
        from holdfast.backend.serving.service import Service

        log = PredictionLog(self.prediction_log)
        # A script that never closes the project loses no prediction either.
        atexit.register(log.close)
        return Service(Live(self.sources), log, self.clock, strict=self.settings.features.strict)

    @cached_property
    def lineage(self) -> "Lineage":
        """What a trace asks."""
        from holdfast.backend.pipelines.trace import Lineage

        return Lineage(
            sources=self.sources,
            log=self.prediction_log,
            run=self.registry.run,
            feature_set=self.features.get,
            own=self.own,
            matrix=self.features.matrix,
            dataset=self.datasets.get,
            raw_files=self.datasets.files,
        )

    @cached_property
    def engine(self) -> "Engine":
        """Runs jobs: every pipeline, durably."""
        from holdfast.backend.jobs import Engine, Queue
        from holdfast.backend.pipelines.handlers import handlers

        return Engine(Queue(self.store, self.clock), handlers(self))

    @property
    def schedules(self) -> "Schedules":
        """Sends the jobs of the project file's `schedules`."""
        from holdfast.backend.jobs import Schedule, Schedules

        wanted = {name: Schedule(one.cron, one.job, one.arguments) for name, one in self.settings.schedules.items()}
        if self.settings.backup.schedule is not None:
            wanted["backup"] = Schedule(
                self.settings.backup.schedule, "backup", {"to": None, "note": "scheduled", "keep": None}
            )
        return Schedules(self.engine.queue, wanted, self.settings.timezone)

    def work(self, *, processes: int, drain: bool) -> None:
        """Run jobs until SIGINT or SIGTERM; see `jobs.worker.work`."""
        from holdfast.backend.jobs.worker import work

        root = self.layout.root
        self.close()
        work(partial(Services, root), processes=processes, drain=drain)

    def vault(self, place: "str | Path | None") -> "Vault":
        """Where backups are: that folder or bucket, by default `backup.to`."""
        from holdfast.backend.pipelines.vault import BACKUPS, Vault

        if place is not None:
            return Vault(open_place(str(place), Path.cwd()), BACKUPS)
        chosen = self.settings.backup.to
        if chosen is None:
            raise ConfigError(
                "it is not said where backups are",
                where={"key": "backup.to"},
                hint="Name a folder or s3://bucket/folder, or set `backup: {to: ...}` in the project file.",
            )
        return Vault(open_place(chosen, self.layout.root), BACKUPS)

    @property
    def backup_rooms(self) -> "BackupRooms":
        """What a backup is made of."""
        from holdfast.backend.pipelines.backup import BackupRooms

        return BackupRooms(
            self.settings.project, self.settings.plugins, self.layout, self.store, self.blobs, self.clock
        )  # fmt: skip

    @property
    def remote_rooms(self) -> "RemoteRooms":
        """What pushes and pulls work with."""
        from holdfast.backend.pipelines.push import RemoteRooms

        return RemoteRooms(**vars(self.backup_rooms), datasets=self.datasets, registry=self.registry)

    def status(self) -> dict[str, Any]:
        """The whole at a glance: the data, and per target its models and what is deployed."""
        from holdfast.backend.pipelines.status import status

        return status(self.settings, self.datasets, self.features, self.registry, self.deployments)

    def serve(self, announce: Callable[[str], None]) -> None:
        """Serve until SIGINT or SIGTERM; see `api.server.serve`.

        ConfigError when others could reach it and nobody has a key, or when its TLS files are wrong.
        """
        from holdfast.backend.api.server import serve
        from holdfast.backend.api.tls import open_tls

        self.keys.check_host(self.settings.serving.host)
        tls = open_tls(self.settings.serving.tls, self.layout.root)
        # The servers are processes of their own: nothing of this one's may be shared.
        self.close()
        root = self.layout.root
        serve(
            self.settings.serving,
            self.prediction_log,
            partial(_open_sources, root),
            partial(_open_control, root),
            announce,
            strict=self.settings.features.strict,
            tls=tls,
        )

    def close(self) -> None:
        """Give back connections."""
        if "service" in self.__dict__:
            self.service.log.close()
            atexit.unregister(self.service.log.close)
            del self.__dict__["service"]
        if "online_store" in self.__dict__:
            self.online_store.close()
        if "store" in self.__dict__:
            self.store.close()


def _open_sources(root: Path) -> "Sources":
    return Services(root).sources


def _rollout_rooms(services: Services) -> "RolloutRooms":
    from holdfast.backend.api.rollouts import RolloutRooms
    from holdfast.backend.deployment import Rollouts
    from holdfast.backend.pipelines.outcomes import add_outcomes
    from holdfast.backend.pipelines.rollout import Watchers, start_of, status

    rollouts = Rollouts(services.store, services.clock, services.deployments)

    def start(target: str, models: Mapping[str, str] | None, mode: str, **how: Any) -> "Rollout":
        chosen = models or {version.label: version.id for version in services.registry.current(target)}
        made: Rollout = services.engine.run("rollout_start", start_of(services.settings, target, chosen, mode, **how))
        return made

    def end(target: str, action: str, why: str) -> "RolloutEvent":
        arguments = {"rollout": rollouts.current(target).id, "action": action, "why": why}
        made: RolloutEvent = services.engine.run("rollout_end", arguments)
        return made

    return RolloutRooms(
        rollouts, start, end, partial(status, services), partial(add_outcomes, services), Watchers(services)
    )


def _open_control(root: Path) -> "ControlRooms":
    from holdfast.backend.api.control import ControlRooms

    services = Services(root)
    return ControlRooms(
        lineage=services.lineage,
        status=services.status,
        datasets=lambda: [asdict(version) for version in services.datasets.list()],
        models=lambda: [asdict(version) for version in services.registry.current()],
        newest=lambda target: {version.label: version.id for version in services.registry.current(target)},
        online=services.online,
        gate=services.sources.gate,
        rollouts=_rollout_rooms(services),
    )


def open_place(url: str, root: Path) -> "Place":
    """A folder (relative to `root`) or `s3://bucket/folder`. ConfigError for another URL."""
    from holdfast.backend.adapters.placefolder import FolderPlace
    from holdfast.backend.adapters.places3 import S3Place

    if url.startswith("s3://"):
        return S3Place(url)
    if "://" in url:
        raise ConfigError(
            f"{url!r} is no place that files can be kept in", hint="Give a folder, or s3://bucket/folder."
        )
    return FolderPlace((root / Path(url).expanduser()).resolve())


def stream(
    services: Services, target: str, topics: tuple[str, str, str], stopping: Callable[[], bool], *, group: str,
    start: int, drain: bool,
) -> "StreamReport":  # fmt: skip
    """Answer from topic to topic (`topics`: requests, answers, dead letters); see `api.streaming`."""
    from holdfast.backend.api.streaming import Streaming

    with ExitStack() as opened:
        source, answers, dead = topics
        streams = [open_stream(source, group, start=start), open_stream(answers), open_stream(dead)]
        for one in streams:
            opened.callback(one.close)
        live = services.service.live
        live.start()
        opened.callback(live.stop)
        live.predictor(target)
        return Streaming(services.service, target, *streams).run(stopping, drain=drain)


def open_stream(url: str, group: str | None = None, *, start: int = 0) -> "Stream":
    """A topic: redis://host:port/0/TOPIC, nats://host:port/TOPIC or kafka://host:port/TOPIC.

    `?patience=SECONDS` is after how long what a dead reader had is read by others (30). ConfigError for another URL.
    """
    from holdfast.backend.adapters.streams_kafka import KafkaStream
    from holdfast.backend.adapters.streams_nats import NatsStream
    from holdfast.backend.adapters.streams_redis import RedisStream

    parts = urlsplit(url)
    words = [unquote(word) for word in parts.path.split("/")[1:]]
    kind, options = parts.scheme, dict(parse_qsl(parts.query))
    patience = options.pop("patience", "30")
    wanted = 2 if kind in {"redis", "rediss"} else 1
    known = kind in {"redis", "rediss", "nats", "kafka"} and len(words) == wanted and all(words) and parts.netloc
    if not known or options or not patience.replace(".", "", 1).isdigit():
        place = f"{kind}://{parts.hostname or ''}" if parts.scheme else "the text"
        raise ConfigError(
            f"{place} names no topic",
            hint="Give redis://host:6379/0/TOPIC, nats://host:4222/TOPIC or kafka://host:9092/TOPIC"
            " (?patience=SECONDS may follow).",
        )
    given: dict[str, Any] = {"start": start, "patience": float(patience)}
    if kind == "nats":
        return NatsStream(f"nats://{parts.netloc}", words[0], group, **given)
    if kind == "kafka":
        return KafkaStream(parts.netloc, words[0], group, **given)
    return RedisStream(f"{kind}://{parts.netloc}/{words[0]}", words[1], group, **given)


def empty_rows(path: Path, raw: "RawTable", rows: Sequence[int]) -> bytes | None:
    """The content of a raw file with some rows empty; None where that cannot be. See `adapters.files.emptying`."""
    from holdfast.backend.adapters.files.emptying import empty_rows

    return empty_rows(path, raw, rows)


@contextmanager
def block_reader() -> "Iterator[Callable[[Path, int], Iterator[RawTable]]]":
    """What reads a file in blocks of some rows; its child process is ended with the context."""
    from holdfast.backend.adapters.files import FileReader

    with FileReader() as reader:
        yield reader.blocks


@contextmanager
def file_reader() -> "Iterator[Reader]":
    """What reads delivered files: in each thread a child process of its own, all ended with the context."""
    from holdfast.backend.adapters.files import FileReader

    own = threading.local()
    lock = threading.Lock()
    with ExitStack() as readers:

        def read(path: Path, *, sheet: str | None = None) -> "RawTable":
            if not hasattr(own, "reader"):
                with lock:
                    own.reader = readers.enter_context(FileReader())
            table: RawTable = own.reader.read(path, sheet=sheet)
            return table

        yield read
