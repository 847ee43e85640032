"""Runs what the documentation shows and compares what it says.

Each ```console block of README.md and docs/manual/ is run, in order, in a folder that holds the demo project `demo`;
a block after the line `<!-- not run: reason -->` is not. A line `...` stands for any lines. Ids, hashes, times,
durations and fractions may differ, as may the width of columns.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MANUAL = sorted(page for page in (ROOT / "docs" / "manual").glob("*.md") if page.name != "README.md")
PAGES = [ROOT / "README.md", *MANUAL]
BLOCK = re.compile(r"(<!-- not run: [^>]+ -->\n+)?```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LOOSE = (
    (r"\b(job|data|model|run|dep|file|backup)_[0-9a-f]{16,}(-[0-9a-f]+)?", "ID"),
    (r"\b[0-9a-f]{12}(…|\b)", "HASH"),
    (r"\b[0-9a-f]{2}/[0-9a-f]{60,62}\b", "BLOB"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
    (r"\b(\d+ / )?\d[\d,]*\.\d+(e-?\d+)?", "NUMBER"),
    (r"latency_us: [\d,]+", "latency_us: N"),
    (r"[─\s]+", " "),
)


def steps(page: Path) -> list[tuple[str, list[str]]]:
    """Commands with the lines they show."""
    found: list[tuple[str, list[str]]] = []
    for skipped, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        if skipped:
            continue
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            elif found and found[-1][0].endswith("\\") and line.startswith("> "):
                found[-1] = (f"{found[-1][0][:-1]}{line[2:]}", [])
            else:
                found[-1][1].append(line)
    return found


def loosely(line: str) -> str:
    for pattern, name in LOOSE:
        line = re.sub(pattern, name, line)
    return line.strip()


def agrees(shown: list[str], said: list[str]) -> bool:
    """Whether the shown lines are said in that order; `...` stands for any lines."""
    wanted, given = ([text for line in lines if (text := loosely(line))] for lines in (shown, said))
    pieces: list[list[str]] = [[]]
    place = 0
    for line in wanted:
        if line == "...":
            pieces.append([])
        else:
            pieces[-1].append(line)
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        starts = range(place, len(given) - len(piece) + 1) if number else [0]
        if last and number:
            starts = [len(given) - len(piece)]
        at = next((start for start in starts if start >= place and given[start : start + len(piece)] == piece), None)
        if at is None:
            return False
        place = at + len(piece)
    return place == len(given) or wanted[-1:] == ["..."]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_shows_is_what_happens(page: Path, demo: Path, tmp_path: Path) -> None:
    commands = steps(page)
    assert commands, f"{page.name} shows no command"
    shutil.copytree(demo, tmp_path / "demo")
    tools = tmp_path / ".bin"
    tools.mkdir()
    (tools / "holdfast").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m holdfast "$@"\n', encoding="utf-8")
    (tools / "holdfast").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    for command, shown in commands:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", env=environment, check=False,
        )  # fmt: skip
        said = done.stdout if done.returncode == 0 else done.stdout + done.stderr
        assert done.returncode in ((0, 1, 2) if any(line.startswith("error: ") for line in shown) else (0,)), said
        assert agrees(shown, said.splitlines()), f"{page.name}: $ {command}\n{said}"


def test_the_python_of_the_readme_runs(demo: Path, tmp_path: Path) -> None:
    (script,) = re.findall(r"^```python\n(.*?)^```$", PAGES[0].read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    shutil.copytree(demo, tmp_path / "demo")
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    assert "高风险" in done.stdout


@pytest.mark.parametrize(
    ("shown", "said", "same"),
    [
        (["a 0.25", "..."], ["a 0.31", "b", "c"], True),
        (["...", "c"], ["a", "b", "c"], True),
        (["a", "...", "c"], ["a", "c"], True),
        (["a", "c"], ["a", "b", "c"], False),
        (["..."], [], True),
        ([], ["a"], False),
        (["a", "...", "x"], ["a", "b"], False),
        (["rows 3"], ["rows 4"], False),
    ],
)
def test_pages_are_compared_loosely_and_not_more(shown: list[str], said: list[str], same: bool) -> None:
    assert agrees(shown, said) is same
