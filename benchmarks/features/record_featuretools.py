"""Writes the answers of Featuretools that tests/unit/features/featuretools holds ours against.

Run it with an interpreter that has `featuretools==1.31.0 "pandas<3" pyarrow setuptools` (the environment that
`make bench NAME=features` makes will do), from anywhere: `python benchmarks/features/record_featuretools.py`.
Each file has a small deterministic world (schema and rows), and for each case the question, Featuretools' own
`save_features` document and the values it calculated. Tests read the files; they need no Featuretools.
"""

import json
import logging
import os
import random
import sys
import warnings
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import featuretools as ft
import numpy as np
import pandas as pd
from featuretools import primitives as p
from woodwork.logical_types import (
    BooleanNullable,
    Categorical,
    Datetime,
    Double,
    Integer,
    IntegerNullable,
    NaturalLanguage,
)

OUT = Path(__file__).resolve().parents[2] / "tests" / "unit" / "features" / "featuretools"
START = datetime(2023, 1, 1)
TYPES = {"bool": BooleanNullable, "int": IntegerNullable, "float": Double, "category": Categorical,
         "text": NaturalLanguage, "time": Datetime}  # fmt: skip
AGGREGATES = ["count", "sum", "mean", "std", "min", "max", "first", "last", "trend", "num_unique", "mode",
              "percent_true", "time_since_last", "time_since_first"]  # fmt: skip
MORE = ["median", "skew", "variance", "entropy", "num_true", "any", "all", "avg_time_between", "percent_unique",
        "max_min_delta", "n_unique_days", "count_above_mean", "kurtosis"]  # fmt: skip
CALENDAR = ["year", "month", "day", "weekday", "hour", "is_weekend", "time_since"]
Rows = list[dict[str, Any]]


def table(name: str, columns: str, key: str, time: str | None = None, **links: str) -> dict[str, Any]:
    """A table as `Schema.to_dict` writes it, of `name:type` words."""
    pairs = [word.split(":") for word in columns.split()]
    described = [
        {"name": n, "dtype": t, "nullable": True, "personal": False, "unit": "", "description": ""} for n, t in pairs
    ]
    return {"name": name, "columns": described, "key": [key], "time": time, "links": links, "known": "event"}


def moment(rng: random.Random, days: int) -> datetime:
    """On whole hours, so that ties happen, and some on the cutoffs themselves."""
    return START + timedelta(hours=rng.randrange(days * 24))


def shop() -> tuple[list[dict[str, Any]], dict[str, Rows]]:
    """customers <- orders <- items -> products: nulls, Unicode, ties of modes, a customer without orders."""
    rng = random.Random(7)
    tables = [
        table("products", "id:int 品类:category weight:float", "id"),
        table("customers", "id:int 城市:category age:float vip:bool joined:time", "id"),
        table("orders", "id:int customer:int at:time total:float channel:category paid:bool memo:text", "id", "at", customer="customers"),
        table("items", "id:int order:int product:int at:time qty:int price:float", "id", "at", order="orders", product="products"),
    ]  # fmt: skip

    def some(value: Any, share: float = 0.9) -> Any:
        return value if rng.random() < share else None

    rows: dict[str, Rows] = {
        "products": [{"id": i, "品类": some(rng.choice(["茶", "书", "é", "z"])), "weight": some(rng.randint(1, 400) / 8)} for i in range(12)],
        "customers": [{"id": i, "城市": some(rng.choice(["北京", "Zürich", "Lima"])), "age": some(float(rng.randint(18, 80))),
                       "vip": some(rng.random() < 0.4), "joined": START - timedelta(hours=rng.randrange(9000))} for i in range(14)],
        "orders": [], "items": [],
    }  # fmt: skip
    words = ["gift", "急件", "call first", "no nuts please", ""]
    for i in range(130):
        at = moment(rng, 180)
        rows["orders"].append({
            "id": i, "customer": rng.randrange(13), "at": at, "total": some(rng.randint(-50, 4000) / 16, 0.85),
            "channel": some(rng.choice(["web", "shop", "电话"])), "paid": some(rng.random() < 0.7), "memo": some(rng.choice(words)),
        })  # fmt: skip
    for i in range(330):
        order = rows["orders"][rng.randrange(126)]
        at = order["at"] + timedelta(hours=rng.randrange(72))
        rows["items"].append({"id": i, "order": order["id"], "product": rng.randrange(11), "at": at,
                              "qty": some(rng.randint(1, 9)), "price": some(rng.randint(1, 900) / 32)})  # fmt: skip
    return tables, rows


def transfers() -> tuple[list[dict[str, Any]], dict[str, Rows]]:
    """Two links between the same tables: who paid and who was paid."""
    rng = random.Random(11)
    tables = [
        table("accounts", "id:int kind:category", "id"),
        table("transfers", "id:int payer:int payee:int at:time amount:float urgent:bool", "id", "at", payer="accounts", payee="accounts"),
    ]  # fmt: skip
    rows: dict[str, Rows] = {
        "accounts": [{"id": i, "kind": rng.choice(["现金", "card"])} for i in range(9)],
        "transfers": [],
    }
    for i in range(120):
        rows["transfers"].append({"id": i, "payer": rng.randrange(8), "payee": rng.randrange(9), "at": moment(rng, 120),
                                  "amount": rng.randint(1, 9000) / 32, "urgent": rng.random() < 0.3})  # fmt: skip
    return tables, rows


