"""Against Featuretools: equal values, then speed, over one world and the same 131 definitions."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import made
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from holdfast.core.features.definitions import FeatureSet
from holdfast.core.features.evaluate import evaluate
from holdfast.core.features.exchange import to_featuretools
from holdfast.core.features.frame import Categories, FeatureFrame
from holdfast.core.features.world import World
from holdfast.core.schema import DType
from report import Row, median

HERE = Path(__file__).resolve().parent
ENV = HERE.parent / ".envs" / "featuretools"
NEEDED = ["featuretools==1.31.0", "pandas<3", "pyarrow", "setuptools"]
TOLERANCE = 1e-9
Asked = tuple[np.ndarray, np.ndarray]
"""Entities and cutoffs (int64 microseconds), of equal length."""


def environment() -> Path:
    """The interpreter of Featuretools' own environment, made at the first call."""
    python = ENV / "bin" / "python"
    if not (ENV / ".ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(ENV)], check=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *NEEDED], check=True
        )
        (ENV / ".ready").touch()
    return python


class Peer:
    """Featuretools in a process of its own; its start and the building of its entity set are not timed."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process = process
        self._folder = folder
        self.about: dict[str, Any] = {}

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("Featuretools' process ended; its words are above")
        return dict(json.loads(line))

    def run(self, asked: Asked, **options: Any) -> tuple[float, pd.DataFrame]:
        """Seconds and values for the pairs asked, in their order."""
        question, answer = self._folder / "asked.parquet", self._folder / "answer.parquet"
        moments = pa.array(asked[1], pa.int64()).cast(DType.TIME.arrow)
        pq.write_table(pa.table({"id": asked[0], "time": moments}), question)
        seconds = self.ask(do="run", asked=str(question), out=str(answer), options=options)["seconds"]
        return float(seconds), pd.read_parquet(answer)


@contextmanager
def peer_of(tables: dict[str, pa.Table], found: FeatureSet) -> Iterator[Peer]:
    """Featuretools with the tables and the features loaded; the features go through its own `load_features`."""
    python = environment()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, table in tables.items():
            pq.write_table(table, root / f"{name}.parquet")
        translated = to_featuretools(found)
        assert not translated.left_out, translated.left_out
        (root / "features.json").write_text(json.dumps(translated.document), encoding="utf-8")
        command = [str(python), "-W", "ignore", str(HERE / "peer.py")]
        # Ours must not be importable there: what calculates is Featuretools alone.
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean)
        try:
            peer = Peer(process, root)
            peer.about = peer.ask(do="load", folder=folder, schema=made.SCHEMA.to_dict())
            yield peer
        finally:
            assert process.stdin
            process.stdin.close()
            process.wait(timeout=60)


def every(customers: int, cutoffs: list[int]) -> Asked:
    """All customers at each cutoff."""
    return np.tile(np.arange(customers), len(cutoffs)), np.repeat(np.array(cutoffs, np.int64), customers)


def own(customers: int) -> Asked:
    """Each customer at a cutoff of its own, spread over the second half of the time."""
    days = made.DAYS * 43_200 * (1 + (np.arange(customers) * 7919 % customers) / customers)
    return np.arange(customers), (made.START + days.astype(np.int64) * 1_000_000)


def cold(tables: dict[str, pa.Table], found: FeatureSet, asked: Asked) -> FeatureFrame:
    """What counts: from Arrow tables in memory to values."""
    return evaluate(found, World.build(made.SCHEMA, tables), pa.array(asked[0]), asked[1])


ARGUED = (
    (r"NUM_UNIQUE\(", "NUM_UNIQUE is null here where no value is known, there 0",
     lambda ours, theirs: np.isnan(ours) & (theirs == 0)),
    (r"(?!COUNT|MODE|NUM_UNIQUE)\w+\(accounts\.NUM_UNIQUE\(", "and so what is stacked on it: one 0 more or less",
     lambda ours, theirs: np.isnan(ours) | np.isfinite(theirs)),
    (r"STD\(", "the spread of nearly equal numbers, rounding of a zero",
     lambda ours, theirs: (np.abs(ours) < 1e-6) & (np.abs(theirs) < 1e-6)),
)  # fmt: skip
"""Differences that are meant: names, in words, and which values may differ so."""


@dataclass
class Compared:
    """Counts of values by feature that are `unlike`, and that are so for an `argued` reason."""

    values: int = 0
    unlike: dict[str, int] = field(default_factory=dict)
    argued: dict[str, int] = field(default_factory=dict)
    worst: float = 0.0

    @property
    def share(self) -> float:
        """Of the values, those that are equal or differ for an argued reason."""
        return 1.0 - sum(self.unlike.values()) / self.values

    def words(self) -> str:
        words = f"{self.values:,} values of {made.FEATURES} features compared, numbers to {TOLERANCE:g} (worst {self.worst:.0e}): "
        words += _listed(self.unlike, "differ") if self.unlike else "no difference" + (" but" if self.argued else "")
        if self.argued:
            reasons = "; ".join(why for names, why, _ in ARGUED if any(re.match(names, n) for n in self.argued) and why)
            words += " " + _listed(self.argued, "argued") + f" ({reasons})"
        return words


def _listed(counts: dict[str, int], word: str) -> str:
    return f"{sum(counts.values()):,} {word}: " + ", ".join(f"{name} {count:,}" for name, count in counts.items())


def compare(ours: FeatureFrame, theirs: pd.DataFrame, edge: np.ndarray | None = None) -> Compared:
    """Feature by feature: categories exactly, numbers to 1e-9 relative."""
    found = Compared()
    assert set(ours.columns) == set(theirs.columns), set(ours.columns) ^ set(theirs.columns)
    for name, values in ours.columns.items():
        found.values += len(ours)
        if isinstance(values, Categories):
            other = theirs[name].to_numpy(object)
            known = np.array([None if value is None or value != value else value for value in other], object)
            wrong = values.decode() != known
        else:
            other = theirs[name].to_numpy(np.float64)
            apart = np.abs(values - other) / np.maximum(np.maximum(np.abs(values), np.abs(other)), 1e-300)
            apart[(values == other) | (np.isnan(values) & np.isnan(other))] = 0.0
            wrong = ~(apart <= TOLERANCE)
            found.worst = max(found.worst, float(apart[~wrong].max(initial=0.0)))
            for names, _, so in ARGUED:
                if re.match(names, name) and (meant := int((wrong & so(values, other)).sum())):
                    found.argued[name] = meant
                    wrong &= ~so(values, other)
        if edge is not None and (wrong & edge).any():
            found.argued[name] = found.argued.get(name, 0) + int((wrong & edge).sum())
            wrong &= ~edge
        if wrong.any():
            found.unlike[name] = int(wrong.sum())
    return found


@dataclass(frozen=True)
class Case:
    """`part`: what of `asked` Featuretools runs; its time is multiplied by `times`."""

    what: str
    features: FeatureSet
    asked: Asked
    part: Asked
    times: float
    goal: float | None
    note: str
    options: dict[str, Any]


def at_the_edge(tables: dict[str, pa.Table], asked: Asked) -> np.ndarray:
    """Pairs with a transaction at the very beginning of the window: in it here ([T - w, T)), not there ((T - w, T])."""
    of_account = tables["accounts"]["customer"].to_numpy()[tables["transactions"]["account"].to_numpy()]
    moments = tables["transactions"]["at"].cast(pa.int64()).to_numpy()
    edges = set(zip(of_account.tolist(), (moments + made.WINDOW).tolist(), strict=True))
    return np.array([pair in edges for pair in zip(asked[0].tolist(), asked[1].tolist(), strict=True)])


def cases(customers: int, quick: bool) -> list[Case]:
    whole = made.feature_set()
    one, months = every(customers, [made.ONE]), every(customers, made.MONTHS)
    few = 5 if quick else 20
    alone = own(customers)
    some = np.linspace(0, customers - 1, few).astype(int)
    middle = every(customers, [made.MONTHS[5], made.MONTHS[6]])
    return [
        Case("features at one cutoff", whole, one, one, 1, 50, "", {}),
        Case("features at 12 monthly cutoffs", whole, months, middle, 6, 500,
             "Featuretools ran cutoffs 6 and 7 of 12 and is extrapolated by 6 (its time grows with the rows before a cutoff, "
             "so the middle ones are its average)", {}),
        Case("features at unique cutoffs", whole, alone, (alone[0][some], alone[1][some]), customers / few, None,
             f"Featuretools ran {few} of {customers:,} customers, spread evenly, and is extrapolated linearly", {}),
        Case("features in windows of 90 days", made.windowed(whole, made.WINDOW), one, one, 1, None,
             "training_window=90 days there, a window on every aggregate over transactions here; accounts have no time, so its "
             "last_time_index plays no part", {"training_window": "90 days"}),
    ]  # fmt: skip


def rows(tables: dict[str, pa.Table], customers: int, quick: bool) -> list[Row]:
    """Equality first, then medians of rounds taken in turn."""
    found = []
    whole = made.feature_set()
    # What Featuretools sees is decided by its call (rows at the cutoff itself: yes), windows by `training_window`.
    with peer_of(tables, whole) as peer:
        size = ", ".join(f"{table.num_rows:,} {name}" for name, table in tables.items())
        against = f"Featuretools {peer.about['version']}, pandas {peer.about['pandas']}"
        for case in cases(customers, quick):
            compiled = cold(tables, case.features, case.part)
            world = World.build(made.SCHEMA, tables)
            evaluate(case.features, world, pa.array(case.asked[0]), case.asked[1])
            mine, warm, theirs, compared = [], [], [], Compared()
            for turn in range(1 if quick else 3):
                # Untimed: for the minutes that Featuretools took, this process stood still and its memory was paged out.
                cold(tables, case.features, case.asked)
                started = time.perf_counter()
                cold(tables, case.features, case.asked)
                mine.append(time.perf_counter() - started)
                started = time.perf_counter()
                evaluate(case.features, world, pa.array(case.asked[0]), case.asked[1])
                warm.append(time.perf_counter() - started)
                seconds, values = peer.run(case.part, **case.options)
                theirs.append(seconds * case.times)
                if turn == 0:
                    edge = at_the_edge(tables, case.part) if case.options else None
                    compared = compare(compiled, values, edge)
            ratio = median([b / a for a, b in zip(mine, theirs, strict=True)])
            words = [f"{made.FEATURES} features, {size}, {len(case.asked[0]):,} (customer, cutoff) pairs", compared.words(),
                     f"ours cold, from Arrow tables; warm {median(warm):.3f} s", case.note]  # fmt: skip
            found.append(Row(case.what, "s", round(median(mine), 4), against, round(median(theirs), 2), round(ratio, 1),
                             case.goal, "; ".join(word for word in words if word)))  # fmt: skip
            equal = Row(
                f"{case.what}: equal values",
                "share",
                compared.share,
                against,
                1.0,
                compared.share,
                1.0,
                compared.words(),
            )
            found.append(equal)
            print(found[-2].what, found[-2].ratio, compared.words(), file=sys.stderr)
    return found
