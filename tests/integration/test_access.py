"""Who may do what, against real servers over real TLS: every route, every role, and what browsers may be made to do."""

import asyncio
import contextlib
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import httpx
import pytest

from holdfast.backend.access import Role
from holdfast.backend.api.control import create_app
from holdfast.backend.api.foreign import ROUTES as FOREIGN
from holdfast.backend.api.guard import PREDICT_ROLES, role_of
from holdfast.backend.api.notices import Notices
from holdfast.backend.api.open_inference.messages import SERVICE, methods
from holdfast.backend.api.open_inference.rpc import GrpcServer
from holdfast.backend.pipelines.deploy import deploy
from holdfast.backend.serving.loader import Live
from holdfast.backend.serving.log import PredictionLog
from holdfast.backend.serving.service import Service
from holdfast.backend.store import Audit
from holdfast.frontend.client import Project
from tests.certificates import Authority

from .conftest import RunningServer
from .exchanges import Exchange, served
from .serving_project import CONFIG, Rooms, copy_project, open_control

GRANTABLE = [role for role in Role if role is not Role.ANYONE]
TLS = "serving: {timeout: 3s, tls: {certificate: 证书/server.pem, key: 证书/server.key}}\n"


class World:
    """A project with a key of each role, and its server over TLS."""

    def __init__(self, root):
        self.root = root
        authority = Authority(root / "证书")
        authority.issue("server")
        (root / "holdfast.yaml").write_text(CONFIG + TLS, encoding="utf-8")
        self.rooms = Rooms(root)
        self.keys = {role: self.rooms.keys.add(f"{role.word} 王芳", role.word).key for role in GRANTABLE}
        self.dead = self.rooms.keys.add("gone", "admin").key
        self.rooms.keys.revoke("gone")
        self.verify = ssl.create_default_context(cafile=authority.file)
        self.server = RunningServer(root, 1, self.verify)
        self.client = httpx.Client(verify=self.verify, timeout=60)

    def ask(self, method, url, role=None, **options):
        headers = {} if role is None else {"authorization": f"Bearer {self.keys[role]}"}
        return self.client.request(method, url, headers=headers, **options)


@pytest.fixture(scope="module")
def world(tmp_path_factory, serving_root):
    root = tmp_path_factory.mktemp("access") / "项目"
    copy_project(serving_root, root)
    made = World(root)
    yield made
    made.client.close()
    assert made.server.stop() == 0, made.server.output.read_text()
    made.rooms.store.close()


def control_routes():
    """(method, path, role) of every route of the control plane, whatever made it."""
    app = create_app(open_control_of_nothing())
    return [(method, route.path, role_of(getattr(route, "endpoint", None))) for route in app.routes
            for method in sorted(getattr(route, "methods", None) or {"GET"})]  # fmt: skip


def open_control_of_nothing():
    """Rooms that are only looked at for their routes."""
    from types import SimpleNamespace

    return SimpleNamespace(lineage=SimpleNamespace(sources=None), online=None, gate=None, rollouts=SimpleNamespace())


CONTROL = control_routes()
PREDICT = [("POST" if path.endswith("predict") else "GET", path, role) for path, role in PREDICT_ROLES.items()]
ROUTES = [("control", *route) for route in CONTROL] + [("base", *route) for route in PREDICT]


def test_there_are_routes_to_look_at_and_each_declares_a_role(world):
    assert len(CONTROL) > 15
    assert [route for route in CONTROL if route[2] is None] == []
    documented = {}
    for place in ("base", "control"):
        document = world.ask("GET", f"{getattr(world.server, place)}/openapi.json", Role.VIEWER).json()
        documented[place] = set(document["paths"])
        assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    assert documented["base"] <= set(PREDICT_ROLES)
    assert documented["control"] <= {path.replace(":path", "") for _, path, _ in CONTROL}


@pytest.mark.parametrize(("place", "method", "path", "role"), ROUTES, ids=str)
def test_every_route_asks_for_its_role(world, place, method, path, role):
    url = getattr(world.server, place) + re.sub(r"\{[^}]*\}", "x", path)
    body = {"json": {}} if method == "POST" else {}
    without = world.ask(method, url, **body)
    if role is Role.ANYONE:
        assert without.status_code not in (401, 403), without.text
        return
    assert without.status_code == 401
    assert without.headers["www-authenticate"] == "Bearer"
    foreign = path in FOREIGN or path == "/v2/"  # the protocols of others have words of their own
    if not foreign:
        assert without.headers["content-type"] == "application/problem+json"
        assert without.json()["code"] == "unauthenticated"
    for headers in ({"x-api-key": world.dead}, {"authorization": "Bearer hf_000000000000_0"}):
        assert world.client.request(method, url, headers=headers, **body).status_code == 401
    for given in GRANTABLE:
        reply = world.ask(method, url, given, **body)
        if given >= role:
            assert reply.status_code not in (401, 403, 500), reply.text
        else:
            assert reply.status_code == 403
            if not foreign:
                assert reply.json()["code"] == "forbidden"
                assert reply.json()["where"] == {"needs": role.word}


