"""Commands that messages and pages tell people to type exist."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main

from holdfast.frontend.cli import _app

ROOT = Path(__file__).resolve().parents[3]
FILES = [*sorted((ROOT / "src").rglob("*.py")), *sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]
MENTION = re.compile(r"(?:`|: |\$ |^|next: |, or |Make one with: )holdfast ([a-z]+)(?: ([a-z]+))?", re.MULTILINE)


def wrong(text: str, tree: Any) -> list[str]:
    found = []
    for verb, noun in MENTION.findall(text):
        group = tree.commands.get(verb)
        if group is None or (noun and hasattr(group, "commands") and noun not in group.commands):
            found.append(f"{verb} {noun}".strip())
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_that_are_mentioned_exist(path: Path) -> None:
    assert wrong(path.read_text(encoding="utf-8"), typer.main.get_command(_app)) == []


def test_a_wrong_mention_is_found() -> None:
    text = "List them with: holdfast runs\n$ holdfast data shew\nholdfast data show"
    assert wrong(text, typer.main.get_command(_app)) == ["runs", "data shew"]
