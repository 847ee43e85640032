"""Changes under full load: swaps, restarts, stops and kills. What was sent is answered, by exactly one deployment."""

import json
import os
import signal
from collections import Counter
from pathlib import Path

import httpx

from .clients import CLIENTS, TARGET
from .conftest import both_answer, load, running, states, until


def test_twenty_swaps_lose_no_request_and_mix_no_answer(world):
    with running(world.root) as server, httpx.Client(base_url=server.control, timeout=120) as control:
        made = set()
        with load(server) as requests:
            for turn in range(20):
                if turn % 2:
                    reply = control.post(f"/v1/targets/{TARGET}/rollback", json={})
                else:
                    models = world.models[1 - turn // 2 % 2]
                    reply = control.post("/v1/deployments", json={"target": TARGET, "models": models})
                assert reply.is_success, reply.text
                now = reply.json()["id"]
                made.add(now)
                until(lambda now=now: both_answer(server, now))
                requests.flowing(50)
        assert requests.failures == []
        assert requests.refused == 0
        world.check(requests.answers)
        # Each of them answered: the swaps were real.
        assert made <= {answer.deployment for answer in requests.answers}
        assert {len(versions) for versions in world.versions().values()} == {2}


def test_a_restart_by_sighup_loses_no_request(world):
    with running(world.root) as server:
        before = set(states(server))
        assert len(before) == 2
        control = children(server.process.pid) - before
        with load(server) as requests:
            requests.flowing()
            server.process.send_signal(signal.SIGHUP)
            until(lambda: len(now := set(states(server))) == 2 and not now & before, 240)
            requests.flowing()
        assert requests.failures == []
        assert requests.refused == 0
        world.check(requests.answers)
        # The control plane is a new process too, and the old ones are gone.
        until(lambda: not children(server.process.pid) & (before | control))
        assert httpx.get(f"{server.control}/v1/health", timeout=60).status_code == 200
        assert httpx.get(f"{server.base}/v1/ready", timeout=60).status_code == 200


def test_a_restart_that_cannot_succeed_changes_nothing(world):
    """The project file is broken: new processes cannot start, so the old ones go on."""
    with running(world.root) as server:
        before, processes = set(states(server)), children(server.process.pid)
        file = world.root / "holdfast.yaml"
        good = file.read_text(encoding="utf-8")
        try:
            file.write_text("tables: [\n", encoding="utf-8")
            with load(server) as requests:
                server.process.send_signal(signal.SIGHUP)
                until(lambda: server.output.read_text().count("the restart is given up") == 2, 240)
                requests.flowing()
            assert requests.failures == []
            assert set(states(server)) == before
            assert httpx.get(f"{server.control}/v1/health", timeout=60).status_code == 200
            until(lambda: children(server.process.pid) == processes)
        finally:
            file.write_text(good, encoding="utf-8")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: len(now := set(states(server))) == 2 and not now & before, 240)


def test_a_killed_worker_loses_only_what_it_had_in_its_hands(world):
    with running(world.root) as server, load(server, ask_worker=True) as requests:
        requests.flowing()
        victim = until(lambda: next(iter(requests.workers.values()), None))
        os.kill(victim, signal.SIGKILL)
        requests.flowing()
        until(lambda: len(now := set(states(server))) == 2 and victim not in now, 120)
        requests.flowing()
        failures = list(requests.failures)
    assert requests.failures == failures, "after the new worker came"
    assert all(failure.worker in (victim, None) for failure in failures), failures
    # One request at most of each connection, and one that was just being opened to it.
    counted = Counter(failure.client for failure in failures)
    assert max(counted.values(), default=0) <= 2, failures
    assert len(failures) <= CLIENTS, failures
    world.check(requests.answers)


def test_a_server_that_drains_says_so_and_answers_on(world):
    with running(draining(world, 10)) as server:
        with load(server) as requests:
            requests.flowing()
            server.process.send_signal(signal.SIGTERM)
            refusal = until(lambda: (reply := _ready(server)).status_code == 503 and reply)
            assert refusal.headers["retry-after"]
            assert "about to stop" in refusal.json()["detail"]
            requests.flowing(100)
        # Who asks it directly until the very end may come when nobody accepts any more; behind a proxy nobody notices.
        assert requests.failures == []
        assert requests.refused == 0
        world.check(requests.answers)
        assert server.process.wait(60) == 0
        assert "Traceback" not in server.output.read_text()


def test_a_second_signal_does_not_wait_for_the_drain(world):
    with running(draining(world, 3600)) as server:
        server.process.send_signal(signal.SIGTERM)
        until(lambda: _ready(server).status_code == 503)
        server.process.send_signal(signal.SIGHUP)  # of no effect: it is about to end
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0


def draining(world, seconds):
    """The project beside itself, with `serving.drain`: the same database and models."""
    root = world.root.with_name(f"drain-{seconds}")
    root.mkdir(exist_ok=True)
    for name in (".holdfast", "data", "features"):
        if not (root / name).exists():
            (root / name).symlink_to(world.root / name)
    text = (world.root / "holdfast.yaml").read_text(encoding="utf-8")
    (root / "holdfast.yaml").write_text(f"{text}serving: {json.dumps({'drain': seconds})}\n", encoding="utf-8")
    return root


def _ready(server):
    return httpx.get(f"{server.base}/v1/ready", timeout=60)


def children(pid):
    """The worker and control processes: children that run Python's `spawn_main`, not its resource tracker."""
    found = set()
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            command = Path(f"/proc/{child}/cmdline").read_bytes()
        except OSError:
            continue
        if b"spawn_main" in command:
            found.add(int(child))
    return found