ABSENT = [("GET", "/nothing"), ("GET", "/v1/targets/x/secret"), ("DELETE", "/v1/models"), ("PUT", "/v1/targets"),
          ("GET", "/redoc"), ("GET", "/v1/targets/..%2f"),
          # The same words, quoted twice: who looks up the role must not read them otherwise than who answers.
          ("POST", "/v2/%2572epository/models/score/unload"), ("POST", "/v2/repository/models/score/%2575nload"),
          ("POST", "/v2/repositor%2579/index"), ("GET", "/v2/model%2573/score")]  # fmt: skip


@pytest.mark.parametrize("place", ["base", "control"])
@pytest.mark.parametrize(("method", "path"), ABSENT)
def test_what_is_not_there_is_told_only_to_who_has_a_key(world, place, method, path):
    url = getattr(world.server, place) + path
    assert world.ask(method, url).status_code == 401
    assert world.ask(method, url, Role.PREDICTOR).status_code in (404, 405)


def test_a_planted_route_that_declares_nothing_is_shut_to_everybody(world):
    app = create_app(open_control(world.root))
    app.get("/planted")(lambda: "open")
    app.add_route("/raw", lambda _request: None)
    app.mount("/mounted", lambda *_: None)

    async def statuses():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return [
                (await client.get(path, headers=headers)).status_code
                for path in ("/planted", "/raw", "/mounted/x")
                for headers in ({}, *({"x-api-key": key} for key in world.keys.values()))
            ]

    assert set(asyncio.run(statuses())) == {403}


def test_a_path_of_the_prediction_port_that_is_not_declared_is_shut(world, monkeypatch):
    from holdfast.backend.api import guard, predict

    live = Live(world.rooms.sources)
    live.start()
    service = Service(live, PredictionLog(world.root / "own.db"), world.rooms.clock)
    app = predict.PredictApp(lambda: service, 1 << 20, Notices())
    app._service = service

    def asked():
        exchange = Exchange("/v1/targets", method="GET", **{"x-api-key": world.keys[Role.ADMIN]})
        with served(app) as server:
            server.ask([exchange])
        return exchange.status

    assert asked() == 200
    monkeypatch.setattr(predict, "_ROLES", guard.Roles({"/v1/health": Role.ANYONE}))
    assert asked() == 404
    live.stop()
    service.log.close()


def test_health_says_more_to_who_may_read(world):
    url = f"{world.server.base}/v1/health"
    for role in (None, Role.PREDICTOR):
        assert world.ask("GET", url, role).json().keys() == {"status"}
    assert {"worker", "targets", "log"} <= world.ask("GET", url, Role.VIEWER).json().keys()


def test_the_audit_log_names_the_key(world):
    made = world.ask("POST", f"{world.server.control}/v1/deployments", Role.OPERATOR, json={"target": "score"})
    assert made.status_code == 201, made.text
    with world.rooms.store.read() as connection:
        last = list(Audit(connection).entries(object="deployment:score"))[-1]
    assert (last.who, last.after) == ("operator 王芳", made.json()["id"])
    answered = f"{world.server.base}/v1/targets/score"
    until(lambda: world.ask("GET", answered, Role.PREDICTOR).status_code == 200)
    example = world.ask("GET", answered, Role.PREDICTOR).json()["example"]
    reply = world.ask("POST", f"{answered}/predict", Role.PREDICTOR, json=example)
    assert reply.json()["deployment"] == made.json()["id"]


def test_what_other_protocols_move_is_audited_by_the_name_of_the_key(world):
    deploy(world.rooms.sources, "grade", world.rooms.newest("grade"))
    model = f"{world.server.base}/v2/models/grade/ready"
    until(lambda: world.ask("GET", model).status_code == 200)
    for what in ("unload", "load"):
        url = f"{world.server.base}/v2/repository/models/grade/{what}"
        assert world.ask("POST", url, Role.OPERATOR).status_code == 200
        assert audited(world)[-1].who == "operator 王芳"


