"""What a fresh process loads."""

import subprocess
import sys

import pytest

HEAVY = {
    "numba", "sklearn", "xgboost", "pandas", "pyarrow", "duckdb", "fastapi", "sqlalchemy", "numpy", "scipy", "onnx",
    "onnxruntime", "pydantic", "yaml", "openpyxl", "fastexcel", "httptools",
}  # fmt: skip


def loaded(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["holdfast", "holdfast.errors", "holdfast.frontend.cli"])
def test_the_command_line_loads_nothing_heavy(module: str) -> None:
    assert not loaded(f"import {module}") & HEAVY


def test_help_loads_nothing_heavy() -> None:
    """Not only importing the command line: running it as far as `--help` goes."""
    statement = (
        "import contextlib, io\n"
        "from holdfast.frontend.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): main(['--help'])"
    )
    modules = loaded(f"exec({statement!r})")
    assert "typer" in modules
    assert not modules & HEAVY
