"""FastAPI as it is usually written: a pydantic model, a DataFrame, XGBClassifier.predict_proba."""

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


@app.post("/predict")
def predict(row: Row) -> Answer:
    frame = pd.DataFrame([row.model_dump()])
    return Answer(probability=float(model.predict_proba(frame)[0, 1]))
