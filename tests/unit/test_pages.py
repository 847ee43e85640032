"""Pages that must be complete: keys of the project file and of packages, error codes, commands, decisions, links."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel

from holdfast import errors
from holdfast.backend import settings
from holdfast.backend.registry.package import FIELDS
from holdfast.frontend import cli

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
MODELS = [m for m in vars(settings).values() if isinstance(m, type) and issubclass(m, BaseModel) and m.model_fields]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_key_of_the_project_file_is_told(model: type[BaseModel]) -> None:
    page = (DOCS / "manual" / "project-file.md").read_text(encoding="utf-8")
    names = [field.alias or name for name, field in model.model_fields.items()]
    assert [name for name in names if f"`{name}`" not in page and f".{name}`" not in page] == []


def test_every_error_code_is_told() -> None:
    page = (DOCS / "manual" / "errors.md").read_text(encoding="utf-8")
    kinds = (getattr(errors, name) for name in errors.__all__)
    codes = {kind.code for kind in kinds if isinstance(kind, type) and kind is not errors.HoldfastError}
    assert len(codes) > 10
    assert [code for code in codes if f"`{code}`" not in page] == []


@pytest.mark.parametrize("folder", ["decisions", "manual"])
def test_every_page_is_in_its_index(folder: str) -> None:
    index = (DOCS / folder / "README.md").read_text(encoding="utf-8")
    pages = [page.name for page in (DOCS / folder).glob("*.md") if page.name != "README.md"]
    assert len(pages) > 3
    assert [page for page in pages if f"({page})" not in index] == []


def commands(node: Any, name: str) -> Iterator[tuple[str, Any]]:
    children = getattr(node, "commands", None)
    if children is None:
        yield name, node
        return
    for word, child in children.items():
        yield from commands(child, f"{name} {word}")


def test_every_command_and_option_is_told() -> None:
    manual = "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "manual").glob("*.md"))
    found = dict(commands(typer.main.get_command(cli._app), "holdfast"))
    assert len(found) > 20
    assert [name for name in found if name not in manual] == []
    options = {word for node in found.values() for option in node.params for word in option.opts if word[:2] == "--"}
    # `-C` is how the pages write it.
    assert [word for word in sorted(options - {"--project"}) if not re.search(rf"{word}(?![\w-])", manual)] == []


def test_every_key_of_a_package_is_told_in_its_order() -> None:
    page = (DOCS / "design" / "package.md").read_text(encoding="utf-8")
    table = page.split("## The package")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(FIELDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_every_page_can_be_reached_from_the_first() -> None:
    reached, rest = set(), [ROOT / "README.md"]
    while rest:
        page = rest.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
        rest += [(page.parent / link).resolve() for link in links if "://" not in link]
    assert sorted(set(PAGES) - reached) == []
