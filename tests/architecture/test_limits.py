"""House rules that no linter knows, over every source and test file."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
FILES = SOURCES + sorted((ROOT / "tests").rglob("*.py"))
FUNCTION_LINES, FILE_LINES, PUBLIC_METHODS = 60, 600, 25


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def exported(module: ast.Module) -> list[str] | None:
    for node in module.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            return list(ast.literal_eval(node.value))  # type: ignore[union-attr,arg-type]
    return None


def definitions(module: ast.Module) -> Iterator[tuple[str, ast.AST, str | None]]:
    """Top-level names, with their nodes and documentation (for an assignment: the string right after it)."""
    for node, after in zip(module.body, [*module.body[1:], None], strict=True):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node, ast.get_docstring(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            said = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    yield target.id, node, str(after.value.value) if said else None  # type: ignore[union-attr]


def test_there_is_something_to_look_at() -> None:
    assert len(SOURCES) > 10


@pytest.mark.parametrize("path", FILES, ids=name)
def test_files_functions_and_classes_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= FILE_LINES, f"{name(path)} has more than {FILE_LINES} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= FUNCTION_LINES, f"{name(path)}:{node.lineno}: {node.name} has {lines} lines"
        if isinstance(node, ast.ClassDef):
            methods = [
                item.name
                for item in node.body
                if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef) and not item.name.startswith("_")
            ]
            assert len(methods) <= PUBLIC_METHODS, f"{name(path)}:{node.lineno}: {node.name} has {len(methods)} methods"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_public_names_are_listed_and_documented(path: Path) -> None:
    module = tree(path)
    assert ast.get_docstring(module), f"{name(path)} has no docstring"
    names = exported(module)
    code = [node for node in module.body if not isinstance(node, ast.Expr)]
    if names is None:
        assert path.name == "__init__.py", f"{name(path)} has no __all__"
        assert not code, f"{name(path)} holds code and has no __all__"
        return
    known = {found: (node, documentation) for found, node, documentation in definitions(module)}
    for public in names:
        if public not in known or public.startswith("__"):  # imported from elsewhere, or a dunder
            continue
        node, documentation = known[public]
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            assert documentation, f"{name(path)}: {public} has no docstring"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_unlisted_names_are_private_or_used_inside(path: Path) -> None:
    """What another module imports is listed in `__all__`."""
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("holdfast"):
            continue
        target = ROOT / "src" / Path(*str(node.module).split("."))
        source = target.with_suffix(".py") if target.with_suffix(".py").exists() else target / "__init__.py"
        listed = set(exported(tree(source)) or [])
        for alias in node.names:
            is_module = (target / f"{alias.name}.py").exists() or (target / alias.name).is_dir()
            assert is_module or alias.name in listed, (
                f"{name(path)} imports {node.module}.{alias.name}, not in its __all__"
            )
