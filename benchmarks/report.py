"""What every benchmark shares: rounds taken in turn, figures as JSON, and a chart of the ratios."""

import datetime
import html
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Row:
    """`ratio` is how many times better ours is (of a limit: the share reached); `goal` is its minimum."""

    what: str
    unit: str
    ours: float | None
    against: str = ""
    theirs: float | None = None
    ratio: float | None = None
    goal: float | None = None
    note: str = ""


def in_turn(rounds: int, *sides: Callable[[], object]) -> list[list[float]]:
    """Seconds of each side, taken in turn (A B A B ...), so that a drifting machine hurts all alike."""
    seconds: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, taken in zip(sides, seconds, strict=True):
            started = time.perf_counter()
            side()
            taken.append(time.perf_counter() - started)
    return seconds


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def faster(what: str, ours: Sequence[float], against: str, theirs: Sequence[float], **more: object) -> Row:
    """A row of two series of seconds taken in turn: medians, and the median of the ratios round by round."""
    ratio = median([b / a for a, b in zip(ours, theirs, strict=True)])
    return Row(what, "s", round(median(ours), 4), against, round(median(theirs), 4), round(ratio, 2), **more)  # type: ignore[arg-type]


def write(name: str, rows: Sequence[Row], packages: Sequence[str], charted: Sequence[Row] | None = None) -> Path:
    """Write results/<name>.json and .svg (of the rows `charted`: all), print the rows, and return the JSON's path."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    cpus = os.cpu_count()
    data = {
        "benchmark": name,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {cpus} cpus, Python {platform.python_version()}, {platform.system()}",
        "versions": {package: importlib.metadata.version(package) for package in packages},
        "rows": [asdict(row) for row in rows],
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(data, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".svg").write_text(_chart(name, rows if charted is None else charted), encoding="utf-8")
    print(json.dumps(data, ensure_ascii=False, indent=1))
    return path


def _chart(name: str, rows: Sequence[Row]) -> str:
    """Bars of the ratios on a scale from 0 to the largest; a line marks 1."""
    shown = [row for row in rows if row.ratio is not None]
    widest = max([row.ratio or 0 for row in shown] + [1.0])
    scale = 380 / widest
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="860" height="{40 + 34 * len(shown)}" '
        'font-family="sans-serif" font-size="12">',
        f'<text x="10" y="20" font-size="14">{html.escape(name)}: how many times better than what it is held against</text>',
    ]
    for place, row in enumerate(shown):
        y = 36 + 34 * place
        text = f"{row.what} / {row.against}"
        met = row.goal is None or (row.ratio or 0) >= row.goal
        goal = f", goal {row.goal:g}" if row.goal is not None else ""
        parts.append(f'<text x="10" y="{y + 15}">{html.escape(text)}</text>')
        parts.append(
            f'<rect x="400" y="{y}" width="{(row.ratio or 0) * scale:.1f}" height="20" fill="{"#2a7" if met else "#c43"}"/>'
        )
        parts.append(f'<text x="{404 + (row.ratio or 0) * scale:.1f}" y="{y + 15}">{row.ratio:g}x{goal}</text>')
    x = 400 + scale
    parts.append(
        f'<line x1="{x:.1f}" y1="30" x2="{x:.1f}" y2="{36 + 34 * len(shown)}" stroke="#000" stroke-dasharray="3"/>'
    )
    return "\n".join([*parts, "</svg>", ""])
