"""The same with the two lines that help most: one thread for XGBoost, and no thread for the request."""

import os

import pandas as pd
from fastapi import FastAPI
from fastapi_row import Row
from pydantic import BaseModel
from xgboost import XGBClassifier


class Answer(BaseModel):
    probability: float


app = FastAPI()
model = XGBClassifier()
model.load_model(os.environ["BENCH_MODEL"] + "/classifier.ubj")
model.set_params(n_jobs=1)


@app.post("/predict")
async def predict(row: Row) -> Answer:
    frame = pd.DataFrame([row.model_dump()])
    return Answer(probability=float(model.predict_proba(frame)[0, 1]))
