"""gRPC with a client of our own: both forms of contents, codes, health, limits, a killed server, a stop."""

import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from holdfast.backend.api.notices import Notices
from holdfast.backend.api.open_inference.messages import SERVICE, methods
from holdfast.backend.api.open_inference.rpc import GrpcServer, check_extra
from holdfast.backend.api.server import serve
from holdfast.backend.serving.loader import Live
from holdfast.backend.serving.log import PredictionLog, read_prediction
from holdfast.backend.serving.service import Service
from holdfast.backend.settings import ServingSettings
from holdfast.errors import ConflictError, MissingExtraError, RequestError

from .test_http import raw, tensors

FIELDS = {"FP64": "fp64_contents", "INT64": "int64_contents", "BOOL": "bool_contents", "BYTES": "bytes_contents"}


class Client:
    """The methods of the service as functions."""

    def __init__(self, address):
        self.channel = grpc.insecure_channel(address)
        self.kinds = {}
        for name, asked, answered in methods():
            self.kinds[name] = asked
            call = self.channel.unary_unary(
                f"/{SERVICE}/{name}",
                request_serializer=asked.SerializeToString,
                response_deserializer=answered.FromString,
            )
            setattr(self, name, self._calling(call, asked))

    @staticmethod
    def _calling(call, asked):
        def send(request=None, metadata=None, wait=True, **fields):
            return call(request or asked(**fields), timeout=60, metadata=metadata, wait_for_ready=wait)

        return send


@pytest.fixture(scope="module")
def client(served):
    made = Client(served.grpc)
    yield made
    made.channel.close()


def request(client, target, rows, *, as_raw=False, **more):
    made = client.kinds["ModelInfer"](model_name=target, **more)
    for one in tensors(rows):
        added = made.inputs.add(name=one["name"], datatype=one["datatype"], shape=one["shape"])
        if as_raw:
            made.raw_input_contents.append(raw(one["data"], one["datatype"]))
            continue
        values = [math.nan if value is None else value for value in one["data"]]
        if one["datatype"] == "BYTES":
            values = [value.encode() for value in values]
        getattr(added.contents, FIELDS[one["datatype"]]).extend(values)
    return made


def refused(call, *given, **fields):
    with pytest.raises(grpc.RpcError) as caught:
        call(*given, **fields)
    return caught.value.code().name, caught.value.details()


@pytest.mark.parametrize("target", ["风险", "score", "grade"])
def test_contents_and_raw_contents_are_answered_alike(client, served, target):
    row = served.example(target)
    body = {"features": [row, row]}
    expected = httpx.post(f"{served.base}/v1/targets/{target}/predict", json=body).json()
    typed = client.ModelInfer(request(client, target, [row, row], id="一"))
    assert (typed.id, typed.model_name, typed.model_version) == ("一", target, expected["deployment"])
    assert not typed.raw_output_contents
    bare = client.ModelInfer(request(client, target, [row, row], as_raw=True))
    found = {}
    for output, content in zip(bare.outputs, bare.raw_output_contents, strict=True):
        twin = next(one for one in typed.outputs if one.name == output.name)
        (field,) = [name.name for name, _ in twin.contents.ListFields()]
        found[output.name] = list(getattr(twin.contents, field))
        assert not output.contents.ListFields()
        if output.name != "prediction_id":
            values = [v.decode() if isinstance(v, bytes) else v for v in found[output.name]]
            assert content == raw(values, output.datatype)
    for label, answer in expected["predictions"][0]["labels"].items():
        said = answer.get("probability", answer.get("value", None))
        shares = list(answer["probabilities"].values()) if said is None else [said]
        assert found[label] == shares * 2
        (version,) = [one.parameters["version"].string_param for one in typed.outputs if one.name == label]
        assert version == answer["version"]
    given = found["prediction_id"][0].decode()
    assert read_prediction(served.rooms.log, given, patience=10).input == row


def test_codes_name_what_is_wrong(client, served):
    row = served.example("score")
    name = next(key for key, value in row.items() if isinstance(value, float))
    good = request(client, "score", [row])
    place = next(number for number, one in enumerate(good.inputs) if one.datatype == "FP64")
    assert client.ModelReady(name="score").ready is True
    assert client.ModelReady(name="nope").ready is False
    assert refused(client.ModelMetadata, name="scroe") == (
        "NOT_FOUND", "nothing is deployed for the target 'scroe' (target scroe). Did you mean 'score'?",
    )  # fmt: skip
    code, told = refused(client.ModelInfer, request(client, "score", [{**row, name: 1e400}]))
    assert code == "INVALID_ARGUMENT"
    assert name in told
    for change, told in (
        (lambda made: made.inputs[0].ClearField("shape"), "shape"),
        (lambda made: made.inputs[0].shape.append(2**62), "values"),
        (lambda made: setattr(made.inputs[place], "datatype", "FP16"), "raw_input_contents"),
        (lambda made: made.inputs[place].contents.bytes_contents.append(b"\xff"), "belong"),
        (lambda made: made.raw_input_contents.append(b""), "entries"),
        (lambda made: made.parameters["explain"].SetInParent(), ""),
        (lambda made: made.parameters["sequence_id"].CopyFrom(type(made.parameters["x"])(int64_param=1)), "parameter"),
        (lambda made: made.outputs.add(name="nope"), "nope"),
        (lambda made: setattr(made, "model_version", "dep_1"), "does not answer"),
        (lambda made: made.ClearField("inputs"), "rows"),
    ):
        made = type(good)()
        made.CopyFrom(good)
        change(made)
        if not told:
            client.ModelInfer(made)
            continue
        code, detail = refused(client.ModelInfer, made)
        assert code in ("INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED")
        assert told in detail