def test_what_grpc_moves_is_audited_by_the_name_of_the_key(world):
    deploy(world.rooms.sources, "grade", world.rooms.newest("grade"))
    live = Live(world.rooms.sources)
    live.start()
    service = Service(live, PredictionLog(world.root / "grpc.db"), world.rooms.clock)
    server = GrpcServer(service, "127.0.0.1", 0, 1 << 20, Notices())
    server.start()
    stopped = threading.Event()
    runner = threading.Thread(target=server.run_until, args=(stopped,))
    runner.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            for name, asked, answered in methods():
                if name in ("RepositoryModelUnload", "RepositoryModelLoad"):
                    call = channel.unary_unary(
                        f"/{SERVICE}/{name}",
                        request_serializer=asked.SerializeToString, response_deserializer=answered.FromString,
                    )  # fmt: skip
                    key = ("authorization", f"Bearer {world.keys[Role.OPERATOR]}")
                    count = len(audited(world))
                    with contextlib.suppress(grpc.RpcError):  # the order of the methods is the protocol's
                        call(asked(model_name="grade"), metadata=[key], wait_for_ready=True, timeout=60)
                    assert {entry.who for entry in audited(world)[count:]} <= {"operator 王芳"}
        assert audited(world)[-1].who == "operator 王芳"
    finally:
        stopped.set()
        runner.join(40)
        live.stop()
        service.log.close()


def audited(world):
    with world.rooms.store.read() as connection:
        return list(Audit(connection).entries(object="deployment:grade"))


def until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come to pass in time")


def test_a_running_server_follows_the_keys(world):
    urls = [f"{world.server.base}/v1/targets", f"{world.server.control}/v1/status"]
    added = world.rooms.keys.add("new", "viewer")
    brief = world.rooms.keys.add("brief", "viewer", expires="2s")

    def statuses(key):
        return {world.client.get(url, headers={"x-api-key": key}).status_code for url in urls}

    until(lambda: statuses(added.key) == {200})
    until(lambda: statuses(brief.key) == {401})
    world.rooms.keys.revoke(added.id)
    until(lambda: statuses(added.key) == {401})
    assert "was revoked" in world.client.get(urls[0], headers={"x-api-key": added.key}).json()["detail"]


def test_plain_http_and_old_tls_get_nothing(world):
    old = ssl.create_default_context(cafile=world.root / "证书" / "ca.pem")
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    for place in (world.server.base, world.server.control):
        with pytest.raises(httpx.TransportError):
            httpx.get(place.replace("https", "http") + "/v1/health")
        with pytest.raises(httpx.ConnectError, match="certificate"):
            httpx.get(place + "/v1/health")
        with httpx.Client(verify=old) as client, pytest.raises(httpx.ConnectError, match=r"PROTOCOL_VERSION|EOF"):
            client.get(place + "/v1/health")


def talk(world, port, text, patience=30):
    """Send bytes over TLS and read what comes until the other side ends it."""
    raw = socket.create_connection(("127.0.0.1", port), timeout=patience)
    with world.verify.wrap_socket(raw, server_hostname="localhost") as connection:
        connection.sendall(text)
        said = b""
        try:
            while not re.search(rb"\r\n\r\n.*\}", said, re.DOTALL) and (piece := connection.recv(65536)):
                said += piece
        except (ConnectionError, ssl.SSLError):
            pass
        return said


def test_a_body_that_never_comes_is_given_up_and_others_are_served_meanwhile(world):
    head = "POST {} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {}\r\nContent-Length: 50\r\n\r\n{{"
    asked = [
        (world.server.port, head.format("/v1/targets/score/predict", world.keys[Role.PREDICTOR]), b"503"),
        (world.server.port + 1, head.format("/v1/deployments", world.keys[Role.OPERATOR]), b"408"),
    ]
    for port, text, status in asked:
        said = []
        slow = [threading.Thread(target=lambda: said.append(talk(world, port, text.encode()))) for _ in range(20)]  # noqa: B023
        for thread in slow:
            thread.start()
        reply = world.client.get(f"https://127.0.0.1:{port}/v1/health")
        assert reply.status_code == 200
        for thread in slow:
            thread.join(60)
        assert len(said) == 20
        assert all(answer.split(b" ")[1] == status for answer in said), said


def test_headers_that_never_end_or_are_too_large_are_given_up(world):
    for port in (world.server.port, world.server.port + 1):
        huge = b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\nX-Junk: " + b"x" * (1 << 20) + b"\r\n\r\n"
        try:
            said = talk(world, port, huge)
        except (ConnectionError, ssl.SSLError):
            said = b""
        assert b" 200 " not in said.partition(b"\r\n")[0]
        assert b" 200 " not in talk(world, port, b"GET /v1/health HTTP/1.1\r\nHost: lo").partition(b"\r\n")[0]
        assert world.client.get(f"https://127.0.0.1:{port}/v1/health").status_code == 200


def test_an_error_inside_shows_nothing_of_the_inside(world):
    rooms = open_control(world.root)
    broken = create_app(type(rooms)(**{**vars(rooms), "status": lambda: 1 / 0}))

    async def asked():
        transport = httpx.ASGITransport(broken)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get("/v1/status", headers={"x-api-key": world.keys[Role.VIEWER]})

    reply = asyncio.run(asked())
    assert reply.status_code == 500
    assert reply.json()["code"] == "internal"
    assert not any(word in reply.text for word in ("Zero", "Traceback", "division", ".py"))


