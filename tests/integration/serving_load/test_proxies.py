"""The shipped proxies in front of two real servers, one of which is killed, started again, drained or restarted."""

import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from tests.integration.conftest import free_port

from .clients import CLIENTS
from .conftest import ROOT, load, running, until
from .test_changes import children, draining

HAPROXY = ROOT / "deploy" / "haproxy" / "haproxy.cfg"
NGINX = ROOT / "deploy" / "nginx" / "holdfast.conf"


def _need(name):
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if found is None:
        pytest.skip(f"there is no {name}; install the Debian package {name}")
    return found


class HaProxy:
    """HAProxy with the shipped configuration, which takes the addresses from the environment."""

    def __init__(self, folder, *ports, host="127.0.0.1", config=HAPROXY):
        self.port = free_port()
        command = [_need("haproxy"), "-f", str(config)]
        environment = {
            **os.environ,
            "HOLDFAST_LISTEN": f"127.0.0.1:{self.port}",
            "HOLDFAST_ONE": f"{host}:{ports[0]}",
            "HOLDFAST_TWO": f"{host}:{ports[1]}",
        }
        subprocess.run([*command, "-c"], env=environment, check=True, capture_output=True)
        self.log = folder / "haproxy.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([*command, "-db"], env=environment, stdout=log, stderr=subprocess.STDOUT)
        self._names = {ports[0]: "one", ports[1]: "two"}

    def answered(self, server):
        """How many predictions it had from a server."""
        return len(re.findall(rf" holdfast/{self._names[server.port]} .* 200 .*POST", self.log.read_text()))


class Nginx:
    """nginx with the shipped configuration, the addresses in it replaced, inside a minimal main file."""

    def __init__(self, folder, *ports):
        self.port = free_port()
        text = NGINX.read_text(encoding="utf-8")
        for old, new in {"one:8700": f"127.0.0.1:{ports[0]}", "two:8700": f"127.0.0.1:{ports[1]}"}.items():
            assert f"server {old} " in text
            text = text.replace(f"server {old} ", f"server {new} ")
        assert "listen 8700;" in text
        text = text.replace("listen 8700;", f"listen 127.0.0.1:{self.port};")
        (folder / "holdfast.conf").write_text(text, encoding="utf-8")
        kept = "".join(
            f"{name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        main = f"daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log; events {{}}\n"
        form = "$request_method $upstream_status $upstream_addr"
        shown = f"log_format shown '{form}'; access_log {folder}/access.log shown;\n"
        (folder / "nginx.conf").write_text(
            f"{main}http {{ {shown}{kept}include {folder}/holdfast.conf; }}\n", encoding="utf-8"
        )
        command = [_need("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf")]
        subprocess.run([*command, "-t"], check=True, capture_output=True)
        self.log, self._access = folder / "nginx.log", folder / "access.log"
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def answered(self, server):
        """How many predictions it had from a server: the last one that it asked, of several."""
        return len(re.findall(rf"POST .*200 .*127.0.0.1:{server.port}$", self._access.read_text(), re.MULTILINE))


@contextmanager
def proxied(kind, folder, *servers):
    proxy = kind(folder, *(server.port for server in servers))
    try:
        until(lambda: _status(proxy.port) == 200)
        yield proxy
    finally:
        proxy.process.terminate()
        proxy.process.wait(30)


def _status(port):
    try:
        return httpx.get(f"http://127.0.0.1:{port}/v1/ready", timeout=30).status_code
    except httpx.TransportError:
        return None


def _kill(server):
    """The machine is gone: all of the server's processes, at once."""
    pids = [server.process.pid, *children(server.process.pid)]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    server.process.wait(20)


@pytest.mark.parametrize("kind", [HaProxy, Nginx])
def test_a_server_is_killed_and_comes_back_and_nobody_notices(world, tmp_path, kind):
    with running(world.root) as one, running(world.root) as two, proxied(kind, tmp_path, one, two) as proxy:
        with load(one, proxy.port) as requests:
            requests.flowing(500)
            _kill(two)
            requests.flowing(500)
            counted = proxy.answered(two)
            with running(world.root, port=two.port):
                until(lambda: proxy.answered(two) > counted + 50, 120)
        assert requests.failures == [], proxy.log.read_text()[-2000:]
        assert requests.refused == 0
        world.check(requests.answers)


@pytest.mark.parametrize("kind", [HaProxy, Nginx])
def test_a_server_drains_and_nobody_notices(world, tmp_path, kind):
    root = draining(world, 4)
    with running(root) as one, running(root) as two, proxied(kind, tmp_path, one, two) as proxy:
        with load(one, proxy.port) as requests:
            requests.flowing(500)
            two.process.send_signal(signal.SIGTERM)
            assert two.process.wait(90) == 0
            requests.flowing(500)
        assert requests.failures == [], proxy.log.read_text()[-2000:]
        world.check(requests.answers)


def test_haproxy_sends_nothing_more_to_a_server_that_drains(world, tmp_path):
    root = draining(world, 3600)
    with running(root) as one, running(root) as two, proxied(HaProxy, tmp_path, one, two) as proxy:
        with load(one, proxy.port) as requests:
            requests.flowing(200)
            two.process.send_signal(signal.SIGTERM)
            until(lambda: "holdfast/two is DOWN" in proxy.log.read_text())
            before = proxy.answered(two)
            requests.flowing(200)
            # What was under way when it was left out may have been counted since.
            assert proxy.answered(two) <= before + CLIENTS
            two.process.send_signal(signal.SIGTERM)
            assert two.process.wait(60) == 0
        assert requests.failures == []
        world.check(requests.answers)


class Names:
    """A name server that gives every name the address `address`, or none."""

    def __init__(self):
        self.address = None
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._answer, daemon=True).start()

    def _answer(self):
        while True:
            try:
                asked, where = self._socket.recvfrom(4096)
            except OSError:
                return
            end = asked.index(b"\0", 12) + 5
            known = self.address is not None and asked[end - 4 : end - 2] == b"\0\1"
            flags = b"\x81\x80" if self.address is not None else b"\x81\x83"
            head = asked[:2] + flags + b"\0\1" + (b"\0\1" if known else b"\0\0") + bytes(4)
            found = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4" + socket.inet_aton(self.address) if known else b""
            self._socket.sendto(head + asked[12:end] + found, where)

    def close(self):
        self._socket.close()


