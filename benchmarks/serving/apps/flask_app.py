"""Flask as it is usually written."""

import os

import pandas as pd
from flask import Flask, jsonify, request
from xgboost import XGBClassifier

app = Flask(__name__)
model = XGBClassifier()
model.load_model(os.environ["BENCH_MODEL"] + "/classifier.ubj")


@app.post("/predict")
def predict():
    frame = pd.DataFrame([request.get_json()])
    return jsonify(probability=float(model.predict_proba(frame)[0, 1]))