def test_no_key_is_anywhere(world, tmp_path):
    """After all of the above: not in files, logs, the database, the server's output, answers, or a backup."""
    secrets = [key.rpartition("_")[2] for key in (*world.keys.values(), world.dead)]
    wrong = {"authorization": f"Bearer {world.keys[Role.ADMIN]}0", "x-api-key": world.dead}
    answers = []
    for place in (world.server.base, world.server.control):
        for path in ("/v1/targets", "/v1/status", "/docs", "/openapi.json", "/v1/health", f"/{world.dead}"):
            answers += [world.client.get(place + path, headers=headers).text
                        for headers in (wrong, {"x-api-key": world.keys[Role.ADMIN]}, {"x-api-key": world.dead})
                        if world.dead not in path or headers is wrong]  # fmt: skip
    assert not [answer for answer in answers for secret in secrets if secret in answer]
    with Project(world.root) as project:
        project.backup(tmp_path / "backup")
        project.export_audit(tmp_path / "audit.jsonl")
    files = [path for folder in (world.root, tmp_path) for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 30
    # By another process: see `copy_project`.
    texts = [(path, subprocess.run(["cat", path], capture_output=True, check=True).stdout) for path in files]
    found = [str(path) for path, data in texts for secret in secrets if secret.encode() in data]
    assert found == []


def empty_project(root, serving):
    root.mkdir(parents=True)
    (root / "holdfast.yaml").write_text(CONFIG + serving, encoding="utf-8")
    return Rooms(root)


def test_with_a_client_ca_only_its_certificates_get_through(tmp_path):
    root = tmp_path / "项目"
    rooms = empty_project(root, TLS.replace("}}", ", client_ca: ca.pem}}"))
    servers, clients = Authority(root / "证书"), Authority(tmp_path / "clients")
    servers.issue("server")
    shutil.copy(clients.file, root / "ca.pem")
    stranger = ssl.create_default_context(cafile=servers.file)
    impostor = ssl.create_default_context(cafile=servers.file)
    impostor.load_cert_chain(*servers.issue("impostor"))
    member = ssl.create_default_context(cafile=servers.file)
    member.load_cert_chain(*clients.issue("member"))
    running = RunningServer(root, 1, member)
    try:
        for place in (running.base, running.control):
            for context in (stranger, impostor):
                with httpx.Client(verify=context) as client, pytest.raises(httpx.TransportError):
                    client.get(f"{place}/v1/health")
            with httpx.Client(verify=member) as client:
                assert client.get(f"{place}/v1/health").status_code == 200
    finally:
        assert running.stop() == 0
        rooms.store.close()


def test_the_first_key_shuts_an_open_server(tmp_path):
    rooms = empty_project(tmp_path / "项目", "")
    running = RunningServer(rooms.layout.root, 1)
    try:
        urls = [f"{running.base}/v1/targets", f"{running.control}/v1/status"]
        for url in urls:
            assert httpx.get(url).status_code == 200
            foreign = httpx.get(url, headers={"host": "evil.example"})
            assert (foreign.status_code, foreign.json()["code"]) == (403, "forbidden")
        writes = [f"{running.base}/v1/targets/x/predict", f"{running.control}/v1/targets/x/rollback"]
        for url in writes:
            for origin, status in (("https://evil.example", 403), ("null", 403), (url.partition("/v1")[0], 404)):
                body = {"features": {}} if "predict" in url else {}
                assert httpx.post(url, json=body, headers={"origin": origin}).status_code == status
        rooms.keys.add("app", "viewer")
        until(lambda: {httpx.get(url).status_code for url in urls} == {401})
    finally:
        assert running.stop() == 0
        rooms.store.close()


@pytest.mark.parametrize(
    ("serving", "said"),
    [
        ("{host: 0.0.0.0}", "holdfast keys add"),
        ("{tls: {certificate: none.pem, key: none.key}}", "serving.tls.certificate"),
        ("{tls: {certificate: none.pem}}", "'key' is missing"),
        ("{timeout: soon}", "is not a duration"),
    ],
)
def test_a_server_that_would_be_unsafe_or_wrong_does_not_start(tmp_path, serving, said):
    (tmp_path / "holdfast.yaml").write_text(f"{CONFIG}serving: {serving}\n", encoding="utf-8")
    command = [sys.executable, "-m", "holdfast", "serve", "-C", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_deployment_is_followed_while_keys_change(world):
    """Not only the gate: what is deployed is still followed by a server that has one."""
    made = deploy(world.rooms.sources, "grade", world.rooms.newest("grade"))
    url = f"{world.server.base}/v1/targets/grade"
    until(lambda: world.ask("GET", url, Role.PREDICTOR).json().get("deployment") == made.id)
    assert Path(world.rooms.log).exists()
