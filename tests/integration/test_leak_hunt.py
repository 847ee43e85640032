"""Every leak that there could be is planted, each with the answer in it; the matrix does not move by a bit."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import holdfast
from holdfast.backend.features import Matrix
from holdfast.core.features.frame import Categories

PROJECT = """
project: hunt
tables:
  regions: {files: regions.csv, key: region, delivery: full}
  customers: {files: customers.csv, key: customer, delivery: full, links: {region: regions}}
  orders:
    files: orders.csv
    key: order
    time: at
    known: recorded
    links: {customer: customers}
    columns: {channel: category}
  complaints: {files: complaints.csv, time: at, links: {order: orders}, columns: {tone: category}}
targets:
  refund:
    entity: customers
    from: orders
    where: "asked"
    cutoff: at
    context: [channel]
    label: refunded
    label_known: recorded + interval 20 day
features:
  depth: 3
  windows: [all, 30d]
  primitives: [default, MEDIAN, ENTROPY, AVG_TIME_BETWEEN]
  max: 5000
  include: ["SUM(orders.amount WHERE amount > 50)", "LAST(orders.DIFF(amount BY customer))"]
split: {by: random}
"""
T = "2024-03-15T12:00:00"
CUSTOMERS = range(60)
Rows = dict[str, list[dict[str, Any]]]


def answer(customer: int) -> bool:
    return (customer * 7919) % 13 < 5


def order(name: str, customer: int, at: str, amount: float, channel: str, **other: Any) -> dict[str, Any]:
    row = {"order": name, "customer": customer, "at": at, "recorded": at, "amount": amount, "channel": channel}
    return {**row, "asked": False, "refunded": False, **other}


def world() -> dict[str, Rows]:
    """Three months of an honest world; every customer is asked about one order, at the instant T."""
    deliveries: dict[str, Rows] = {}
    for month in (1, 2, 3):
        rows: Rows = {"orders": [], "complaints": []}
        rows["regions"] = [{"region": f"区{r}", "tax": 5 + r, "grade": "ab"[r % 2]} for r in range(4)]
        rows["customers"] = [
            {"customer": c, "region": f"区{c % 4}", "segment": "xyz"[(c + month) % 3], "credit": c * 10 + month}
            for c in CUSTOMERS
        ]
        for c in CUSTOMERS:
            for n in range((c + month) % 4):
                name, at = f"{month}-{c}-{n}", f"2024-{month:02}-{1 + (c * 3 + n * 5) % 14:02}T0{n}:00:00"
                rows["orders"].append(order(name, c, at, (c * n) % 90 + 0.1, "web" if (c + n) % 2 else "门店"))
                if (c + n) % 3 == 0:
                    rows["complaints"].append({"order": name, "at": at, "tone": "mild", "points": n})
            if month == 3:
                rows["orders"].append(order(f"q{c}", c, T, 20.0, "web", asked=True, refunded=answer(c)))
        deliveries[f"2024-{month:02}"] = rows
    return deliveries


def future_events(deliveries: dict[str, Rows]) -> None:
    for c in CUSTOMERS:
        for n in range(1 + 5 * answer(c)):
            new = order(f"f{c}-{n}", c, "2024-03-20T00:00:00", 1e6, "leak", refunded=answer(c))
            deliveries["2024-03"]["orders"].append(new)


def events_at_the_very_instant(deliveries: dict[str, Rows]) -> None:
    for c in CUSTOMERS:
        new = order(f"i{c}", c, T, 1e6 * answer(c), "leak" if answer(c) else "web", refunded=answer(c))
        deliveries["2024-03"]["orders"].append(new)


def rows_known_late(deliveries: dict[str, Rows]) -> None:
    for c in CUSTOMERS:
        late = order(f"l{c}", c, "2024-02-10T00:00:00", 1e6 * answer(c), "leak", recorded="2024-03-16T00:00:00")
        deliveries["2024-03"]["orders"].append(late)


def corrected_values(deliveries: dict[str, Rows]) -> None:
    old = [row for month in ("2024-01", "2024-02") for row in deliveries[month]["orders"]]
    deliveries["2024-04"] = {
        "orders": [{**row, "amount": 1e6 * answer(row["customer"]), "channel": "leak"} for row in old],
        "regions": deliveries["2024-03"]["regions"],
        "customers": deliveries["2024-03"]["customers"],
        "complaints": [],
    }


def the_answer_in_the_child_table(deliveries: dict[str, Rows]) -> None:
    for c in CUSTOMERS:
        if answer(c):
            told = {"order": f"q{c}", "at": T, "tone": "furious", "points": 1e6}
            deliveries["2024-03"]["complaints"] += [told, {**told, "at": "2024-03-30T00:00:00"}]


def parents_changed_later(deliveries: dict[str, Rows]) -> None:
    last = deliveries["2024-03"]
    deliveries["2024-04"] = {
        "orders": [order("n", 0, "2024-04-02T00:00:00", 1.0, "web")],
        "customers": [{**row, "segment": "leak" if answer(row["customer"]) else "x", "credit": -1.0}
                      for row in last["customers"]],
        "regions": [{**row, "tax": 99, "grade": "leak"} for row in last["regions"]],
        "complaints": [],
    }  # fmt: skip


def answers_to_earlier_questions(deliveries: dict[str, Rows]) -> None:
    """Refunds of orders of March that are told twenty days later."""
    for row in deliveries["2024-03"]["orders"]:
        if row["at"] < T:
            row["refunded"] = answer(row["customer"])


def matrix_of(folder: Path, deliveries: dict[str, Rows]) -> Matrix:
    folder.mkdir()
    (folder / "holdfast.yaml").write_text(PROJECT, encoding="utf-8")
    with holdfast.open(folder) as project:
        for period in sorted(deliveries):
            files = []
            for table, rows in deliveries[period].items():
                path = folder / f"{table}.csv"
                names = list(rows[0]) if rows else ["order", "at", "tone", "points"]
                with path.open("w", encoding="utf-8", newline="") as file:
                    writer = csv.DictWriter(file, names)
                    writer.writeheader()
                    writer.writerows(rows)
                files.append(path)
            project.ingest(period, files)
        return project.matrix("refund").matrix


def bits(matrix: Matrix) -> dict[str, list[object]]:
    """Every feature by entity, so that equal means the same bits."""
    order = sorted(range(len(matrix.entities)), key=lambda row: matrix.entities[row].as_py())
    return {
        name: list(column.decode()[order]) if isinstance(column, Categories) else [column[r].tobytes() for r in order]
        for name, column in matrix.frame.columns.items()
    }


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    return matrix_of(tmp_path_factory.mktemp("hunt") / "p", world())


LEAKS = [
    future_events,
    events_at_the_very_instant,
    rows_known_late,
    corrected_values,
    the_answer_in_the_child_table,
    parents_changed_later,
    answers_to_earlier_questions,
]


@pytest.mark.parametrize("plant", LEAKS, ids=lambda plant: plant.__name__)
def test_a_planted_leak_moves_nothing(honest: Matrix, plant: Callable[[dict[str, Rows]], None], tmp_path: Path) -> None:
    deliveries = world()
    plant(deliveries)
    assert deliveries != world()
    planted = matrix_of(tmp_path / "p", deliveries)
    assert planted.feature_set.names == honest.feature_set.names
    assert bits(planted) == bits(honest)


def test_the_world_is_worth_hunting_in(honest: Matrix) -> None:
    """The features are many, look everywhere, and differ between customers."""
    names = honest.feature_set.names
    assert len(honest.entities) == len(CUSTOMERS)
    assert len(names) > 300
    for part in ("regions.", "complaints", "segment", "WHERE channel = web", "30d", "DIFF", "COUNT(customers)"):
        assert any(part in name for name in names), part
    assert sum(len(set(values)) > 1 for values in bits(honest).values()) > 200
