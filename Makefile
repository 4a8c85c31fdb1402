# Everything a newcomer needs: `make demo` shows epsopt at work, `make test` checks it. Both set up .venv themselves.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test test-full lint types docs check sweeps bench bench-surrogate bench-weights clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "epsopt needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version 2>&1): run 'make PYTHON=python3.12 $(MAKECMDGOALS)'"; exit 1; }
	@echo "setting up $(VENV) (about two minutes, once)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

demo: $(READY) ## Run epsopt on real training runs, in about nine minutes
	$(BIN)/epsopt demo

# The static checks run beside the tests, one after another; what they print is shown whole when the tests have ended.
test: $(READY) ## Run what a change must pass: lint, types and docs, beside check
	@log=$$(mktemp); trap 'rm -f "$$log"' EXIT; \
	$(MAKE) --no-print-directory --keep-going lint types docs > "$$log" 2>&1 & static=$$!; \
	trap 'kill $$static' INT TERM; \
	$(MAKE) --no-print-directory check && tests=passed || tests=failed; \
	wait $$static && static=passed || static=failed; \
	cat "$$log"; echo "lint, types and docs $$static, tests $$tests"; [ $$static$$tests = passedpassed ]

test-full: test sweeps ## Run that, and the sweeps that take longer

lint: shipped ## Check style and the line of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/oxlint --config studies/explore/oxlint.json --deny-warnings studies/explore/static
	PYTHONPATH=build/shipped $(BIN)/lint-imports

types: shipped ## Check types of what is shipped
	MYPYPATH=build/shipped $(BIN)/mypy --strict -p epsopt

# mypy and import-linter do not follow the editable finder, so they check what is shipped: an installed copy.
.PHONY: shipped
shipped: $(READY)
	@rm -rf build/bdist* build/lib build/shipped
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target build/shipped .

# Strict: a broken link, an anchor that is not there, or a page in no menu ends it.
docs: export NO_MKDOCS_2_WARNING = 1
docs: $(READY) ## Build the documentation into build/site
	$(BIN)/python -m mkdocs build --strict --quiet

# Four processes of one thread each: two have work for two cores where others wait for a child or a browser; with more
# threads, those of numerical libraries wait for each other's cores.
PYTEST := $(BIN)/python -m pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder
check sweeps: export OMP_NUM_THREADS = 1
# Compiled once: every process that a test starts reads what the first one wrote.
check sweeps: export PYTHONDONTWRITEBYTECODE =
check: $(READY) ## Run the tests, without the sweeps
	$(PYTEST) -m "not slow"

sweeps: $(READY) ## Run the sweeps: the tests that take longest, and properties on more examples
	$(PYTEST) -m "slow or hypothesis" --hypothesis-profile=sweeps

bench: $(READY) ## Run four of the benchmarks, in about half an hour
	$(BIN)/python benchmarks/pareto.py
	$(BIN)/python benchmarks/ingest.py
	$(BIN)/python benchmarks/search.py
	$(BIN)/python benchmarks/tradeoff.py

# The seeds' own models take hours (benchmarks/seeds_vae.py, resumable); the table shows those of their splits that are done.
bench-surrogate: $(READY) ## Compare the surrogate with every baseline, on four zoos
	$(BIN)/python benchmarks/surrogate.py

# Real weights: mixed, measured and trained on; resumable.
bench-weights: $(READY) ## Measure mixed and merged weights, and runs from them
	$(BIN)/python benchmarks/interpolation.py
	$(BIN)/python benchmarks/merging.py
	$(BIN)/python benchmarks/initialisation.py

clean: ## Remove what the other targets made
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