def test_a_long_error_with_chinese_names_arrives(client, served):
    row = served.example("score")
    code, told = refused(client.ModelInfer, request(client, "险" * 5_000, [row]))
    assert code == "NOT_FOUND"
    assert "险" in told


def test_a_message_larger_than_the_limit_is_refused(client):
    made = client.kinds["ModelInfer"](model_name="score")
    made.inputs.add(name="a", datatype="INT8", shape=[1])
    made.raw_input_contents.append(bytes(17 << 20))
    code, _ = refused(client.ModelInfer, made)
    assert code == "RESOURCE_EXHAUSTED"
    made.raw_input_contents[:] = [bytes(15 << 20)]
    assert refused(client.ModelInfer, made)[0] == "INVALID_ARGUMENT"


def test_grpcs_own_health(client, served):
    stub = health_pb2_grpc.HealthStub(client.channel)
    for name in ("", SERVICE):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=name), wait_for_ready=True, timeout=60)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError):
        stub.Check(health_pb2.HealthCheckRequest(service="other"), timeout=60)


def test_who_asks_can_be_refused(served, tmp_path):
    """The hook of the keys: the metadata `authorization` and the method are told before anything is done."""
    told = []

    def permit(key, method):
        told.append((key, method))
        if key != "Bearer 钥匙".encode().decode("latin-1") and key != "Bearer a":
            raise RequestError("no")
        return ""

    live = Live(served.rooms.sources)
    live.look()
    service = Service(live, PredictionLog(tmp_path / "log.db"), served.rooms.clock)
    server = GrpcServer(service, "127.0.0.1", 0, 1 << 20, Notices(), permit=permit)
    server.start()
    stopped = threading.Event()
    runner = threading.Thread(target=server.run_until, args=(stopped,))
    runner.start()
    own = Client(f"127.0.0.1:{server.port}")
    assert refused(own.ServerLive) == ("INVALID_ARGUMENT", "no")
    assert own.ServerLive(metadata=[("authorization", "Bearer a")]).live is True
    assert told == [(None, "ServerLive"), ("Bearer a", "ServerLive")]
    stopped.set()
    runner.join(40)
    assert not runner.is_alive()
    assert refused(own.ServerLive, wait=False)[0] == "UNAVAILABLE"
    own.channel.close()
    service.log.close()


def test_a_taken_port_is_refused(served, tmp_path):
    settings = ServingSettings(port=served.server.port + 5, grpc_port=served.grpc_port)
    with pytest.raises(ConflictError, match="cannot listen"):
        serve(settings, tmp_path / "log.db", None, None, print)
    with pytest.raises(ValueError, match="another server"):
        ServingSettings(port=9000, grpc_port=9001)


def test_without_grpc_it_says_what_to_install():
    program = (
        "import sys; sys.modules['grpc'] = None\n"
        "from holdfast.backend.api.server import serve\n"
        "from holdfast.backend.settings import ServingSettings\n"
        "from holdfast.errors import MissingExtraError\n"
        "try: serve(ServingSettings(grpc_port=9), None, None, None, print)\n"
        "except MissingExtraError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert 'pip install "holdfast[grpc]"' in done.stdout
    check_extra()
    assert MissingExtraError.code == "missing_extra"


def grpc_processes(served):
    """The process ids that listen on the port."""
    inodes = set()
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    for parts in (line.split() for table in tables for line in table):
        if int(parts[1].split(":")[1], 16) == served.grpc_port and parts[3] == "0A":
            inodes.add(f"socket:[{parts[9]}]")
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                links = {str(one.readlink()) for one in (folder / "fd").iterdir()}
            except OSError:
                continue
            if links & inodes:
                found.add(int(folder.name))
    return found


def test_a_killed_server_is_replaced_and_a_stop_finishes_calls(changeable):
    own = Client(changeable.grpc)
    row = changeable.example("score")
    assert own.ModelInfer(request(own, "score", [row])).outputs
    (victim,) = grpc_processes(changeable)
    os.kill(victim, signal.SIGKILL)
    until = time.monotonic() + 90
    while time.monotonic() < until:
        try:
            own.ModelInfer(request(own, "score", [row]))
        except grpc.RpcError:
            time.sleep(0.2)
            continue
        if grpc_processes(changeable) != {victim}:
            break
    assert own.ModelInfer(request(own, "score", [row])).outputs
    codes, statuses = [], threading.Event()

    def ask():
        with Client(changeable.grpc).channel:
            another = Client(changeable.grpc)
            while True:
                try:
                    another.ModelInfer(request(another, "score", [row] * 200), wait=False)
                    codes.append("OK")
                    statuses.set()
                except grpc.RpcError as error:
                    codes.append(error.code().name)
                    return

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    assert statuses.wait(60)
    assert changeable.stop() == 0
    for asker in askers:
        asker.join(60)
    # What was under way was answered; what came after found nobody.
    assert set(codes) == {"OK", "UNAVAILABLE"}
    assert "Traceback" not in changeable.server.output.read_text()
    own.channel.close()
