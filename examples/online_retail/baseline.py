"""What a person would do by hand with the retail data: RFM features, XGBoost, and a naive guess beside it.

Written without Holdfast, from the raw files, so that it can tell whether Holdfast's answers are right. The rows are
customers who bought within 180 days before the first of a month; features see what happened strictly before that day.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import xgboost as xgb

__all__ = ["TARGETS", "baseline"]

TARGETS = ("spend", "repeat")
MONTHS = pd.date_range("2010-01-01", "2010-11-01", freq="MS")
VALIDATE, TEST = pd.Timestamp("2010-10-01"), pd.Timestamp("2010-11-01")
WINDOWS = (30, 90, 180, 10_000)


def read(data: Path) -> pd.DataFrame:
    files = [folder / "lines.csv.gz" for folder in sorted(data.iterdir()) if folder.is_dir()]
    lines = pd.concat([pd.read_csv(file, parse_dates=["invoice_date"]) for file in files], ignore_index=True)
    lines = lines.dropna(subset="customer_id").astype({"customer_id": int})
    return lines.assign(amount=lines["quantity"] * lines["price"])


def rows_at(lines: pd.DataFrame, cutoff: pd.Timestamp) -> pd.DataFrame:
    """Recency, frequency, monetary value and the labels, one row per customer who is asked about at the cutoff."""
    before = lines[lines["invoice_date"] < cutoff]
    days = (cutoff - before["invoice_date"]) / pd.Timedelta(days=1)
    bought = before["quantity"] > 0
    asked = pd.Index(sorted(before.loc[days <= 180, "customer_id"].unique()), name="customer_id")
    columns = {
        "recency": days[bought].groupby(before["customer_id"]).min(),
        "tenure": days.groupby(before["customer_id"]).max(),
    }
    for window in WINDOWS:
        inside = before[days <= window]
        groups = inside.groupby("customer_id")
        columns[f"frequency, {window}d"] = inside[inside["quantity"] > 0].groupby("customer_id")["invoice"].nunique()
        columns[f"monetary, {window}d"] = groups["amount"].sum()
        columns[f"lines, {window}d"] = groups.size()
    table = pd.DataFrame(columns).reindex(asked)
    counts = [name for name in table if name not in ("recency", "tenure")]
    table[counts] = table[counts].fillna(0)
    table["basket"] = table["monetary, 10000d"] / table["frequency, 10000d"].replace(0, np.nan)
    after = lines[(lines["invoice_date"] >= cutoff) & (lines["invoice_date"] < cutoff + pd.DateOffset(months=1))]
    table["label spend"] = after.groupby("customer_id")["amount"].sum().reindex(asked).fillna(0)
    buyers = after.loc[after["quantity"] > 0, "customer_id"].unique()
    table["label repeat"] = asked.isin(buyers).astype(float)
    return table.reset_index().assign(cutoff=cutoff)


def baseline(data: Path) -> pd.DataFrame:
    """The test rows with labels, and `hand-made` and `naive` answers for each target."""
    lines = read(data)
    rows = pd.concat([rows_at(lines, month) for month in MONTHS], ignore_index=True)
    names = [name for name in rows if name not in ("customer_id", "cutoff") and not name.startswith("label ")]
    common = {"n_estimators": 2000, "learning_rate": 0.03, "max_depth": 5, "min_child_weight": 10, "subsample": 0.8,
              "colsample_bytree": 0.8, "early_stopping_rounds": 50, "random_state": 42, "n_jobs": 2}  # fmt: skip
    train, validate, test = (rows[part] for part in (rows["cutoff"] < VALIDATE, rows["cutoff"] == VALIDATE,
                                                     rows["cutoff"] == TEST))  # fmt: skip
    test = test.reset_index(drop=True)
    for target in TARGETS:
        model = xgb.XGBRegressor(**common) if target == "spend" else xgb.XGBClassifier(**common, eval_metric="logloss")
        label = f"label {target}"
        model.fit(train[names], train[label], eval_set=[(validate[names], validate[label])], verbose=False)
        test[f"hand-made {target}"] = (
            model.predict(test[names]) if target == "spend" else model.predict_proba(test[names])[:, 1]
        )
    # The next month is as the mean month so far was; who bought last buys first.
    test["naive spend"] = test["monetary, 10000d"] / (test["tenure"] / 30).clip(lower=1)
    test["naive repeat"] = 1 / (1 + test["recency"].fillna(10_000))
    return test


def main() -> None:
    from sklearn.metrics import mean_absolute_error, roc_auc_score

    test = baseline(Path(sys.argv[1]))
    for who in ("hand-made", "naive"):
        error = mean_absolute_error(test["label spend"], test[f"{who} spend"])
        area = roc_auc_score(test["label repeat"], test[f"{who} repeat"])
        print(f"{who}: spend MAE {error:.1f}, repeat ROC-AUC {area:.3f}")


if __name__ == "__main__":
    main()
