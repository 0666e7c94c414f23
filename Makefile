# Every command of the project. `make help` lists them.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What is installed: enough to run, or what tests, checks and benchmarks need besides.
RUNS := $(VENV)/.installed-embedded
DEV := $(VENV)/.installed-dev
# Our code, compiled ahead, also where PYTHONDONTWRITEBYTECODE is set: else each process compiles all of it at each start.
COMPILED := $(VENV)/.compiled
# The guide, which the API serves, and what it is made of.
GUIDE := api/description/static/guide/index.html
# The locks hold what server and client need, but neither of the two: an index is never asked for them.
COMPILE = $(BIN)/uv pip compile pyproject.toml client/pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-header
# Tests that use a stack of their own run side by side. A CI machine has two cores, and half of the
# time of a test is waiting: four keep both busy.
TEST_PROCESSES ?= 4

.PHONY: help setup demo up docs test proof check bench lock

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(DEV) ## Create .venv with all pinned dependencies (second runs reuse it); demo and up need fewer

# Two runs at once take turns: the first installs, the second finds it done.
$(VENV)/.installed-%: pyproject.toml client/pyproject.toml requirements-%.lock
	@PYTHON="$(PYTHON)" sh scripts/setup.sh $*

$(COMPILED): $(shell find api worker shared cli client -name '*.py')
	-@$(BIN)/python -m compileall -q api worker shared cli client && touch $@

demo: $(RUNS) $(COMPILED) ## Run the main job on real servers, from nothing to the final status
	@$(BIN)/leadsweep demo

# A guide that cannot be built is no reason not to run.
up: $(RUNS) $(COMPILED) ## Keep the stack running on http://127.0.0.1:8000 (make up PORT=8001: there)
	@$(MAKE) --silent --no-print-directory $(GUIDE) >&2 || echo "the guide is not built; \`make docs\` says why" >&2
	@$(BIN)/leadsweep up $(if $(PORT),--port $(PORT)) $(ARGS)

docs: $(RUNS) ## Build the guide, which the API serves at /guide; a link that leads nowhere fails
	@$(BIN)/python -m scripts.reference_pages
	@rm -rf $(dir $(GUIDE))
	@$(MAKE) --no-print-directory $(GUIDE)

$(GUIDE): zensical.toml $(shell find docs -type f)
	@$(BIN)/python -m zensical build --clean --strict && touch $@ || { rm -f $@; exit 1; }

test: setup $(COMPILED) ## Run all tests
	@$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist worksteal $(ARGS)

proof: setup ## Run what the proof table lists in full, for half an hour, and write docs/proof.json
	@PROOF=docs/proof.json $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist worksteal -m proof --timeout 3600 $(ARGS)

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
