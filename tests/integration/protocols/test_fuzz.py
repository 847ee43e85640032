"""Whatever bytes come in, the protocols answer 200 or 4xx: never 5xx, never without end, never with much memory."""

import asyncio
import json
import random
import signal
import struct
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.backend.access.gate import NOBODY
from holdfast.backend.api.notices import Notices
from holdfast.backend.api.open_inference.messages import message
from holdfast.backend.api.open_inference.models import Models
from holdfast.backend.api.open_inference.rpc import _Calls
from holdfast.backend.api.protocols import Protocols
from holdfast.backend.serving.loader import Live
from holdfast.backend.serving.log import PredictionLog
from holdfast.backend.serving.service import Service
from holdfast.errors import HoldfastError

from .test_http import binary, raw, tensors

INFER = "/v2/models/score/infer"
CASES = 12_000


class Asked:
    """What a worker's server would hand over."""

    method = "POST"

    def __init__(self, path, headers):
        self.path, self.headers = path, headers

    def respond(self, status, headers, body):
        lines = headers.decode().split("\r\n")[:-1]
        self.answer = status, dict(line.split(": ", 1) for line in lines), body


@pytest.fixture(scope="module")
def service(served, tmp_path_factory):
    """A real service in this process, over the project's own models."""
    live = Live(served.rooms.sources)
    live.look()
    made = Service(live, PredictionLog(tmp_path_factory.mktemp("fuzz") / "log.db"), served.rooms.clock)
    yield made
    made.log.close()


@pytest.fixture(scope="module")
def post(service):
    """Post a body to the very code that answers in a worker."""
    loop, pool = asyncio.new_event_loop(), ThreadPoolExecutor(1)

    async def slowly(work):
        return await loop.run_in_executor(pool, work)

    def send(path, body, headers=None):
        async def read(_request):
            return body

        request = Asked(path, {"content-type": "application/json", **(headers or {})})
        protocols = Protocols(lambda: service, read, slowly, lambda _request: NOBODY, Notices())
        loop.run_until_complete(protocols.respond(request, (None, None), b""))
        return request.answer

    yield send
    pool.shutdown()
    loop.close()


@contextmanager
def ending(seconds):
    """The block ends, or fails."""

    def alarm(*_):
        raise AssertionError("it goes on and on")

    before = signal.signal(signal.SIGALRM, alarm)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def answered(post, path, body, headers=None):
    status, told, reply = post(path, body, headers)
    assert status == 200 or 400 <= status < 500, (status, body[:2_000], headers, reply)
    if status >= 400:
        document = json.loads(reply)
        assert document.get("error") or document.get("message")
    elif told["content-type"] == "application/json":
        json.loads(reply)
    return status


TOKENS = [
    b"NaN", b"null", b"-1", b"1e999", b"9223372036854775808", b"18446744073709551616", b"true", b"[]", b"[[]]", b"{}",
    b'""', b"\xff\xff\xff\xff", b"\x00", b"\xed\xa0\x80", b'"\\ud800"', b'"BYTES"', b'"FP64"', b'"FP16"', b'"BF16"',
    b'"BOOL"', b'"UINT8"', b'"INT8"', b"0", b"-0.0", b"[", b"]", b"{", b"}", b'"', b",", b":", b"4294967295",
    b'"data"', b'"binary_data_size"', b'"shape"', "风险".encode(),
]  # fmt: skip


