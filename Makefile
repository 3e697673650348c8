# All set-up happens here: an empty machine needs Python 3.11 to 3.13, git and make.

# The first of these that is a Python of a supported version; `make PYTHON=/path/to/python` overrules.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
# The two client libraries for IBKR exclude each other (both bring a package named eventkit): the second one has an environment of its own,
# in which only the tests that concern it are run.
IB_ASYNC_BIN := .venv-ib-async/bin
# So many files of tests at once: most of the long ones wait for processes to start, end and be killed.
WORKERS ?= 4
# Engines that the simulation is compared with: their licences and pins are not ours.
DIFFERENTIAL_BIN := .venv-differential/bin
IBKR_TESTS := tests/contract/ibkr tests/contract/test_broker.py

.PHONY: help setup run test ib-async-tests check format bench faults soak kills simulate example fuzz mutants differential lock clean
.DEFAULT_GOAL := help

NEEDS_PYTHON = @test -n '$(PYTHON)' || \
	{ echo 'No Python 3.11, 3.12 or 3.13 found: install one, or name it: make PYTHON=/path/to/python'; exit 1; }

help:
	@echo 'make run     start everything on this machine, with the mock broker'
	@echo 'make test    run every test, and those of IBKR once more with its other client library'
	@echo 'make check   format, lint, types, import arrows'
	@echo 'make bench   print the figures beside a floor measured in the same run'
	@echo 'make faults  everything that can go wrong, at each broker, judged by its own book (half an hour); ARGS=--help shows the options'
	@echo 'make soak    20 orders a second and random faults for SOAK_SECONDS (600): nothing grows, no order is lost'
	@echo 'make kills   KILLS (150) times kill -9 of the service with its embedded store, from its first moment on (about 20 minutes); ARGS=--help shows the options'
	@echo 'make simulate  SEEDS (1000) whole lives, each drawn from a seed, in virtual time on all cores; ARGS=--help shows the options'
	@echo 'make example the same targets under four stances, on real bars: the page and the figures of docs/simulation-example.md'
	@echo 'make fuzz    hostile messages for FUZZ_SECONDS (60), read a second time naively'
	@echo 'make mutants every small change of the state machine and the planner must be noticed by a test (about 25 minutes)'
	@echo 'make differential  the simulation beside the engines of others on real bars, and compiled beside plain (its own environment, 1.5 GB)'
	@echo 'make setup   only install'

setup: .venv/installed .venv-ib-async/installed

.venv/installed: requirements.lock pyproject.toml
	$(NEEDS_PYTHON)
	@echo 'Installing into .venv (once; about a minute)'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch .venv/installed

.venv-ib-async/installed: requirements-ib-async.lock
	$(NEEDS_PYTHON)
	@echo 'Installing into .venv-ib-async (once; about a minute)'
	@test -x $(IB_ASYNC_BIN)/python || $(PYTHON) -m venv .venv-ib-async
	@$(IB_ASYNC_BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-ib-async.lock
	@touch .venv-ib-async/installed

run: .venv/installed
	@exec $(BIN)/python execution_service/execution_main.py --use-mock-broker

# Hundreds of processes are started: what one of them has compiled, the next need not compile. The tests with the other library, which mostly
# wait, run beside the others, their installation too; what they have to say comes last.
test: .venv/installed
	@$(MAKE) --no-print-directory ib-async-tests > .ib-async-tests.txt 2>&1 & beside=$$!; \
	trap 'kill $$beside 2>/dev/null; exit 130' INT TERM; \
	echo '=== Every test, IBKR with ib_insync (.venv)'; \
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder; status=$$?; \
	wait $$beside || status=1; cat .ib-async-tests.txt; rm -f .ib-async-tests.txt; exit $$status

ib-async-tests: .venv/installed .venv-ib-async/installed
	@echo '=== The tests of IBKR, with ib_async (.venv-ib-async)'
	$(IB_ASYNC_BIN)/python -m pytest -p no:cacheprovider -k 'ibkr or tws' $(IBKR_TESTS)
	@echo '=== The whole service at IBKR, with ib_async'
	PATH="$(CURDIR)/$(BIN):$$PATH" $(IB_ASYNC_BIN)/python -m pytest -p no:cacheprovider tests/external/test_ibkr_process.py

check: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/installed
	$(BIN)/python -m benchmarks

faults: .venv/installed
	$(BIN)/python -W ignore -m tests.faults $(ARGS)

soak: .venv/installed
	@$(BIN)/python -W ignore -m tests.external.soak

kills: .venv/installed
	@$(BIN)/python -W ignore -m tests.external.kill_loop $(if $(KILLS),--kills $(KILLS)) $(ARGS)

simulate: .venv/installed
	@$(BIN)/python -m tests.simulation $(if $(SEEDS),--seeds $(SEEDS)) $(ARGS)

example: .venv/installed
	@$(BIN)/python scripts/simulation_example.py $(ARGS)

fuzz: .venv/installed
	@$(BIN)/python -m tests.fuzz

mutants: .venv/installed
	@$(BIN)/python -m tests.mutation $(ARGS)

.venv-differential/installed: tests/differential/requirements.lock
	$(NEEDS_PYTHON)
	@echo 'Installing into .venv-differential (once; some minutes)'
	@test -x $(DIFFERENTIAL_BIN)/python || $(PYTHON) -m venv .venv-differential
	@$(DIFFERENTIAL_BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r tests/differential/requirements.lock
	@touch .venv-differential/installed

differential: .venv-differential/installed
	$(DIFFERENTIAL_BIN)/python -m pytest -p no:cacheprovider --timeout 900 tests/differential
	$(DIFFERENTIAL_BIN)/python -m pytest -p no:cacheprovider --timeout 900 tests/simulated -k 'compiled or parquet'
	$(DIFFERENTIAL_BIN)/python -m tests.differential.rates

# Needs uv; writes exact versions with hashes, for every supported Python, and no index address.
lock:
	uv pip compile pyproject.toml --universal --python-version 3.11 --extra embedded --extra dev --extra ibkr --extra zerodha \
		--extra alpaca --extra binance --extra redis --extra calendars --extra opentelemetry --extra simulators --extra simulation \
		--prerelease if-necessary-or-explicit --no-annotate --no-header --generate-hashes --upgrade -o requirements.lock
	uv pip compile pyproject.toml --extra ibkr-async --extra simulators --group pyproject.toml:ib-async-tests \
		--universal --python-version 3.11 \
		--prerelease if-necessary-or-explicit --no-annotate --no-header --generate-hashes --upgrade -o requirements-ib-async.lock
	uv pip compile tests/differential/requirements.in --universal --python-version 3.11 --no-annotate --no-header --generate-hashes \
		--upgrade -o tests/differential/requirements.lock

clean:
	rm -rf .venv .venv-ib-async .venv-differential .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
