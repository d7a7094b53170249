# Two commands do everything on a fresh machine: `make claims` and `make test`.
# PYTHON picks the interpreter, VENV the environment, PIP_FLAGS reaches pip (for example an index).

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 4
TEST_WORKERS ?= 2
BIN := $(VENV)/bin
STAMP := $(VENV)/.mechtest-installed

.PHONY: help env claims discover test test-slow lint format zoo bench clean

help: ## List the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

env: $(STAMP) ## Create the environment (done by every other command that needs it)

# torch goes in first and alone: any later requirement is then already satisfied, and pip cannot
# answer a range with a newer build that carries gigabytes of GPU libraries.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip $(PIP_FLAGS)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch==2.13.0 $(PIP_FLAGS)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]' $(PIP_FLAGS)
	@touch $@

claims: env ## Check the claims on the fixture models, and write claims-report/
	$(BIN)/python -m pytest claims/ -n $(WORKERS)

discover: env ## Look for circuits of the fixture models, and write studies/fact-city/index.html
	$(BIN)/mechtest discover docs/examples/study.toml

test: env ## Run the tests
	$(BIN)/python -m pytest tests -n $(TEST_WORKERS) -m "not slow" --durations=30

test-slow: env ## Run the tests that take minutes (they retrain a model)
	$(BIN)/python -m pytest tests -m slow

lint: env ## Style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: env ## Rewrite the sources in the house style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

zoo: env ## Retrain the fixture models, write their cards, prompts and checksums
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[zoo]' $(PIP_FLAGS)
	$(BIN)/python -m fixtures.zoo

bench: ## Compare with MambaLens, in an environment of its own
	$(MAKE) -C benchmarks PYTHON=$(PYTHON) PIP_FLAGS="$(PIP_FLAGS)"

clean: ## Remove the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache claims-report