def mutated(chance, body, others):
    """The body with some bytes, words, pieces or lengths changed."""
    body = bytearray(body)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        at, kind = chance.randrange(len(body) + 1), chance.randrange(8)
        end = min(len(body), at + chance.choice((1, 2, 4, 8, 64, 512)))
        if kind == 0 and at < len(body):
            body[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del body[at:end]
        elif kind == 2:
            body[at:at] = chance.choice(TOKENS)
        elif kind == 3:
            body[at:end] = chance.choice(TOKENS)
        elif kind == 4:
            body[at:at] = body[at:end]
        elif kind == 5:
            body = body[:at]
        elif kind == 6:
            other = chance.choice(others)
            start = chance.randrange(len(other))
            body[at:end] = other[start : start + chance.choice((4, 32, 256))]
        else:
            body[at:end] = struct.pack("<I", chance.choice((0, 1, 2**31, 2**32 - 1, len(body))))
        body = body or bytearray(b"{")
    return bytes(body)


def valid_bodies(row):
    """Bodies that are answered, with the length of their JSON where bytes follow."""
    rows = [row, row]
    yield json.dumps({"inputs": tensors(rows)}).encode(), None
    yield json.dumps({"id": "一", "inputs": tensors([row]), "parameters": {"strict": False}}).encode(), None
    for more in ({}, {"parameters": {"binary_data_output": True}}, {"outputs": [{"name": "score"}]}):
        body, headers = binary(rows, **more)
        yield body, headers["Inference-Header-Content-Length"]


def test_seeded_mutations_of_requests_are_answered_or_refused(post, served):
    row = served.example("score")
    originals = list(valid_bodies(row))
    chance = random.Random(20261121)
    seen = {}
    with ending(500):
        for body, length in originals:
            headers = {} if length is None else {"inference-header-content-length": length}
            assert answered(post, INFER, body, headers) == 200
        for _ in range(CASES):
            body, length = chance.choice(originals)
            body = mutated(chance, body, [other for other, _ in originals])
            if chance.random() < 0.1:
                length = chance.choice(["0", "-1", "1e3", "٣", "9" * 30, str(len(body)), str(len(body) + 1), ""])
            headers = {} if length is None else {"inference-header-content-length": length}
            status = answered(post, INFER, body, headers)
            seen[status] = seen.get(status, 0) + 1
    # The mutations reach past the first check: some are answered, some refused at each stage.
    assert min(seen[status] for status in (200, 400, 422)) > 20, seen


scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5)
words = st.sampled_from(["score", "context.type", "features", "COUNT(visits)", "区域", "", "a"]) | st.text(max_size=4)
types = st.sampled_from(["BOOL", "UINT8", "INT8", "INT16", "INT64", "UINT64", "FP16", "BF16", "FP32", "FP64", "BYTES"])
shapes = st.lists(st.integers(-1, 4) | st.integers(), max_size=3)
data = st.lists(scalars, max_size=5) | st.lists(st.lists(scalars, max_size=3), max_size=3) | scalars
parameters = st.dictionaries(
    st.sampled_from(["binary_data_size", "binary_data", "explain", "strict", "binary_data_output"]) | words,
    scalars,
    max_size=2,
)
tensor = st.fixed_dictionaries(
    {"name": words, "datatype": types, "shape": shapes}, optional={"data": data, "parameters": parameters}
)
requests = st.fixed_dictionaries(
    {"inputs": st.lists(tensor, max_size=3)},
    optional={"id": st.text(max_size=3), "parameters": parameters, "outputs": st.lists(
        st.fixed_dictionaries({"name": words}, optional={"parameters": parameters}), max_size=2)},
)  # fmt: skip
SETTINGS = settings(
    max_examples=1_500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)


@SETTINGS
@given(asked=requests, rest=st.binary(max_size=40), shift=st.integers(-3, 3))
def test_made_up_requests_are_answered_or_refused(post, asked, rest, shift):
    text = json.dumps(asked).encode()
    answered(post, INFER, text)
    length = str(max(0, len(text) + (shift if abs(shift) == 3 else 0)))
    answered(post, INFER, text + rest, {"inference-header-content-length": length})


rows = st.lists(st.dictionaries(words, scalars, max_size=3) | st.lists(scalars, max_size=3) | scalars, max_size=3)
invocations = st.dictionaries(
    st.sampled_from(["dataframe_split", "dataframe_records", "instances", "inputs", "params", "signature_name"]),
    st.fixed_dictionaries({"columns": st.lists(words, max_size=3), "data": rows}) | rows
    | st.dictionaries(st.sampled_from(["target", "explain", "strict"]) | words, scalars | data, max_size=3),
    max_size=3,
)  # fmt: skip