def staff() -> tuple[list[dict[str, Any]], dict[str, Rows]]:
    """A table with a link to itself."""
    rng = random.Random(13)
    tables = [table("staff", "id:int boss:int pay:float team:category", "id", boss="staff")]
    return tables, {"staff": [{"id": i, "boss": rng.randrange(i) if i else 0, "pay": rng.randint(80, 900) / 4,
                               "team": rng.choice(["甲", "b"])} for i in range(30)]}  # fmt: skip


def entityset(tables: list[dict[str, Any]], rows: dict[str, Rows]) -> ft.EntitySet:
    es = ft.EntitySet("recorded")
    for described in tables:
        names = [column["name"] for column in described["columns"]]
        frame = pd.DataFrame(rows[described["name"]], columns=names)
        types = {column["name"]: TYPES[column["dtype"]] for column in described["columns"]}
        # Several of its primitives (SKEW, TREND ...) fail on nullable integers that hold a null.
        types |= {n: Double if frame[n].hasnans else Integer for n, kind in types.items() if kind is IntegerNullable}
        es.add_dataframe(
            frame, described["name"], index=described["key"][0], time_index=described["time"], logical_types=types
        )
    for described in tables:
        for column, parent in described["links"].items():
            es.add_relationship(parent, "id", described["name"], column)
    return es


def plain(value: Any) -> Any:
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and np.isnan(value)):
        return None
    if isinstance(value, (pd.Timestamp, datetime)):
        return value.isoformat()
    return value.item() if isinstance(value, np.generic) else value


def case(
    documents: list[Any], es: ft.EntitySet, name: str, features: list[Any], asked: pd.DataFrame, **options: Any
) -> dict[str, Any]:
    """One question: what Featuretools calculates for (entity, cutoff) pairs, in the order asked."""
    matrix = ft.calculate_feature_matrix(features, es, cutoff_time=asked, cutoff_time_in_index=True, **options)
    keys = list(zip(asked["id"], asked["time"], strict=True))
    matrix = matrix.loc[keys]
    document = json.loads(ft.save_features(features))
    del document["entityset"]
    if document not in documents:
        documents.append(document)
    options = {k: str(v) if isinstance(v, ft.Timedelta) else v for k, v in options.items()}
    return {
        "name": name, "entity": features[0].dataframe_name, "options": options, "document": documents.index(document),
        "entities": [int(key) for key, _ in keys], "cutoffs": [time.isoformat() for _, time in keys],
        "values": {column: [plain(value) for value in matrix[column]] for column in matrix.columns},
    }  # fmt: skip


def at(es: ft.EntitySet, entity: str, *times: datetime) -> pd.DataFrame:
    """Every entity at every time."""
    ids = list(es[entity]["id"])
    return pd.DataFrame([(i, pd.Timestamp(t)) for t in times for i in ids], columns=["id", "time"])


def synthesised(es: ft.EntitySet, entity: str, aggregates: list[Any], transforms: list[Any], **more: Any) -> list[Any]:
    found: list[Any] = ft.dfs(entityset=es, target_dataframe_name=entity, agg_primitives=aggregates,
                              trans_primitives=transforms, features_only=True, **{"max_depth": 2, **more})  # fmt: skip
    return found


