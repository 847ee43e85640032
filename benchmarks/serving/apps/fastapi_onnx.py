"""FastAPI with ONNX Runtime, as its guides write it: a pydantic model, one session, one thread a session."""

import os

import numpy as np
import onnxruntime
from fastapi import FastAPI
from fastapi_row import Row

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(
    os.environ["BENCH_MODEL"] + "/model.onnx", options, providers=["CPUExecutionProvider"]
)
name = session.get_inputs()[0].name
app = FastAPI()


@app.post("/predict")
async def predict(row: Row) -> dict[str, float]:
    matrix = np.array([list(row.model_dump().values())], np.float32)
    return {"probability": float(session.run(None, {name: matrix})[1][0][1])}
