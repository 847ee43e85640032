"""What workers count: requests, errors, latencies and outputs of each deployment, in memory-mapped files.

Each worker owns one file under the folder, by a fixed number (a new worker takes the number of a dead one and counts
on), so that the files are as many as there ever were workers at once. Counting is adding to a 64-bit word in shared
memory: no lock, no system call, and nothing is lost when the worker is killed. Whoever reads adds up all files.

A file is a sequence of slots of 1 KiB: the name (length, then UTF-8), then words. A deployment has one slot for its
requests and one for each label.
"""

import bisect
import fcntl
import hashlib
import mmap
import os
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = [
    "BINS",
    "LATENCY_EDGES_US",
    "ArmCounts",
    "ArmMeter",
    "Meters",
    "OutputCounts",
    "meters_folder",
    "prometheus",
    "read_meters",
]

LATENCY_EDGES_US: tuple[int, ...] = (
    *(step * 10**power for power in range(1, 7) for step in (1, 2, 3, 5, 7)),
    10_000_000,
)
"""Upper edges of the latency buckets in microseconds (a latency counts at the first edge that is not smaller)."""
BINS = 20
"""Bins of outputs: of equal width for probabilities, one a class (the last takes the rest) for multiclass."""
_SLOT = 1024
_NAME = 256
_WORDS = _SLOT // 8
_FIRST = _NAME // 8
_REQUESTS, _PREDICTIONS, _REFUSED, _ERRORS, _MICROSECONDS, _LATENCY = (_FIRST + place for place in range(6))
_SUM, _SQUARES, _BIN = _FIRST + 1, _FIRST + 2, _FIRST + 3
_SEPARATOR = "\x1f"
_GROW = 64


@dataclass(frozen=True, slots=True)
class OutputCounts:
    """Outputs of one label: their number, sum and sum of squares (numbers), counts in `BINS` bins (others)."""

    count: int
    total: float
    squares: float
    bins: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ArmCounts:
    """What one deployment did since it began, over all workers.

    `requests` that were answered, `predictions` in them, `refused` for what was asked (4xx), `errors` of the server
    (5xx); `latency` counts of answered requests in the buckets of `LATENCY_EDGES_US` and one for what is beyond.
    """

    target: str = ""
    requests: int = 0
    predictions: int = 0
    refused: int = 0
    errors: int = 0
    microseconds: int = 0
    latency: tuple[int, ...] = (0,) * (len(LATENCY_EDGES_US) + 1)
    outputs: Mapping[str, OutputCounts] = field(default_factory=dict)


class ArmMeter:
    """The counters of one deployment in this worker. For any number of threads."""

    def __init__(self, words: "memoryview[int]", labels: Mapping[str, "_Outputs"], lock: threading.Lock) -> None:
        self._words = words
        self._labels = labels
        self._lock = lock

    def answered(self, latencies: Sequence[int], predictions: int, outputs: Mapping[str, Sequence[float]]) -> None:
        """Requests that were answered: the microseconds of each (of at least one), the predictions in all of them.

        Outputs by label: probabilities, indices of decided classes, or numbers.
        """
        words = self._words
        with self._lock:
            words[_REQUESTS] += len(latencies)
            words[_PREDICTIONS] += predictions
            words[_MICROSECONDS] += sum(latencies)
            first, last = _bucket(min(latencies)), _bucket(max(latencies))
            if first == last:  # as in nearly every batch
                words[first] += len(latencies)
            else:
                for latency in latencies:
                    words[_bucket(latency)] += 1
            for label, values in outputs.items():
                self._labels[label].count(values)

    def refused(self) -> None:
        """A request that asked for what cannot be answered."""
        with self._lock:
            self._words[_REFUSED] += 1

    def failed(self) -> None:
        """A request that the server could not answer."""
        with self._lock:
            self._words[_ERRORS] += 1


def _bucket(latency: int) -> int:
    return _LATENCY + bisect.bisect_left(LATENCY_EDGES_US, latency)


class _Outputs:
    """The counters of one label."""

    def __init__(self, words: "memoryview[int]", numbers: "memoryview[float]", task: str) -> None:
        self._words = words
        self._numbers = numbers
        self._bins = {"regression": 0.0, "multiclass": 1.0}.get(task, float(BINS))

    def count(self, values: Sequence[float]) -> None:
        words, bins = self._words, self._bins
        words[_FIRST] += len(values)
        if bins:
            for value in values:
                place = int(value * bins)
                words[_BIN + (place if place < BINS else BINS - 1)] += 1
        else:
            self._numbers[_SUM] += sum(values)
            self._numbers[_SQUARES] += sum(value * value for value in values)


