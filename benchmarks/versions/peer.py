"""DVC in its own environment: one process that stays, so that its start-up counts for nothing.

Reads commands as JSON lines: {"add": FILE}, {"checkout": FILE} or {"size": true}; answers {"seconds", "bytes"}.
"""

import json
import os
import sys
import time
from pathlib import Path

folder = Path(sys.argv[1])
os.chdir(folder)
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
from dvc.repo import Repo  # noqa: E402

repo = Repo.init(no_scm=True) if not (folder / ".dvc").exists() else Repo()
cache = folder / ".dvc" / "cache"


def size() -> int:
    return sum(file.stat().st_size for file in cache.rglob("*") if file.is_file())


for line in sys.stdin:
    asked = json.loads(line)
    before = size()
    started = time.perf_counter()
    if "add" in asked:
        repo.add(asked["add"])
    elif "checkout" in asked:
        repo.checkout([asked["checkout"] + ".dvc"], force=True)
    seconds = time.perf_counter() - started
    answers.write(json.dumps({"seconds": seconds, "bytes": size() - before}) + "\n")
    answers.flush()
