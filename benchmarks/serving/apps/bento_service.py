"""BentoML: a service with two workers."""

import os

import bentoml
import numpy as np
from fastapi_row import Row
from xgboost import XGBClassifier


@bentoml.service(workers=2)
class Risk:
    def __init__(self) -> None:
        self.model = XGBClassifier()
        self.model.load_model(os.environ["BENCH_MODEL"] + "/classifier.ubj")
        self.model.set_params(n_jobs=1)

    @bentoml.api
    async def predict(self, row: Row) -> float:
        matrix = np.array([list(row.model_dump().values())], np.float32)
        return float(self.model.predict_proba(matrix)[0, 1])
