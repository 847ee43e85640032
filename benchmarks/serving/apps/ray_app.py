"""Ray Serve with two replicas: python ray_app.py PORT."""

import os
import signal
import sys
import tempfile

import numpy as np
import ray
from ray import serve
from starlette.requests import Request
from xgboost import XGBClassifier


@serve.deployment(num_replicas=2, max_ongoing_requests=100, ray_actor_options={"num_cpus": 0.5})
class Risk:
    def __init__(self, file: str) -> None:
        self.model = XGBClassifier()
        self.model.load_model(file)
        self.model.set_params(n_jobs=1)

    async def __call__(self, request: Request):
        row = await request.json()
        matrix = np.array([list(row.values())], np.float32)
        return {"probability": float(self.model.predict_proba(matrix)[0, 1])}


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # The sockets of its daemons lie here, and their names must be short.
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as folder:
        ray.init(
            num_cpus=2, include_dashboard=False, _temp_dir=folder, object_store_memory=100 << 20, log_to_driver=False
        )
        serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
        try:
            serve.run(Risk.bind(os.environ["BENCH_MODEL"] + "/classifier.ubj"), route_prefix="/predict")
            signal.pause()
        finally:
            ray.shutdown()
