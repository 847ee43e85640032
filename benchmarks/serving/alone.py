"""In a fresh process, in the environment it is run in: how long one model takes to load, or what its explanations cost.

    python alone.py {holdfast|xgboost|explain} FILE COUNT

prints the figure as JSON: milliseconds of `holdfast` (open, hash, check and replay a serving bundle, twice: as the first
and as a later model of the process) or `xgboost` (XGBClassifier.load_model); for `explain`, milliseconds of the booster's
own contributions of 1 row and of COUNT rows.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path


def times(do: Callable[[], object], count: int) -> list[float]:
    """Milliseconds of single runs."""
    found = []
    for _ in range(count):
        began = time.perf_counter()
        do()
        found.append(1000 * (time.perf_counter() - began))
    return found


def main(what: str, file: str, count: int) -> dict[str, float]:
    if what == "holdfast":
        from holdfast.backend.registry.bundle import load_bundle
        from holdfast.core.learn import forest  # noqa: F401 - importing Numba is the start of the process, not of a model

        found = times(lambda: load_bundle(Path(file)), count)
        return {"first": found[0], "later": statistics.median(found[1:])}
    import numpy as np
    import xgboost

    if what == "xgboost":
        import sklearn  # noqa: F401 - as above

        found = times(lambda: xgboost.XGBClassifier().load_model(file), count)
        return {"first": found[0], "later": statistics.median(found[1:])}
    booster = xgboost.Booster()
    booster.load_model(file)
    rows = np.random.default_rng(1).normal(size=(count, booster.num_features())).astype(np.float32)

    def contributions(matrix: "np.ndarray") -> object:  # type: ignore[type-arg]
        data = xgboost.DMatrix(matrix, feature_names=booster.feature_names)
        return booster.predict(data, pred_contribs=True)

    contributions(rows)
    one = times(lambda: contributions(rows[:1]), 20)
    batch = times(lambda: contributions(rows), 5)
    return {"one": statistics.median(one), "batch": statistics.median(batch)}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
