# Two commands for a fresh machine with Python 3.11+ and make: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTEST := $(BIN)/python -m pytest -p no:cacheprovider
# Tests run two at a time, but for those that hold a party to seconds: nothing runs beside them.
TWO := -n 2 --dist worksteal
ALONE := tests/faults/test_strangers.py tests/faults/test_flood.py
# Hundreds of processes begin: each would compile the package anew if it might not keep the result.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test check soak setup clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    train on the built-in digits under attack (about 15 s when installed)"
	@echo "make test    format, lint, types, layers, then the whole test suite"
	@echo "make check   the first part of make test alone"
	@echo "make soak    the long campaigns; writes docs/results/soak-*.md"

# pip keeps a torch that already satisfies the pin, so a CPU build may be installed beforehand.
$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing Ostraka and its pinned dependencies into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[learn,fast,metrics,dev]'
	@touch $(READY)

setup: $(READY)

demo: $(READY)
	@$(BIN)/ostraka demo

check: $(READY)
	@$(BIN)/ruff format --check --quiet . || ($(BIN)/ruff format --diff --quiet .; exit 1)
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@found=$$($(BIN)/lint-imports --no-cache) || { echo "$$found"; exit 1; }; echo "$$found" | tail -n 2
	@$(PYTEST) -q tests/test_tidy.py

test: check
	@$(PYTEST) --no-header -q $(TWO) -m "not soak" --ignore=tests/test_tidy.py $(ALONE:%=--ignore=%) tests
	@$(PYTEST) --no-header -q -m "not soak" $(ALONE)

soak: $(READY)
	@$(PYTEST) -q -m soak -o timeout=0 tests

clean:
	rm -rf $(VENV) build dist *.egg-info src/*.egg-info
