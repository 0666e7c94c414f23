# Every command of the project. `make help` lists them.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What is installed: enough to run, or what tests, checks and benchmarks need besides.
RUNS := $(VENV)/.installed-embedded
DEV := $(VENV)/.installed-dev
# The locks hold what server and client need, but neither of the two: an index is never asked for them.
COMPILE = $(BIN)/uv pip compile pyproject.toml client/pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-header
# Tests that use a stack of their own run side by side; two is what a CI machine has cores for.
TEST_PROCESSES ?= 2

.PHONY: help setup demo up test check bench lock

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(DEV) ## Create .venv with all pinned dependencies (second runs reuse it); demo and up need fewer

# Two runs at once take turns: the first installs, the second finds it done.
$(VENV)/.installed-%: pyproject.toml client/pyproject.toml requirements-%.lock
	@PYTHON="$(PYTHON)" sh scripts/setup.sh $*

demo: $(RUNS) ## Run the main job on real servers, from nothing to the final status
	@$(BIN)/leadsweep demo

up: $(RUNS) ## Keep the stack running on http://127.0.0.1:8000 (make up PORT=8001: there)
	@$(BIN)/leadsweep up $(if $(PORT),--port $(PORT)) $(ARGS)

test: setup ## Run all tests
	@$(BIN)/python -m pytest -n $(TEST_PROCESSES) $(ARGS)

check: setup ## Lint, types, import contracts, migration in step with the models
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python scripts/check_migrations.py

bench: setup ## Run the benchmarks against their floors (or another commit: ARGS='--against COMMIT CONTEST')
	@$(BIN)/python -m benchmarks $(ARGS)

lock: setup ## Pin the dependencies anew
	@$(BIN)/pip install --quiet uv
	@$(COMPILE) --all-extras -o requirements-dev.lock
	@$(COMPILE) --extra embedded --extra build --constraint requirements-dev.lock -o requirements-embedded.lock
	@$(COMPILE) --constraint requirements-dev.lock -o requirements.lock
