"""gRPC behind `serving.tls`: nothing in clear, and with `client_ca` nobody without a certificate."""

import threading
from types import SimpleNamespace

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from holdfast.backend.api.notices import Notices
from holdfast.backend.api.open_inference.rpc import GrpcServer
from holdfast.backend.api.tls import Tls
from holdfast.backend.serving.loader import Live
from holdfast.backend.serving.log import PredictionLog
from holdfast.backend.serving.service import Service
from holdfast.testing.clock import FakeClock
from tests.certificates import Authority


def state(channel):
    with channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return stub.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=5).status


def test_with_certificates_of_clients_only_those_get_in(tmp_path):
    ours, others = Authority(tmp_path / "证书"), Authority(tmp_path / "others")
    certificate, key = ours.issue("server")
    log = PredictionLog(tmp_path / "log.db")
    service = Service(Live(SimpleNamespace(gate=None)), log, FakeClock())
    server = GrpcServer(service, "127.0.0.1", 0, 1 << 20, Notices(), tls=Tls(certificate, key, ours.file))
    server.start()
    stopped = threading.Event()
    runner = threading.Thread(target=server.run_until, args=(stopped,))
    runner.start()
    place, root = f"localhost:{server.port}", ours.file.read_bytes()

    def channel(*pair):
        chain = [file.read_bytes() for file in reversed(pair)] or [None, None]
        return grpc.secure_channel(place, grpc.ssl_channel_credentials(root, *chain))

    try:
        assert state(channel(*ours.issue("client"))) == health_pb2.HealthCheckResponse.NOT_SERVING
        for stranger in (grpc.insecure_channel(place), channel(), channel(*others.issue("client"))):
            with pytest.raises(grpc.RpcError):
                state(stranger)
    finally:
        stopped.set()
        runner.join(40)
        log.close()
    assert not runner.is_alive()
