"""LitServe with two workers: python litserve_app.py PORT."""

import os
import sys

import litserve
import numpy as np
from xgboost import XGBClassifier


class Risk(litserve.LitAPI):
    def setup(self, device) -> None:  # noqa: ARG002 - its interface
        self.model = XGBClassifier()
        self.model.load_model(os.environ["BENCH_MODEL"] + "/classifier.ubj")
        self.model.set_params(n_jobs=1)

    def decode_request(self, request):
        return np.array([list(request.values())], np.float32)

    def predict(self, matrix):
        return float(self.model.predict_proba(matrix)[0, 1])

    def encode_response(self, output):
        return {"probability": output}


if __name__ == "__main__":
    server = litserve.LitServer(Risk(), accelerator="cpu", workers_per_device=2)
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=2, generate_client_file=False, log_level="warning"
    )
