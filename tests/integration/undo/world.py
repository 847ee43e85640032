"""A project about people, made by the real components: persons, their visits, and notes on the visits."""

import csv
import random
from datetime import date, timedelta
from pathlib import Path

CONFIG = """
project: 病人
timezone: UTC
storage: {database: 'DATABASE', blobs: 'BLOBS'}
tables:
  wards: {files: "wards.csv", key: ward, delivery: full, known: period_start}
  persons:
    files: "persons.csv"
    key: 身份证
    delivery: full
    known: period_start
    links: {ward: wards}
    columns: {身份证: {type: category, personal: true}, name: {personal: true}}
  visits:
    files: ["visits.csv", "visits.parquet", "visits.xlsx", "visits.jsonl"]
    key: visit_id
    time: date
    links: {身份证: persons}
    columns: {visit_id: int, 身份证: {type: category, personal: true}, kind: category, 结果: category}
  notes:
    files: "notes.csv"
    key: note_id
    links: {visit_id: visits}
    columns: {note_id: int, visit_id: int, text: {type: text, personal: true}}
targets:
  风险:
    entity: persons
    from: visits
    cutoff: date
    context: [kind]
    task: multilabel
    labels: {高: "t.结果 = '差'", low: "t.score > 60"}
feature_groups:
  person: {entity: persons, features: [COUNT(visits), MEAN(visits.score)]}
features: {depth: 2, windows: [all], max: 20}
split: {by: random, parts: [0.7, 0.15, 0.15]}
training: {early_stopping: 3, parameters: {n_estimators: 8, max_depth: 2}}
"""
PEOPLE = 60


def person(number: int) -> str:
    """The identity number of a person: nothing else in the project contains it."""
    return f"ID-{700_000 + number * 137}号"


def name_of(number: int) -> str:
    return f"Žofie{number}-{number * 7919} 王"


def write_project(root: Path, database: str = "sqlite", blobs: str = "local") -> None:
    root.mkdir(parents=True, exist_ok=True)
    text = CONFIG.replace("DATABASE", database).replace("BLOBS", blobs)
    (root / "holdfast.yaml").write_text(text, encoding="utf-8")


def write_period(folder: Path, month: int, people: int = PEOPLE, visits: int = 250) -> Path:
    """One delivery: wards, persons, visits with a signal, and a note on every third visit."""
    folder.mkdir(parents=True)
    chance = random.Random(month)
    _csv(folder / "wards.csv", ["ward", "beds"], [["Ost", 10], ["West", 20]])
    rows = [[person(n), name_of(n), "Ost" if n % 2 else "West", 20 + n] for n in range(1, people + 1)]
    _csv(folder / "persons.csv", ["身份证", "name", "ward", "age"], rows)
    made, notes = [], []
    for number in range(visits):
        who = chance.randint(1, people)
        bad = (who % 5 == 0) == (chance.random() < 0.85)
        day = date(2024, month, 1) + timedelta(days=chance.randint(0, 26))
        visit = month * 10_000 + number
        score = chance.gauss(50 if bad else 80, 8)
        made.append(
            [visit, person(who), day, chance.choice(["Routine", "投诉"]), f"{score:.2f}", "差" if bad else "优"]
        )
        if number % 3 == 0 or who == 1:
            notes.append([month * 10_000 + number, visit, f"said {name_of(who)}, no. {number}"])
    _csv(folder / "visits.csv", ["visit_id", "身份证", "date", "kind", "score", "结果"], made)
    _csv(folder / "notes.csv", ["note_id", "visit_id", "text"], notes)
    return folder


def _csv(path: Path, head: list[str], rows: list[list[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])
