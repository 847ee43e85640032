"""FastAPI tuned by hand, with the engine that Holdfast serves with: uvloop, httptools, msgspec in and out, no pydantic."""

import json
import os
from pathlib import Path

import msgspec
import numpy as np
from fastapi import FastAPI, Request, Response

from holdfast.core.learn.forest import Forest

folder = Path(os.environ["BENCH_MODEL"])
arrays = np.load(folder / "forest.npz")
forest = Forest(arrays["nodes"], arrays["roots"], arrays["groups"], arrays["base"], "logistic")
names = json.loads((folder / "names.json").read_text(encoding="utf-8"))
decode = msgspec.json.Decoder(msgspec.defstruct("Row", [(name, float) for name in names])).decode
encode = msgspec.json.Encoder().encode
forest.predict(np.zeros((1, len(names))))
app = FastAPI()


@app.post("/predict")
async def predict(request: Request) -> Response:
    row = np.array([msgspec.structs.astuple(decode(await request.body()))], np.float64)
    return Response(encode({"probability": float(forest.predict(row)[0])}), media_type="application/json")
