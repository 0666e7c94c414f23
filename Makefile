# Every command of the project. `make help` lists them.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Tests that use a stack of their own run side by side; two is what a CI machine has cores for.
TEST_PROCESSES ?= 2

.PHONY: help setup demo up test check bench lock

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Create .venv with the pinned dependencies (second runs reuse it)

# Two runs at once take turns: the first installs, the second finds it done.
$(STAMP): pyproject.toml requirements-dev.lock
	@PYTHON="$(PYTHON)" sh scripts/setup.sh

demo: setup ## Run the main job on real servers, from nothing to the final status
	@$(BIN)/leadsweep demo

up: setup ## Keep the stack running on http://127.0.0.1:8000
	@$(BIN)/leadsweep up $(ARGS)

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
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header pyproject.toml -o requirements.lock
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --all-extras pyproject.toml -o requirements-dev.lock