@SETTINGS
@given(
    asked=invocations, text=st.text(max_size=60), kind=st.sampled_from(["text/csv", "text/csv; charset=utf-8", "a/b"])
)
def test_made_up_invocations_are_answered_or_refused(post, asked, text, kind):
    for path in ("/invocations", "/v1/targets/score/invocations"):
        answered(post, path, json.dumps(asked).encode())
        answered(post, path, text.encode("utf-8", "surrogatepass"), {"content-type": kind})


def grpc_request(row, *, as_raw):
    request = message("ModelInferRequest")(model_name="score", id="一")
    for one in tensors([row, row]):
        added = request.inputs.add(name=one["name"], datatype=one["datatype"], shape=one["shape"])
        if as_raw:
            request.raw_input_contents.append(raw(one["data"], one["datatype"]))
        elif one["datatype"] == "BYTES":
            added.contents.bytes_contents.extend(value.encode() for value in one["data"])
        else:
            field = {"FP64": "fp64_contents", "INT64": "int64_contents", "BOOL": "bool_contents"}[one["datatype"]]
            values = [float("nan") if value is None else value for value in one["data"]]
            getattr(added.contents, field).extend(values)
    return request.SerializeToString(deterministic=True)


def refusal(calls, request):
    """The code of the error, empty when there is an answer."""
    try:
        calls.ModelInfer(request, None, None)
    except HoldfastError as error:
        return error.code
    return ""


def test_seeded_mutations_of_messages_are_answered_or_refused(service, served):
    kind = message("ModelInferRequest")
    originals = [grpc_request(served.example("score"), as_raw=as_raw) for as_raw in (True, False)]
    calls, chance, seen = (
        _Calls(Models(service, Notices())),
        random.Random(7),
        {"answered": 0, "refused": 0, "no message": 0},
    )
    from google.protobuf.message import DecodeError

    with ending(500):
        for _ in range(CASES // 3):
            body = mutated(chance, chance.choice(originals), originals)
            try:
                request = kind.FromString(body)
            except DecodeError:
                seen["no message"] += 1
                continue
            code = refusal(calls, request)
            assert code in ("", "request", "alignment", "limit", "not_found")
            seen["refused" if code else "answered"] += 1
    assert min(seen.values()) > 20, seen


def hostile(size):
    """Bodies of about `size` bytes that ask for much more memory than they take."""
    one = {"name": "a", "shape": [2**40], "datatype": "INT8", "parameters": {"binary_data_size": 8}}
    yield json.dumps({"inputs": [one]}).encode(), None
    yield b'{"inputs":[{"name":"a","shape":[9,9],"datatype":"FP64","data":[' + b"[]," * (size // 3) + b"[]]}]}", None
    yield b'{"inputs":[{"name":"a","shape":[9],"datatype":"FP64","data":[' + b"[]," * (size // 3) + b"[]]}]}", None
    yield b'{"inputs":[{"name":"a","shape":[9],"datatype":"FP64","data":' + b"[" * size + b"]}]}", None
    yield b'{"inputs":[' + b'{"name":"a","shape":[0],"datatype":"BOOL","data":[]},' * (size // 53) + b"]}", None
    yield b'{"inputs":[{"name":"a","shape":[' + b"9," * (size // 2) + b'9],"datatype":"BOOL","data":[]}]}', None
    head = json.dumps({"inputs": [{**one, "shape": [size], "parameters": {"binary_data_size": size}}]}).encode()
    yield head + bytes(size), str(len(head))
    text = {**one, "datatype": "BYTES", "shape": [size // 4], "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [text]}).encode()
    yield head + bytes(size), str(len(head))
    many = [
        {**one, "name": str(number), "shape": [9_000], "parameters": {"binary_data_size": 9_000}}
        for number in range(size // 9_000)
    ]
    head = json.dumps({"inputs": many}).encode()
    yield head + bytes(9_000 * len(many)), str(len(head))


def test_memory_is_bounded_by_the_body(post):
    size = 1 << 21
    for number, (body, length) in enumerate(hostile(size)):
        headers = {} if length is None else {"inference-header-content-length": length}
        tracemalloc.start()
        status = answered(post, INFER, body, headers)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert status in (400, 413), number
        assert peak < 40 * size, (number, peak)
