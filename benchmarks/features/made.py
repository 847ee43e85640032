"""The world that is measured on: customers <- accounts <- transactions, made from a seed, and the features asked of it."""

from dataclasses import replace

import numpy as np
import pyarrow as pa

from holdfast.core.features.definitions import Feature, FeatureSet, Kind
from holdfast.core.features.synthesis import Options, synthesise
from holdfast.core.schema import Column, DType, Schema, Table
from holdfast.core.timeline import DAY, SECOND, parse_instant

START, DAYS = parse_instant("2022-10-01"), 470
"""Transactions happen on [START, START + DAYS): fifteen months and a half."""
ONE = parse_instant("2024-01-01")
MONTHS = [parse_instant(f"{2023 + (m - 1) // 12}-{(m - 1) % 12 + 1:02}-01") for m in range(2, 14)]
"""Twelve monthly cutoffs, February 2023 to January 2024."""
SHARED = ("COUNT", "SUM", "MEAN", "STD", "MIN", "MAX", "NUM_UNIQUE", "MODE", "PERCENT_TRUE")
"""Primitives of equal meaning on both sides where truth values are never null. Not among them: FIRST and LAST (a null
there), TREND (its unit there follows the data), TIME_SINCE_* (equal, and not part of the floor)."""
FEATURES = 131
WINDOW = 90 * DAY

C, T = Column, DType
SCHEMA = Schema({
    "customers": Table("customers", (C("id", T.INT), C("segment", T.CATEGORY), C("城市", T.CATEGORY), C("age", T.FLOAT),
                                     C("vip", T.BOOL)), ("id",)),
    "accounts": Table("accounts", (C("id", T.INT), C("customer", T.INT), C("kind", T.CATEGORY), C("currency", T.CATEGORY),
                                   C("limit", T.FLOAT), C("balance", T.FLOAT), C("rate", T.FLOAT), C("open", T.BOOL)),
                      ("id",), None, {"customer": "customers"}),
    "transactions": Table("transactions", (C("id", T.INT), C("account", T.INT), C("at", T.TIME), C("amount", T.FLOAT),
                                           C("items", T.INT), C("fee", T.FLOAT), C("channel", T.CATEGORY),
                                           C("merchant", T.CATEGORY), C("类别", T.CATEGORY), C("online", T.BOOL)),
                          ("id",), "at", {"account": "accounts"}),
})  # fmt: skip


def tables(customers: int, seed: int = 3) -> dict[str, pa.Table]:
    """Arrow tables of `customers`, 3 accounts and 100 transactions each on average; transactions shuffled in time.

    Amounts have two decimals, fees and merchants and ages are null now and then, merchants are many (2,000), channels few.
    """
    rng = np.random.default_rng(seed)
    accounts, transactions = customers * 3, customers * 100

    def pick(words: list[str], count: int, null: float = 0.0, skewed: bool = False) -> pa.Array:
        codes = rng.zipf(1.4, count) % len(words) if skewed else rng.integers(0, len(words), count)
        array = pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(words))
        return pa.array(
            array.cast(pa.string()).to_numpy(zero_copy_only=False), pa.string(), mask=rng.random(count) < null
        )

    def numbers(values: np.ndarray, null: float = 0.0) -> pa.Array:
        return pa.array(np.round(values, 2), pa.float64(), mask=rng.random(len(values)) < null)

    merchants = [f"店{i:04}" if i % 3 else f"Café {i:04}" for i in range(2000)]
    moments = START + rng.integers(0, DAYS * 86_400, transactions) * SECOND
    return {
        "customers": pa.table({
            "id": pa.array(np.arange(customers)), "segment": pick(["a", "b", "c"], customers),
            "城市": pick(["上海", "北京", "Zürich", "Lima"], customers), "age": numbers(rng.integers(18, 90, customers) * 1.0, 0.05),
            "vip": pa.array(rng.random(customers) < 0.1),
        }),
        "accounts": pa.table({
            "id": pa.array(np.arange(accounts)), "customer": pa.array(rng.integers(0, customers, accounts)),
            "kind": pick(["giro", "spar", "kredit"], accounts), "currency": pick(["CNY", "EUR", "CHF"], accounts, 0.02),
            "limit": numbers(rng.gamma(2, 900, accounts)), "balance": numbers(rng.normal(500, 4000, accounts), 0.05),
            "rate": numbers(rng.random(accounts) * 9), "open": pa.array(rng.random(accounts) < 0.8),
        }),
        "transactions": pa.table({
            "id": pa.array(np.arange(transactions)), "account": pa.array(rng.integers(0, accounts, transactions)),
            "at": pa.array(moments, pa.int64()).cast(T.TIME.arrow), "amount": numbers(rng.lognormal(3, 1.2, transactions) - 5),
            "items": pa.array(rng.integers(1, 12, transactions)), "fee": numbers(rng.gamma(1.5, 2, transactions), 0.1),
            "channel": pick(["web", "app", "shop", "电话", "mail"], transactions), "merchant": pick(merchants, transactions, 0.03, True),
            "类别": pick(["食品", "书", "旅行", "fuel", "rent", "健康", "toys", "art", "été", "sport", "家具", "other"], transactions, 0.0, True),
            "online": pa.array(rng.random(transactions) < 0.6),
        }),
    }  # fmt: skip


def feature_set() -> FeatureSet:
    """The 131 features of a customer, two links deep, that both sides can say; rows at the cutoff are seen, as there."""
    options = Options(depth=2, windows=("all",), primitives=SHARED, limit=10_000, calendar=False, include_cutoff=True)
    found = synthesise(SCHEMA, "customers", (), options).feature_set
    assert len(found.features) == FEATURES, len(found.features)
    return found


def windowed(found: FeatureSet, window: int) -> FeatureSet:
    """The same features, each aggregate over transactions within the window: what `training_window` does there."""

    def cut(feature: Feature) -> Feature:
        timed = feature.kind is Kind.AGGREGATE and feature.link is not None and feature.link.child == "transactions"
        return replace(feature, inputs=tuple(cut(f) for f in feature.inputs), window=window if timed else None)

    return replace(found, features=tuple(replace(cut(f), alias=f.name) for f in found.features))
