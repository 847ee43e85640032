"""Who is measured: how each is installed, started and asked, and what its answer says.

Every peer has an environment of its own under `benchmarks/.envs/`, made at its first run by pip.
"""

import json
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from made import NAMES, TARGET, World
from processes import Failed

__all__ = ["OURS", "PEERS", "UNINSTALLABLE", "Peer", "Place", "install", "installed"]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ENVS = HERE.parent / ".envs"
APPS = HERE / "apps"
WORKERS = 2
Sent = Mapping[str, float]
_INSTALL_SECONDS = 900
_ADDRESS = re.compile(r"https?://\S+|host='[^']*'")
"""Where pip asked is no figure."""


@dataclass(frozen=True)
class Place:
    """Where a server starts: the folder of executables of its environment, its scratch folder, its port."""

    bin: Path
    folder: Path
    port: int
    world: World


@dataclass(frozen=True)
class Peer:
    """One server. `body` makes the request of a row, `read` finds the probability in an answer's JSON.

    `needs` are pip requirements (the environment is called `env`), `prepare` is run once before the first start, `after`
    says something of a server that was loaded (its port, the headers it wants). What is not `checked` answers a constant.
    XGBoost gets one thread in each process, as two workers on two cores want it, unless `threads` leaves that to its default.
    """

    name: str
    env: str
    command: Callable[[Place], Sequence[str]]
    needs: Sequence[str] = ()
    prepare: Callable[[Place], None] = lambda _: None
    path: str = "/predict"
    body: Callable[[Sent], Any] = dict
    read: Callable[[Any], float] = lambda answer: answer["probability"]
    environ: Mapping[str, str] = field(default_factory=dict)
    checked: bool = True
    threads: bool = False
    after: Callable[[int, Mapping[str, str]], str] = lambda _port, _headers: ""
    start_seconds: float = 60
    grace: float = 5
    note: str = ""


def install(peer: Peer) -> Path:
    """The folder of executables of the peer's environment, made at the first call. Failed when pip fails."""
    if not peer.env:
        return Path(sys.executable).parent
    folder = ENVS / peer.env
    ready, wanted = folder / ".ready", "\n".join(peer.needs)
    if ready.exists() and ready.read_text(encoding="utf-8") == wanted:
        return folder / "bin"
    print(f"{peer.name}: installing {' '.join(peer.needs)}", file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=120)
        subprocess.run([*pip, *peer.needs], check=True, capture_output=True, text=True, timeout=_INSTALL_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"pip was not done within {_INSTALL_SECONDS} s") from error
    except subprocess.CalledProcessError as error:
        said = [line for line in (error.stderr or "").splitlines() if "ERROR" in line] or [str(error)]
        raise Failed(f"pip: {_ADDRESS.sub('...', said[-1])[:250]}") from error
    ready.write_text(wanted, encoding="utf-8")
    return folder / "bin"


def installed(peer: Peer) -> str:
    """The version of the peer's first requirement, as its environment says it."""
    if not peer.needs:
        return ""
    name = peer.needs[0].partition("[")[0].partition("=")[0]
    code = f"import importlib.metadata as m; print(m.version({name!r}))"
    python = ENVS / peer.env / "bin" / "python"
    found = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    return f"{name} {found.stdout.strip()}"


def _uvicorn(app: str) -> Callable[[Place], Sequence[str]]:
    return lambda place: [
        str(place.bin / "uvicorn"), f"{app}:app", "--app-dir", str(APPS), "--host", "127.0.0.1", "--port", str(place.port),
        "--workers", str(WORKERS), "--log-level", "warning", "--no-access-log", "--loop", "uvloop", "--http", "httptools",
    ]  # fmt: skip


def _script(name: str) -> Callable[[Place], Sequence[str]]:
    return lambda place: [str(place.bin / "python"), str(APPS / name), str(place.port), str(WORKERS)]


def _bento(place: Place) -> Sequence[str]:
    return [str(place.bin / "bentoml"), "serve", "bento_service:Risk", "--working-dir", str(APPS), "--host", "127.0.0.1",
            "--port", str(place.port)]  # fmt: skip


def _gunicorn(place: Place) -> Sequence[str]:
    return [str(place.bin / "gunicorn"), "flask_app:app", "--chdir", str(APPS), "--bind", f"127.0.0.1:{place.port}",
            "--workers", str(WORKERS), "--worker-tmp-dir", str(place.folder), "--no-control-socket", "--log-level", "warning"]  # fmt: skip


