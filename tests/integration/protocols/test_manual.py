"""What the manual shows of the protocols is run: its `sh` blocks, and its Python where Triton's client is."""

import json
import os
import re
import subprocess
from pathlib import Path

PAGE = Path(__file__).resolve().parents[3] / "docs" / "manual" / "protocols.md"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_commands_of_the_page(served, tmp_path):
    infer, invoke = blocks("sh")
    said = []
    for block in (infer, invoke):
        text = block.replace("http://127.0.0.1:8700", served.base)
        command = ["bash", "-euo", "pipefail", "-c", text]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        said.append(done.stdout)
    about, end = json.JSONDecoder().raw_decode(said[0])
    answer = json.loads(said[0][end:])
    assert about["name"] == answer["model_name"] == "风险"
    assert answer["id"] == "一"
    assert "高风险" in json.loads(said[1].strip())["predictions"][0]


def test_the_python_of_the_page(served, triton, tmp_path):
    (program,) = blocks("python")
    done = subprocess.run(
        [str(triton), "-c", program.replace("127.0.0.1:8702", served.grpc)],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120, env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "dep_" in done.stdout
