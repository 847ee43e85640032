"""A project with two entities, three deliveries and five groups."""

import csv
import random
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest

from holdfast.frontend.client import Project

TABLES = """
project: 门店 features
timezone: Asia/Shanghai
tables:
  shops:
    files: shops.csv
    key: shop_id
    delivery: full
    known: period_start
    links: {district: districts}
    columns: {shop_id: int, 区域: category, owner: {type: text, personal: true}}
  districts: {files: districts.csv, key: name, delivery: full, known: period_start, columns: {name: category}}
  visits:
    files: visits.csv
    key: visit_id
    time: date
    links: {shop_id: shops}
    columns: {visit_id: int, shop_id: int, 结果: category, type: category, ok: bool, score: float, visitors: int}
targets:
  bad: {entity: shops, from: visits, cutoff: date, context: [type], task: binary, label: "t.结果 = '差'"}
features: {depth: 2, windows: [all, 30d], max: 80}
"""
GROUPS = """
feature_groups:
  门店统计:
    entity: shops
    features: ["MEAN(visits.score)", "COUNT(visits, 30d)", "MODE(visits.结果)", "LAST(visits.ok)", "区域", "seats"]
    owner: 数据组
    description: what visits say of a shop
    tags: {domain: 卫生, tier: gold}
  recent: {entity: shops, features: ["*30d)"], ttl: 36500d}
  districts:
    entity: districts
    features: [COUNT(shops), SUM(shops.seats), "MEAN(shops.COUNT(visits))"]
    owner: ops-team
  risk: {target: bad, owner: ml}
"""


def deliver(folder: Path, month: int, visits: int = 300) -> Path:
    """One month's files; scores are dyadic fractions, so that text and number are one."""
    folder.mkdir(parents=True)
    chance = random.Random(month)
    with (folder / "districts.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["name", "people"], ["东城", 900], ["西城", 800], ["North Beach", 50]])
    with (folder / "shops.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [[n, ["东", "西"][n % 2], ["东城", "西城", ""][n % 3], n % 40, f"业主{n}"] for n in range(1, 38 + month)]
        csv.writer(file).writerows([["shop_id", "区域", "district", "seats", "owner"], *rows])
    with (folder / "visits.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["visit_id", "shop_id", "date", "score", "结果", "type", "ok", "visitors"])
        for n in range(visits):
            day = date(2024, month, 1) + timedelta(days=chance.randint(0, 27))
            score = "" if chance.random() < 0.1 else chance.randint(0, 800) / 8
            row = [month * 10_000 + n, chance.randint(1, 37), day, score, chance.choice(["差", "良", "优", ""])]
            writer.writerow([*row, chance.choice(["a", "b"]), chance.choice(["true", "false"]), chance.randint(0, 9)])
    return folder


def make(root: Path, groups: str = GROUPS, months: int = 3) -> Project:
    root.mkdir(parents=True)
    (root / "holdfast.yaml").write_text(TABLES + groups, encoding="utf-8")
    project = Project(root)
    for month in range(1, months + 1):
        project.ingest(f"2024-{month:02}", [deliver(root / "delivered" / f"2024-{month:02}", month)])
    return project


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = make(tmp_path / "项目")
    yield made
    made.close()


@pytest.fixture
def regrouped(project: Project) -> Iterator[Callable[[str], Project]]:
    """The same project, opened again with other groups."""
    opened = []

    def change(groups: str) -> Project:
        (project.root / "holdfast.yaml").write_text(TABLES + groups, encoding="utf-8")
        opened.append(Project(project.root))
        return opened[-1]

    yield change
    for one in opened:
        one.close()