def shop_cases(documents: list[Any], es: ft.EntitySet) -> list[dict[str, Any]]:
    cutoff, later = START + timedelta(days=120), START + timedelta(days=150, hours=7)
    one = at(es, "customers", cutoff)
    every = at(es, "customers", *(START + timedelta(days=30 * i) for i in range(1, 7)))
    # Its calendar transforms fail on the LAST time of nobody's orders: moments are left to TIME_SINCE_*.
    moments = {name: {"ignore_columns": {"orders": ["at"], "items": ["at"]}} for name in ("first", "last")}
    base = synthesised(es, "customers", AGGREGATES, CALENDAR, primitive_options=moments)
    own = pd.DataFrame(
        {"id": range(14), "time": [pd.Timestamp(START + timedelta(days=9 * i, hours=i)) for i in range(14)]}
    )
    more = synthesised(es, "orders", MORE, ["is_null", "num_words", "num_characters", "absolute"], max_depth=1)
    more += synthesised(es, "customers", MORE, ["is_null", "num_words", "num_characters", "absolute"], max_depth=1)
    es.add_interesting_values(dataframe_name="orders", values={"channel": ["web", "电话"], "paid": [True]})
    where = [f for f in synthesised(es, "customers", ["count", "mean", "time_since_last"], [], where_primitives=["count", "mean", "time_since_last"])
             if "WHERE" in f.get_name()]  # fmt: skip
    several = synthesised(es, "customers", [p.NMostCommon(n=2)], [])
    total, items = ft.Feature(es["orders"].ww["total"]), ft.Feature(es["items"].ww["id"])
    windows = [
        ft.Feature(base, parent_dataframe_name="customers", primitive=primitive, use_previous=length)
        for primitive, base in (
            (p.Mean, total),
            (p.Sum, total),
            (p.Max, total),
            (p.Count, ft.Feature(es["orders"].ww["id"])),
            (p.Count, items),
        )
        for length in ("30 days", "7 days", "36 hours", "2 months")
    ]
    per = synthesised(
        es,
        "customers",
        ["sum"],
        [],
        groupby_trans_primitives=["cum_sum", "cum_mean", "cum_max", "cum_count", "diff", p.Lag(periods=1)],
    )
    per += synthesised(es, "customers", ["last"], ["percentile"], groupby_trans_primitives=["cum_sum", "diff"])
    orders = synthesised(es, "orders", ["count", "sum", "mean", "mode"], ["month"])
    return [
        case(documents, es, "one cutoff", base, one),
        case(documents, es, "one cutoff, exclusive", base, one, include_cutoff_time=False),
        case(documents, es, "six cutoffs of everyone", base, every),
        case(documents, es, "a cutoff of one's own", base, own),
        case(documents, es, "training window", base, one, training_window="45 days", include_cutoff_time=False),
        case(documents, es, "more primitives of orders", [f for f in more if f.dataframe_name == "orders"], at(es, "orders", later)),
        case(documents, es, "more primitives", [f for f in more if f.dataframe_name == "customers"], at(es, "customers", cutoff, later)),
        case(documents, es, "conditions", where, at(es, "customers", cutoff, later)),
        case(documents, es, "several outputs", several, one),
        case(documents, es, "windows of features", windows, at(es, "customers", cutoff, later), include_cutoff_time=False),
        case(documents, es, "per entity", list({f.get_name(): f for f in per}.values()), one),
        case(documents, es, "orders, with their customers", orders, at(es, "orders", later)),
    ]  # fmt: skip


def leak() -> dict[str, Any]:
    """One customer, one order before a training window; then the same with an item that happens after the cutoff.

    Nothing of the later item was known at the cutoff, but `last_time_index` lets it pull the order into the window.
    """
    tables = [table("customers", "id:int", "id"), table("orders", "id:int customer:int at:time", "id", "at", customer="customers"),
              table("items", "id:int order:int at:time", "id", "at", order="orders")]  # fmt: skip
    cutoff, documents, worlds = START + timedelta(days=100), [], []
    for items in (10, 120):  # the day of the order's one item: before the window, and after the cutoff
        rows: dict[str, Rows] = {"customers": [{"id": 0}], "orders": [{"id": 0, "customer": 0, "at": START + timedelta(days=9)}],
                                 "items": [{"id": 0, "order": 0, "at": START + timedelta(days=items)}]}  # fmt: skip
        es = entityset(tables, rows)
        es.add_last_time_indexes()
        features = synthesised(es, "customers", ["count"], [], max_depth=1)
        found = case(
            documents, es, f"item on day {items}", features, at(es, "customers", cutoff), training_window="45 days"
        )
        worlds.append({"tables": columnar(rows), **found})
    return {"schema": {"tables": tables, "timezone": "UTC"}, "documents": documents, "cases": worlds}


def columnar(rows: dict[str, Rows]) -> dict[str, Any]:
    return {name: {c: [plain(row[c]) for row in listed] for c in listed[0]} for name, listed in rows.items()}


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for make in (shop, transfers, staff):
        tables, rows = make()
        documents: list[Any] = []
        found: dict[str, Any] = {
            "recorded_with": {"featuretools": ft.__version__, "pandas": pd.__version__},
            "schema": {"tables": tables, "timezone": "UTC"},
            "tables": columnar(rows),
        }
        if make is shop:
            found["cases"] = shop_cases(documents, entityset(tables, rows))
        elif make is transfers:
            es = entityset(tables, rows)
            cutoffs = at(es, "accounts", START + timedelta(days=50), START + timedelta(days=90, hours=3))
            found["cases"] = [
                case(documents, es, "two links", synthesised(es, "accounts", ["count", "sum", "std", "percent_true"], []), cutoffs),
                case(documents, es, "links there and back", synthesised(es, "transfers", ["count", "max"], []), at(es, "transfers", START + timedelta(days=90))),
            ]  # fmt: skip
        else:
            try:
                es = entityset(tables, rows)
                features = synthesised(es, "staff", ["count", "mean"], [])
                found["cases"] = [case(documents, es, "self link", features, at(es, "staff", START))]
            except Exception as error:
                found["cases"], found["refused"] = [], f"{type(error).__name__}: {error}"
        found["documents"] = documents
        path = OUT / f"{make.__name__}.json"
        path.write_text(json.dumps(found, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
        print(
            path.name,
            path.stat().st_size,
            [(c["name"], len(c["values"])) for c in found["cases"]],
            found.get("refused", ""),
        )
    (OUT / "leak.json").write_text(
        json.dumps(leak(), ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # it walks over sets: the order of features would be another each time
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})
    main()
