"""The side of Featuretools: runs in its own environment, takes one JSON line a request, answers with one.

`load` reads the tables (Parquet) and the features; building the entity set is not timed. `run` calculates the matrix
for (entity, cutoff) pairs and answers with the seconds of `calculate_feature_matrix` alone.
"""

import json
import logging
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import featuretools as ft
import pandas as pd
from woodwork.logical_types import Boolean, Categorical, Datetime, Double, Integer

TYPES = {"bool": Boolean, "int": Integer, "float": Double, "category": Categorical, "time": Datetime}


class Peer:
    es: ft.EntitySet
    features: list[Any]

    def load(self, folder: str, schema: dict[str, Any]) -> dict[str, Any]:
        self.es = ft.EntitySet("bench")
        for table in schema["tables"]:
            frame = pd.read_parquet(Path(folder) / f"{table['name']}.parquet")
            for column in frame:
                if isinstance(frame[column].dtype, pd.DatetimeTZDtype):
                    frame[column] = frame[column].dt.tz_localize(None)
            types = {c["name"]: TYPES[c["dtype"]] for c in table["columns"]}
            self.es.add_dataframe(
                frame, table["name"], index=table["key"][0], time_index=table["time"], logical_types=types
            )
        for table in schema["tables"]:
            for column, parent in table["links"].items():
                self.es.add_relationship(parent, "id", table["name"], column)
        self.es.add_last_time_indexes()
        self.features = ft.load_features(str(Path(folder) / "features.json"))
        return {"version": ft.__version__, "pandas": pd.__version__, "features": len(self.features)}

    def run(self, asked: str, out: str, options: dict[str, Any]) -> dict[str, Any]:
        cutoffs = pd.read_parquet(asked)
        cutoffs["time"] = cutoffs["time"].dt.tz_localize(None)
        started = time.perf_counter()
        matrix = ft.calculate_feature_matrix(
            self.features, self.es, cutoff_time=cutoffs, cutoff_time_in_index=True, n_jobs=1, verbose=False, **options
        )
        seconds = time.perf_counter() - started
        matrix = matrix.loc[list(zip(cutoffs["id"], cutoffs["time"], strict=True))].reset_index(drop=True)
        for name in matrix:
            if matrix[name].dtype.name in ("category", "object"):
                matrix[name] = matrix[name].astype("object").where(matrix[name].notna(), None)
            else:
                matrix[name] = matrix[name].astype("float64")
        matrix.to_parquet(out)
        return {"seconds": seconds}


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    peer = Peer()
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        request = json.loads(line)
        answer = getattr(peer, request.pop("do"))(**request)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
