"""What a careful person would write by hand for one afternoon: the yardstick for the automatic features.

    python examples/sf_inspections/baseline.py DATA

reads the monthly deliveries below DATA with pandas, makes sixteen features of what happened strictly before each
routine inspection, trains XGBoost per label, and prints ROC-AUC and MAE on the test part. `baseline(DATA)` returns the
test rows with labels, predictions and the naive guess (the business's last result) for a paired comparison.
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import xgboost as xgb

RISKS = ["High Risk", "Moderate Risk", "Low Risk"]
KEYS = ["business_id", "date", "type"]
TRAIN_END, VALIDATE_END, TEST_END = pd.Timestamp("2016-01-01"), pd.Timestamp("2016-07-01"), pd.Timestamp("2017-01-01")


def read(data: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    months = sorted(folder for folder in data.iterdir() if folder.is_dir())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inspections = pd.concat([pd.read_excel(m / "inspections.xlsx") for m in months], ignore_index=True)
        violations = pd.concat(
            [pd.read_csv(m / "violations.csv", encoding="latin-1") for m in months], ignore_index=True
        )
        businesses = pd.concat(
            [pd.read_csv(m / "businesses.csv", encoding="latin-1", dtype=str).assign(month=m.name) for m in months]
        )
    for frame in (inspections, violations):
        frame["date"] = pd.to_datetime(frame["date"].astype(str))
    businesses["business_id"] = businesses["business_id"].astype(int)
    # A month's list is known from the end of the month on.
    businesses["known"] = pd.to_datetime(businesses["month"]) + pd.offsets.MonthBegin(1)
    return inspections, violations, businesses


def history(rows: pd.DataFrame, events: pd.DataFrame, values: dict[str, pd.Series]) -> pd.DataFrame:
    """Running sums and counts of event values per business, over events strictly before each row."""
    daily = pd.DataFrame({"business_id": events["business_id"], "date": events["date"], **values})
    daily = (
        daily.groupby(["business_id", "date"]).sum().groupby("business_id").cumsum().reset_index().sort_values("date")
    )
    return pd.merge_asof(
        rows[["business_id", "date"]].sort_values("date", kind="stable"),
        daily, on="date", by="business_id", allow_exact_matches=False,
    ).drop(columns=["business_id", "date"])  # fmt: skip


def features(inspections: pd.DataFrame, violations: pd.DataFrame, businesses: pd.DataFrame) -> pd.DataFrame:
    rows = (
        inspections[inspections["type"].str.startswith("Routine")]
        .sort_values("date", kind="stable")
        .reset_index(drop=True)
    )
    per_risk = {risk: (violations["risk_category"] == risk).astype(float) for risk in RISKS}
    sums = history(rows, violations, per_risk).fillna(0)
    year_ago = rows.assign(date=rows["date"] - pd.Timedelta(days=365))
    before = history(year_ago, violations, per_risk).fillna(0)
    scored = inspections[inspections["Score"].notna()]
    score = history(rows, scored, {"sum": scored["Score"].astype(float), "count": scored["Score"] * 0 + 1})
    visits = history(rows, inspections, {"visits": inspections["business_id"] * 0 + 1.0}).fillna(0)
    complaint = inspections[inspections["type"] == "Complaint"]
    complaints = history(rows, complaint, {"complaints": complaint["business_id"] * 0 + 1.0}).fillna(0)
    latest = scored.sort_values("date")[["business_id", "date", "Score"]].rename(columns={"Score": "last_score"})
    latest["last"] = latest["date"]
    last = pd.merge_asof(rows, latest, on="date", by="business_id", allow_exact_matches=False)
    known = businesses.sort_values("known")[["business_id", "known", "postal_code"]]
    area = pd.merge_asof(rows, known, left_on="date", right_on="known", by="business_id")["postal_code"]
    out = pd.DataFrame({f"{risk}, all": sums[risk] for risk in RISKS})
    for risk in RISKS:
        out[f"{risk}, 365d"] = sums[risk] - before[risk]
        out[f"{risk}, per visit"] = sums[risk] / visits["visits"].replace(0, np.nan)
    out["visits"], out["complaints"] = visits["visits"], complaints["complaints"]
    out["mean score"], out["last score"] = score["sum"] / score["count"], last["last_score"]
    out["days since"] = (rows["date"] - last["last"]).dt.days
    out["month"], out["area"] = rows["date"].dt.month, area.astype("category").cat.codes
    return pd.concat([rows, out], axis=1)


def with_labels(rows: pd.DataFrame, violations: pd.DataFrame) -> pd.DataFrame:
    for risk in RISKS:
        found = violations.loc[violations["risk_category"] == risk, ["business_id", "date"]].drop_duplicates()
        found = pd.MultiIndex.from_frame(found)
        rows[f"label {risk}"] = pd.MultiIndex.from_frame(rows[["business_id", "date"]]).isin(found).astype(float)
        # The naive guess: what this business's last routine visit found; the base rate for the first.
        rows[f"naive {risk}"] = _last_result(rows, f"label {risk}")
    rows["label score"] = rows["Score"]
    rows["naive score"] = _last_result(rows, "Score")
    return rows


def _last_result(rows: pd.DataFrame, column: str) -> pd.Series:
    daily = rows[["business_id", "date", column]].dropna().groupby(["business_id", "date"], as_index=False).max()
    found = pd.merge_asof(
        rows[["business_id", "date"]], daily.sort_values("date"), on="date", by="business_id", allow_exact_matches=False
    )[column]
    return found.fillna(rows.loc[rows["date"] < TRAIN_END, column].mean())


def baseline(data: Path) -> pd.DataFrame:
    inspections, violations, businesses = read(data)
    rows = features(inspections, violations, businesses)
    names = list(rows.columns[rows.columns.get_loc("High Risk, all") :])
    rows = with_labels(rows, violations)
    part = np.select([rows["date"] < TRAIN_END, rows["date"] < VALIDATE_END, rows["date"] < TEST_END], [0, 1, 2], -1)
    common = {"n_estimators": 2000, "learning_rate": 0.03, "max_depth": 5, "min_child_weight": 10, "subsample": 0.8,
              "colsample_bytree": 0.8, "early_stopping_rounds": 50, "random_state": 42, "n_jobs": 2}  # fmt: skip
    for label in [*RISKS, "score"]:
        known = rows[f"label {label}"].notna()
        model = xgb.XGBRegressor(**common) if label == "score" else xgb.XGBClassifier(**common, eval_metric="logloss")
        train, validate = (rows[(part == p) & known] for p in (0, 1))
        model.fit(
            train[names],
            train[f"label {label}"],
            eval_set=[(validate[names], validate[f"label {label}"])],
            verbose=False,
        )
        rows[f"hand-made {label}"] = (
            model.predict(rows[names]) if label == "score" else model.predict_proba(rows[names])[:, 1]
        )
    return rows[part == 2].reset_index(drop=True)


def main() -> None:
    from sklearn.metrics import mean_absolute_error, roc_auc_score

    test = baseline(Path(sys.argv[1]))
    for risk in RISKS:
        hand, naive = (roc_auc_score(test[f"label {risk}"], test[f"{who} {risk}"]) for who in ("hand-made", "naive"))
        print(f"{risk}: ROC-AUC {hand:.3f} by hand, {naive:.3f} naive, of {len(test)} rows")
    known = test.dropna(subset="label score")
    print(f"Score: MAE {mean_absolute_error(known['label score'], known['hand-made score']):.2f} of {len(known)} rows")


if __name__ == "__main__":
    main()
