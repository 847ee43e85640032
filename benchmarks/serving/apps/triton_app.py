"""Triton's Python backend through PyTriton, two instances, batches as they come: python triton_app.py PORT."""

import os
import signal
import sys

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig
from xgboost import XGBClassifier


def instance():
    model = XGBClassifier()
    model.load_model(os.environ["BENCH_MODEL"] + "/classifier.ubj")
    model.set_params(n_jobs=1)

    @batch
    def predict(row):
        return {"probability": model.predict_proba(row)[:, 1:].astype(np.float32)}

    return predict


if __name__ == "__main__":
    port = int(sys.argv[1])
    config = TritonConfig(http_port=port, grpc_port=port + 1, metrics_port=port + 2, http_address="127.0.0.1")
    with Triton(config=config) as triton:
        triton.bind(
            model_name="risk",
            infer_func=[instance(), instance()],
            inputs=[Tensor(name="row", dtype=np.float32, shape=(30,))],
            outputs=[Tensor(name="probability", dtype=np.float32, shape=(1,))],
            config=ModelConfig(max_batch_size=128, batcher=DynamicBatcher(max_queue_delay_microseconds=0)),
        )
        # PyTriton itself does not tidy up at SIGTERM.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        triton.run()
        signal.pause()
