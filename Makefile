# `make demo` and `make test` set up what they need in .venv; nothing has to be prepared by hand.
# Other interpreters: make PYTHON=/path/to/python3 …   Some tests only: make test TESTS=tests/test_digest.py

PYTHON ?= $(shell scripts/find-python)
TESTS ?= tests
BIN := .venv/bin
CORE := .venv/core.stamp
DEV := .venv/dev.stamp
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile

.PHONY: help setup demo test lint format check bench debian constraints clean

help: ## what can be made
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

$(CORE): pyproject.toml constraints.txt scripts/setup
	scripts/setup "$(PYTHON)"
	@touch $@

$(DEV): pyproject.toml constraints.txt scripts/setup
	scripts/setup "$(PYTHON)" dev,prefect
	@touch $(CORE) $@

setup: $(DEV) ## .venv with all that development needs

demo: $(CORE) ## convert a real image made from this machine's Python, archive to archive
	@$(BIN)/python scripts/demo.py

debian:
	@scripts/debian-packages

test: $(DEV) debian ## the tests; those that need a missing server or tool skip and say so
	$(PYTEST) $(TESTS)

lint: $(DEV) ## ruff (lint, format) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEV) ## let ruff put things right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint debian ## lint, and the tests with coverage
	$(PYTEST) --cov --cov-report=term $(TESTS)

bench: $(DEV) ## measure conversions; options: make bench ARGS="--help"
	$(BIN)/python bench/convert.py $(ARGS)

constraints: $(DEV) ## renew constraints.txt with the newest set that the bounds in pyproject.toml allow
	scripts/renew-constraints

clean: ## remove what was made here
	rm -rf .venv demo dist build .coverage .coverage.* htmlcov .mypy_cache .pytest_cache .ruff_cache
