"""`make bench NAME=serving`: the prediction server against the Python model servers, and against the limits of its stack.

One model (XGBoost, binary, 30 features, 200 trees of depth 6), one payload (a JSON row), one load (`wrk`, 100 connections,
2 threads, on the machine that serves), two workers each. Servers run one at a time, in rounds that are taken in turn; the
answers of each are compared with the model's before it is timed, and a row with a failed request is void. Two of them are
ours: `holdfast serve` as it is shipped, and the bare path (`bare.py`), which decodes, scores and answers and does nothing
else. Every peer has an environment of its own under `benchmarks/.envs/`, made by pip at its first run; one that does not
install or start is a row without a figure and with the reason.
"""

import argparse
import hashlib
import pickle
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import made  # noqa: E402
from extras import extras  # noqa: E402
from load import CONNECTIONS, Load, need_wrk, wrk_version  # noqa: E402
from ours import FULL, full, given_key  # noqa: E402
from peers import ENVS, PEERS, UNINSTALLABLE, WORKERS, Peer, install  # noqa: E402
from processes import Failed, inherit_orphans  # noqa: E402
from rounds import Found, Side, measure  # noqa: E402

from report import Row, median, write  # noqa: E402

BARE, USUAL, TUNED = "bare path", "FastAPI as usually written", "FastAPI tuned by hand"
SAME, NGINX = "constant answer, same server", "constant answer, nginx"
LIMITS = (SAME, NGINX, "constant answer, no server but the loop", "our kernel, no server but the loop")
GOALS = {USUAL: 24.0, TUNED: 5.0, SAME: 0.5}
"""Of the requests a second of the bare path."""
FIGURES = (("requests", "req/s", "rate"), ("p50", "ms", "p50"), ("p99", "ms", "p99"),
           ("CPU of a request", "µs", "cpu"), ("memory", "MB", "memory"))  # fmt: skip
Pair = tuple[Load, Load]


def kept_by_code() -> Path:
    """The folder of what this very code makes, so that it is made once; what other code made is removed."""
    digest = hashlib.sha256()
    for file in [Path(made.__file__), *sorted((ROOT / "src").rglob("*.py"))]:
        digest.update(file.read_bytes())
    kept = ENVS / f"serving-{digest.hexdigest()[:12]}"
    for old in ENVS.glob("serving-*"):
        if old != kept:
            shutil.rmtree(old)
    return kept


def world(kept: Path, folder: Path) -> made.World:
    """The model, made in `kept` (a minute) or there already, with a copy of its project in `folder`."""
    if not (kept / ".ready").exists():
        print("making the model", file=sys.stderr, flush=True)
        (kept / ".ready").write_bytes(pickle.dumps(made.world(kept)))
    found: made.World = pickle.loads((kept / ".ready").read_bytes())  # our own file, made by the same code
    project = folder / "project"
    shutil.copytree(found.project, project)
    return replace(found, project=project, bundle=project / found.bundle.relative_to(found.project))


def sides_of(wanted: Sequence[Peer], folder: Path) -> tuple[list[Side], dict[str, str]]:
    """The peers that install, and why the others do not."""
    sides, absent = [], dict(UNINSTALLABLE)
    for number, peer in enumerate(wanted):
        try:
            sides.append(Side(peer, install(peer), folder / f"peer{number}"))
        except Failed as error:
            absent[peer.name] = str(error)
            print(f"{peer.name}: {error}", file=sys.stderr, flush=True)
    return sides, absent


def pairs(found: dict[str, Found], ours: str, theirs: str) -> list[Pair]:
    """The rounds in which both were measured."""
    mine, other = found[ours].loads, found[theirs].loads
    return [(a, b) for a, b in zip(mine, other, strict=True) if a and b]


def compared(found: dict[str, Found], ours: str, theirs: str, figure: tuple[str, str, str], goal: float | None,
             note: str) -> Row:  # fmt: skip
    """A row of one figure: medians of the rounds, and the median of the ratios round by round."""
    what, unit, name = figure
    both = pairs(found, ours, theirs)
    if not both:
        reason = found[theirs].reason or found[ours].reason
        alone = [getattr(one, name) for one in found[ours].loads if one]
        return Row(
            f"{what}, {ours}",
            unit,
            rounded(median(alone)) if alone else None,
            theirs,
            goal=goal,
            note=f"not measured: {reason}",
        )
    values = [(getattr(a, name), getattr(b, name)) for a, b in both]
    more = name == "rate"
    ratio = median([(a / b if more else b / a) if a and b else 0.0 for a, b in values])
    mine, other = (median([pair[side] for pair in values]) for side in (0, 1))
    return Row(f"{what}, {ours}", unit, rounded(mine), theirs, rounded(other), rounded(ratio), goal, note)


