"""Pages that must be complete: every key of the project file, every error code, every command, every decision."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from holdfast import errors
from holdfast.backend import settings

DOCS = Path(__file__).resolve().parents[2] / "docs"
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
