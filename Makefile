# All set-up happens here: an empty machine needs Python 3.11 to 3.13, git and make.

# The first of these that is a Python of a supported version; `make PYTHON=/path/to/python` overrules.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin

.PHONY: help setup run test check format bench lock clean
.DEFAULT_GOAL := help

help:
	@echo 'make run     start everything on this machine, with the mock broker'
	@echo 'make test    run every test'
	@echo 'make check   format, lint, types, import arrows'
	@echo 'make bench   print the figures beside a floor measured in the same run'
	@echo 'make setup   only install'

setup: .venv/installed

.venv/installed: requirements.lock pyproject.toml
	@test -n '$(PYTHON)' || { echo 'No Python 3.11, 3.12 or 3.13 found: install one, or name it: make PYTHON=/path/to/python'; exit 1; }
	@echo 'Installing into .venv (once; about a minute)'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch .venv/installed

run: setup
	@exec $(BIN)/python execution_service/execution_main.py --use-mock-broker

test: setup
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup
	$(BIN)/python -m benchmarks

# Needs uv; writes exact versions with hashes, for every supported Python, and no index address.
lock:
	uv pip compile pyproject.toml --universal --python-version 3.11 --extra embedded --extra dev --extra ibkr --extra zerodha \
		--prerelease if-necessary-or-explicit --no-annotate --no-header --generate-hashes --upgrade -o requirements.lock

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