def _save_mlflow(place: Place) -> None:
    folder = place.folder / "model"
    shutil.rmtree(folder, ignore_errors=True)
    command = [str(place.bin / "python"), str(APPS / "save_mlflow.py"), str(place.world.files), str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if ended.returncode:
        raise Failed(f"the model could not be saved: {ended.stderr.strip().splitlines()[-1][:250]}")


def _mlflow(place: Place) -> Sequence[str]:
    return [str(place.bin / "mlflow"), "models", "serve", "-m", str(place.folder / "model"), "--env-manager", "local",
            "-h", "127.0.0.1", "-p", str(place.port), "-w", str(WORKERS)]  # fmt: skip


def _mlserver(place: Place) -> Sequence[str]:
    settings = {"host": "127.0.0.1", "http_port": place.port, "grpc_port": place.port + 1, "metrics_port": place.port + 2,
                "parallel_workers": WORKERS, "debug": False}  # fmt: skip
    model = {"name": TARGET, "implementation": "mlserver_xgboost.XGBoostModel",
             "parameters": {"uri": str(place.world.files / "classifier.ubj")}}  # fmt: skip
    (place.folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    (place.folder / "model-settings.json").write_text(json.dumps(model), encoding="utf-8")
    return [str(place.bin / "mlserver"), "start", str(place.folder)]


def _tensor(name: str, outputs: str) -> Callable[[Sent], Any]:
    return lambda row: {
        "inputs": [{"name": name, "shape": [1, len(row)], "datatype": "FP32", "data": list(row.values())}],
        "outputs": [{"name": outputs}],
    }


def _nginx(place: Place) -> Sequence[str]:
    program = shutil.which("nginx")
    if program is None:
        raise Failed("nginx is not installed: apt-get install -y nginx")
    lists = "".join(
        f"{kind}_temp_path {place.folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (place.folder / "nginx.conf").write_text(
        f"""daemon off; worker_processes {WORKERS}; pid {place.folder}/nginx.pid; error_log {place.folder}/error.log;
events {{ worker_connections 1024; }}
http {{ {lists} access_log off; keepalive_requests 1000000000; default_type application/json;
server {{ listen 127.0.0.1:{place.port} reuseport; location / {{ return 200 '{{"probability":0.4867563247680664}}'; }} }} }}
""",
        encoding="utf-8",
    )
    return [program, "-p", str(place.folder), "-c", str(place.folder / "nginx.conf")]


def _bare(place: Place) -> Sequence[str]:
    return [str(place.bin / "python"), str(HERE / "bare.py"), str(place.world.bundle), str(place.port), str(WORKERS)]


def _native(what: str) -> Callable[[Place], Sequence[str]]:
    return lambda place: [str(place.bin / "python"), str(APPS / "native.py"), what, str(place.port), str(WORKERS)]


_XGB = ["xgboost-cpu==3.2.0", "scikit-learn", "pandas"]
_FASTAPI = ["fastapi==0.165.0", "uvicorn[standard]"]
_TUNED = [*_FASTAPI, "msgspec==0.22.0", "numba==0.68.1", "numpy==2.4.6"]
_QUIET = {"DO_NOT_TRACK": "1"}
_LIBPYTHON = {"LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR"))}
"""Triton embeds the libpython that the system finds, which must be that of the standard library it then reads."""
OURS = {"PYTHONPATH": str(ROOT / "src")}

PEERS = [
    Peer("bare path", "", _bare, environ=OURS, note="bare.py: decode, score, answer"),
    Peer("constant answer, same server", "", _script("constant.py"), checked=False, note="api/http1, the body is read"),
    Peer("constant answer, nginx", "", _nginx, checked=False),
    Peer("constant answer, no server but the loop", "fastapi-tuned", _native("constant"), _TUNED, checked=False,
         note="httptools on uvloop, native.py: no limits, no time-outs"),
    Peer("our kernel, no server but the loop", "fastapi-tuned", _native("score"), _TUNED, environ=OURS, note="native.py"),
    Peer("FastAPI as usually written", "fastapi", _uvicorn("fastapi_usual"), [*_FASTAPI, *_XGB], threads=True),
    Peer("FastAPI as usual, async, one thread", "fastapi", _uvicorn("fastapi_careful"), [*_FASTAPI, *_XGB]),
    Peer("FastAPI + ONNX Runtime", "fastapi-onnx", _uvicorn("fastapi_onnx"), [*_FASTAPI, "onnxruntime", "numpy"]),
    Peer("FastAPI tuned by hand", "fastapi-tuned", _uvicorn("fastapi_tuned"), _TUNED, environ=OURS,
         note="msgspec, uvloop, and our kernel"),
    Peer("Flask + gunicorn", "flask", _gunicorn, ["flask", "gunicorn", *_XGB]),
    Peer("MLServer", "mlserver", _mlserver, ["mlserver", "mlserver-xgboost", "uvloop<0.22", "scikit-learn"], path=f"/v2/models/{TARGET}/infer",
         body=_tensor("row", "predict_proba"), read=lambda answer: answer["outputs"][0]["data"][-1], environ=_QUIET,
         note="its XGBoost runtime, which does not start with uvloop 0.22 or newer"),
    Peer("BentoML", "bentoml", _bento, ["bentoml", *_XGB], body=lambda row: {"row": dict(row)}, read=float,
         environ={"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(ENVS / "bentoml" / "home"), **_QUIET}),
    Peer("LitServe", "litserve", _script("litserve_app.py"), ["litserve", *_XGB], environ=_QUIET),
    Peer("Ray Serve", "ray", _script("ray_app.py"), ["ray[serve]", *_XGB],
         environ={"RAY_USAGE_STATS_ENABLED": "0", **_QUIET}, start_seconds=90, grace=20),
    Peer("mlflow models serve", "mlflow", _mlflow, ["mlflow", *_XGB], prepare=_save_mlflow, path="/invocations",
         body=lambda row: {"dataframe_split": {"columns": NAMES, "data": [[row[name] for name in NAMES]]}},
         read=lambda answer: answer["predictions"][0], environ={"MLFLOW_DISABLE_TELEMETRY": "true", **_QUIET}),
    Peer("Triton, Python backend", "pytriton", _script("triton_app.py"), ["nvidia-pytriton", *_XGB], path=f"/v2/models/{TARGET}/infer",
         body=_tensor("row", "probability"), read=lambda answer: answer["outputs"][0]["data"][0], environ=_LIBPYTHON, start_seconds=120, grace=20),
]  # fmt: skip

UNINSTALLABLE = {
    "TensorFlow Serving": "it is a Debian package and image of its own registry, and in none of the package registries"
}