class Meters:
    """The counters of this worker. OSError from the constructor when the folder cannot be written."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._file, self._size = _claimed(folder), 0
        self._map: mmap.mmap | None = None
        self._older: list[mmap.mmap] = []
        self._lock = threading.Lock()
        self._places: dict[str, int] = {}
        self._arms: dict[str, ArmMeter] = {}
        self._remap(max(_GROW * _SLOT, os.fstat(self._file).st_size))
        for place, name in _names(self._view(0, self._size)):
            self._places[name] = place

    def arm(self, target: str, deployment: str, tasks: Mapping[str, str]) -> ArmMeter:
        """The counters of a deployment, with the task of each label; made at the first call.

        OSError when the disk has no room for them.
        """
        known = self._arms.get(deployment)
        if known is None:
            with self._lock:
                words, _ = self._slot(_SEPARATOR.join((target, deployment)))
                outputs = {
                    label: _Outputs(*self._slot(_SEPARATOR.join((target, deployment, label))), task)
                    for label, task in tasks.items()
                }
                known = self._arms.setdefault(deployment, ArmMeter(words, outputs, self._lock))
        return known

    def _slot(self, name: str) -> tuple["memoryview[int]", "memoryview[float]"]:
        encoded = name.encode()
        if len(encoded) > _NAME - 4:
            target, deployment, *label = name.split(_SEPARATOR)
            # The deployment says whose it is; of what is too long a digest takes the place.
            parts = [hashlib.sha256(part.encode()).hexdigest() for part in (target, *label)]
            encoded = _SEPARATOR.join((parts[0], deployment, *parts[1:])).encode()
        short = encoded.decode()
        place = self._places.get(short)
        if place is None:
            place = len(self._places)
            if (place + 1) * _SLOT > self._size:
                self._remap(self._size + _GROW * _SLOT)
            self._places[short] = place
            view = self._view(place * _SLOT, _SLOT)
            view[4 : 4 + len(encoded)] = encoded
            # The length last: a reader sees no half name.
            view[:4] = struct.pack("<I", len(encoded))
        view = self._view(place * _SLOT, _SLOT)
        return view.cast("Q"), view.cast("d")

    def _view(self, start: int, size: int) -> memoryview:
        assert self._map is not None
        return memoryview(self._map)[start : start + size]

    def _remap(self, size: int) -> None:
        # Blocks of its own, no hole: to write into a hole of a mapping kills the process when the disk is full.
        os.posix_fallocate(self._file, 0, size)
        made = mmap.mmap(self._file, size)
        if self._map is not None:
            # Slots that were handed out go on in the older mapping, which is the same memory.
            self._older.append(self._map)
        self._map, self._size = made, size


def meters_folder(log: Path) -> Path:
    """Where the counters are: beside the prediction log."""
    return log.with_name("meters")


def read_meters(folder: Path) -> dict[str, ArmCounts]:
    """Deployment → what it did, added up over all workers that there ever were."""
    arms: dict[str, list[list[int]]] = {}
    outputs: dict[str, dict[str, list[OutputCounts]]] = {}
    targets: dict[str, str] = {}
    for path in sorted(folder.glob("worker-*")) if folder.is_dir() else ():
        data = memoryview(path.read_bytes())
        for place, name in _names(data):
            words = data[place * _SLOT : (place + 1) * _SLOT].cast("Q")
            numbers = words.cast("B").cast("d")
            target, deployment, *label = name.split(_SEPARATOR)
            if label:
                bins = tuple(words[_BIN : _BIN + BINS])
                made = OutputCounts(words[_FIRST], numbers[_SUM], numbers[_SQUARES], bins)
                outputs.setdefault(deployment, {}).setdefault(label[0], []).append(made)
            else:
                targets[deployment] = target
                arms.setdefault(deployment, []).append(list(words[_REQUESTS : _LATENCY + len(LATENCY_EDGES_US) + 1]))
    return {
        deployment: _summed(targets[deployment], found, outputs.get(deployment, {}))
        for deployment, found in arms.items()
    }


def prometheus(arms: Mapping[str, ArmCounts]) -> str:
    """The counts in the text format of Prometheus (version 0.0.4)."""
    lines = []
    for name, help_text, value in (
        ("requests", "Requests that were answered.", "requests"),
        ("predictions", "Predictions given.", "predictions"),
        ("refused_requests", "Requests refused for what they asked (4xx).", "refused"),
        ("failed_requests", "Requests that the server could not answer (5xx).", "errors"),
    ):
        lines += [f"# HELP holdfast_{name}_total {help_text}", f"# TYPE holdfast_{name}_total counter"]
        lines += [
            f"holdfast_{name}_total{{{_labels(deployment, arm)}}} {getattr(arm, value)}"
            for deployment, arm in sorted(arms.items())
        ]
    lines += [
        "# HELP holdfast_request_seconds Time from a request's body to its answer.",
        "# TYPE holdfast_request_seconds histogram",
    ]
    for deployment, arm in sorted(arms.items()):
        about, below = _labels(deployment, arm), 0
        for edge, count in zip((*(e / 1e6 for e in LATENCY_EDGES_US), "+Inf"), arm.latency, strict=True):
            below += count
            lines.append(f'holdfast_request_seconds_bucket{{{about},le="{edge}"}} {below}')
        lines.append(f"holdfast_request_seconds_sum{{{about}}} {arm.microseconds / 1e6}")
        lines.append(f"holdfast_request_seconds_count{{{about}}} {below}")
    return "\n".join(lines) + "\n"


def _labels(deployment: str, arm: ArmCounts) -> str:
    target = arm.target.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'target="{target}",deployment="{deployment}"'


def _summed(target: str, found: list[list[int]], outputs: Mapping[str, list[OutputCounts]]) -> ArmCounts:
    requests, predictions, refused, errors, microseconds, *latency = map(sum, zip(*found, strict=True))
    return ArmCounts(
        target, requests, predictions, refused, errors, microseconds, tuple(latency),
        {
            label: OutputCounts(
                sum(one.count for one in made),
                sum(one.total for one in made),
                sum(one.squares for one in made),
                tuple(map(sum, zip(*(one.bins for one in made), strict=True))),
            )
            for label, made in outputs.items()
        },
    )  # fmt: skip


def _names(data: memoryview) -> Iterator[tuple[int, str]]:
    for place in range(len(data) // _SLOT):
        start = place * _SLOT
        (length,) = struct.unpack_from("<I", data, start)
        if not 0 < length <= _NAME - 4:
            return
        yield place, bytes(data[start + 4 : start + 4 + length]).decode()


def _claimed(folder: Path) -> int:
    """The file of the smallest number that no living worker has."""
    number = 0
    while True:
        file = os.open(folder / f"worker-{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            number += 1
        else:
            return file
