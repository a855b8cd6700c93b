# Architex: `make run` runs the server, `make test` tests it, `make check` reads it.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: run test torture check bench coverage mutate format clean help

# The Python to make the virtualenv from: 3.11 or newer.
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PYTEST_ARGS ?=
MUTATE_ARGS ?=
BENCH_ARGS ?= send fanout sync read join in out -- --fanout-clients 10,100,500 --fanout-rates 5 --sync-rooms 50,200

run: $(VENV)/installed ## Install what is missing and run the server on http://127.0.0.1:8008
	@exec $(BIN)/architex serve

test: $(VENV)/installed-test ## Install what the tests need and run them (PYTEST_ARGS="-k sync -x")
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# For each promise the long form of its tests; docs/promises.md tells which they are.
torture: $(VENV)/installed-test ## Kill, cut, stall and soak for hours: docs/promises.md
	ARCHITEX_KILLS=240 ARCHITEX_CRASH_STEP=1 ARCHITEX_FLUSHES=200 ARCHITEX_TORTURE_S=600 \
	ARCHITEX_STALL_S=7 ARCHITEX_WRITES=1000 ARCHITEX_SEEDS=100 \
	ARCHITEX_SOAK_S=3600 ARCHITEX_SOAK_PLOTS=$(CURDIR)/docs/figures \
	$(BIN)/python -m pytest -s -p no:randomly tests/torture tests/federation/test_convergence.py \
		tests/clients/test_power_failure.py tests/clients/test_encryption.py \
		tests/projections/test_rebuilding.py $(PYTEST_ARGS)

check: $(VENV)/installed-test $(VENV)/installed-check ## Format, lint, types, import contracts, known vulnerabilities
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict architex tests
	$(BIN)/lint-imports
	$(BIN)/python -m tests.audit.run

bench: $(VENV)/installed-bench ## Measure everything, for docs/performance.md (PEER=synapse: beside Synapse)
	PYTHON=$(CURDIR)/$(BIN)/python INTO=$(CURDIR)/docs/performance.md bench/run.sh $(BENCH_ARGS)

# Of lines and branches together: as there are three lines to a branch, 99.5 % of all is more than
# 98 % of the branches alone.
coverage: $(VENV)/installed-test ## Which lines and branches of the domain do its tests not take?
	$(BIN)/coverage run --data-file=$(VENV)/coverage --branch --source=architex/domain \
		-m pytest --quiet tests/domain
	$(BIN)/coverage report --data-file=$(VENV)/coverage --show-missing --skip-covered \
		--precision=1 --fail-under=99.5

mutate: $(VENV)/installed-test ## Break the rules of rooms and pushes in every small way: do tests notice?
	PYTHONHASHSEED=0 nice $(BIN)/python -m tests.mutation.run $(MUTATE_ARGS)

format: $(VENV)/installed-check ## Format the code and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## Remove the virtualenv and all caches; data/ and keys/ stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## Show this
	@grep -hE '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

# ---- the virtualenv; installed anew only when pyproject.toml changes

$(BIN)/python:
	@if [ -z "$(PYTHON)" ]; then \
		echo "Architex needs Python 3.11 or newer. On Debian 12 or Ubuntu 24.04:"; \
		echo "  sudo apt install python3 python3-venv"; exit 1; fi
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make a virtualenv. On Debian or Ubuntu:"; \
		echo "  sudo apt install python3-venv"; exit 1; }
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/installed: pyproject.toml $(BIN)/python
	@echo "installing Architex into $(VENV); this takes a minute"
	@$(PIP) install --editable .
	@touch $@

$(VENV)/installed-test: pyproject.toml $(VENV)/installed
	@echo "installing what the tests need"
	@$(PIP) install --editable '.[test]'
	@touch $@

$(VENV)/installed-bench: pyproject.toml $(VENV)/installed
	@echo "installing what measuring needs"
	@$(PIP) install --editable '.[bench]'
	@touch $@

$(VENV)/installed-check: pyproject.toml $(VENV)/installed
	@echo "installing what the checks need"
	@$(PIP) install --editable '.[check]'
	@touch $@