class Busy(BaseHTTPRequestHandler):
    """Is ready, and has no room for predictions."""

    protocol_version = "HTTP/1.1"
    asked = 0

    def do_GET(self):
        self._say(200)

    def do_POST(self):
        type(self).asked += 1
        self.rfile.read(int(self.headers["content-length"]))
        self._say(503)

    def _say(self, status):
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_given):
        pass


@contextmanager
def busy(host, port=0):
    server = ThreadingHTTPServer((host, port), Busy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def test_haproxy_starts_without_its_servers_and_follows_their_addresses(tmp_path):
    names, config = Names(), tmp_path / "haproxy.cfg"
    text = HAPROXY.read_text(encoding="utf-8")
    assert "parse-resolv-conf" in text
    text = text.replace("parse-resolv-conf", f"nameserver test 127.0.0.1:{names.port}")
    config.write_text(text, encoding="utf-8")
    with busy("127.0.0.1") as port:
        proxy = HaProxy(tmp_path, port, port, host="holdfast.invalid", config=config)
        try:
            until(lambda: _status(proxy.port) == 503)
            names.address = "127.0.0.1"
            until(lambda: _status(proxy.port) == 200)
            with busy("127.0.0.2", port):
                names.address = "127.0.0.2"
                until(lambda: "127.0.0.1 to 127.0.0.2" in proxy.log.read_text())
                until(lambda: _status(proxy.port) == 200)
        finally:
            proxy.process.terminate()
            proxy.process.wait(30)
            names.close()


@pytest.mark.parametrize("kind", [HaProxy, Nginx])
def test_servers_without_room_are_asked_once_each(tmp_path, kind):
    with busy("127.0.0.1") as one, busy("127.0.0.1") as two:
        proxy = kind(tmp_path, one, two)
        try:
            until(lambda: _status(proxy.port) == 200)
            Busy.asked = 0
            for _ in range(3):
                assert httpx.post(f"http://127.0.0.1:{proxy.port}/v1/predict", json={}).status_code in {502, 503}
            assert Busy.asked <= 6
        finally:
            proxy.process.terminate()
            proxy.process.wait(30)
