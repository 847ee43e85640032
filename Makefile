SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
NAME ?= main
QUICK ?=
export PYTHONHASHSEED := 0

.PHONY: setup check test demo bench clean

setup: $(VENV)/.ready

# What users get; the demo needs no more.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

# And what developers need. `--group` came with pip 25.1.
$(VENV)/.ready: $(VENV)/.installed
	$(PIP) "pip>=25.1"
	$(PIP) --group dev
	touch $@

# Feast, beside Holdfast: its client reads our feature store in a test, and it is measured against.
.venv-feast/.ready: Makefile
	$(PYTHON) -m venv .venv-feast
	.venv-feast/bin/python -m pip install --quiet --disable-pip-version-check "feast[duckdb]==0.67.0"
	touch $@

# Triton's client and the compiler of .proto files, beside Holdfast: they want an older protobuf than onnx has.
.venv-triton/.ready: Makefile
	$(PYTHON) -m venv .venv-triton
	.venv-triton/bin/python -m pip install --quiet --disable-pip-version-check \
		"tritonclient[http,grpc]==2.73.0" "grpcio-tools==1.81.1"
	touch $@

# DVC, beside Holdfast: what it tracks is imported in a test.
.venv-dvc/.ready: Makefile
	$(PYTHON) -m venv .venv-dvc
	.venv-dvc/bin/python -m pip install --quiet --disable-pip-version-check "dvc==3.67.1"
	touch $@

check: setup
	$(BIN)/ruff check src tests
	$(BIN)/ruff format --check src tests
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/architecture

# Two at a time; the tests of one module stay together, for they share servers and workspaces.
test: setup
	$(BIN)/python -m pytest -n 2 --dist loadscope

demo: $(VENV)/.installed
	rm -rf demo
	$(BIN)/holdfast demo demo

bench: setup
	$(BIN)/python benchmarks/$(NAME) $(if $(QUICK),--quick)

clean:
	rm -rf $(VENV) .venv-feast .venv-triton .venv-dvc demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