def rounded(value: float) -> float:
    """Three figures, or whole numbers."""
    return round(value) if value >= 1000 else float(f"{value:.3g}")


def words(sides: Iterable[Side], found: dict[str, Found]) -> dict[str, str]:
    """What is to be said of each peer."""
    said = {}
    for side in sides:
        one = found[side.peer.name]
        parts = [one.version, side.peer.note, one.said]
        if side.peer.checked and any(one.loads):
            parts.append(
                f"answers within {one.worst:.0e} of the model's" if one.worst else "answers equal to the model's"
            )
        if one.reason:
            parts.append(f"{sum(load is None for load in one.loads)} rounds failed: {one.reason}")
        said[side.peer.name] = "; ".join(filter(None, parts))
    return said


def table(
    sides: Sequence[Side], found: dict[str, Found], absent: dict[str, str], about: str
) -> tuple[list[Row], list[Row]]:
    """All rows of the rounds, and those for the chart."""
    said = words(sides, found)
    rate, _, p99, *_ = FIGURES
    limits = [name for name in LIMITS if name in found]
    servers = [name for name in found if name not in (FULL, BARE, *limits)]
    chief: list[Row] = []
    for theirs in [*servers, *limits]:
        note = f"{about}; {said[theirs]}" if theirs == servers[0] else said[theirs]
        chief.append(compared(found, BARE, theirs, rate, GOALS.get(theirs), note))
    chief += [compared(found, BARE, USUAL, p99, 10.0, said[USUAL])] if USUAL in found else []
    chief.append(compared(found, FULL, BARE, rate, 0.7, said[FULL]))
    chief += [compared(found, FULL, theirs, rate, None, said[theirs]) for theirs in [*servers, *limits]]
    rows = list(chief)
    for name, reason in absent.items():
        rows.append(Row(f"requests, {BARE}", "req/s", chief[0].ours if chief else None, name, goal=GOALS.get(name),
                        note=f"not measured: {reason}"))  # fmt: skip
    for figure in FIGURES[1:]:
        rows += [compared(found, FULL, theirs, figure, None, "") for theirs in [*servers, BARE, *limits]]
        rows += [compared(found, BARE, theirs, figure, None, "") for theirs in [*servers, *limits]
                 if figure is not p99 or theirs != USUAL]  # fmt: skip
    return rows, chief


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few minutes' version: one short round")
    parser.add_argument("--rounds", type=int, help="rounds (3; quick: 1)")
    parser.add_argument(
        "--only", metavar="NAMES", help="comma-separated: peers whose name contains one of these, and ours"
    )
    parser.add_argument("--no-key", action="store_true", help="no API key: the server is open to this machine")
    parser.add_argument("--no-extras", action="store_true", help="only the rounds")
    parser.add_argument("--dry", action="store_true", help="write no results")
    return parser.parse_args()


def chosen(only: str | None) -> list[Peer]:
    if not only:
        return PEERS
    parts = [part.strip().lower() for part in only.split(",")]
    return [peer for peer in PEERS if peer.name == BARE or any(part in peer.name.lower() for part in parts)]


def main() -> None:
    given = arguments()
    need_wrk()
    inherit_orphans()
    rounds, seconds = given.rounds or (1 if given.quick else 3), 2.0 if given.quick else 5.0
    ENVS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="serving", dir=ENVS, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        kept = kept_by_code()
        model = world(kept, folder)
        peers, absent = sides_of(chosen(given.only), folder)
        ours = full(model.project, folder / "ours", None if given.no_key else given_key(model.project))
        sides = [ours, *peers]
        found = measure(sides, model, rounds, seconds, folder)
        about = (f"{wrk_version()}, {CONNECTIONS} connections, rounds: {rounds} of {seconds:.0f} s, {WORKERS} workers, one JSON row of "
                 f"{made.FEATURES} features a request, {made.TREES} trees of depth {made.DEPTH}")  # fmt: skip
        rows, chief = table(sides, found, absent, about)
        if not given.no_extras:
            usual = next((side for side in peers if side.peer.name == USUAL), None)
            rows += extras(model, ours, usual, found, folder, kept, quick=given.quick)
    if given.dry:
        for row in rows:
            print(row)
    else:
        write("serving", rows, ["httptools", "uvloop", "msgspec", "numba", "numpy", "xgboost-cpu"], chief)


if __name__ == "__main__":
    main()
