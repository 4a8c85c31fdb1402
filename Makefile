# Everything a newcomer needs: `make demo` shows the promise, `make test` checks it. Both set up .venv themselves.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ROOMS := zoo surrogate optimize studies cli demo
READY := $(VENV)/.ready

.PHONY: demo test lint types check bench bench-surrogate bench-weights clean

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "epsopt needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version 2>&1): run 'make PYTHON=python3.12 $(MAKECMDGOALS)'"; exit 1; }
	@echo "setting up $(VENV) (about two minutes, once)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

demo: $(READY)
	$(BIN)/epsopt demo

test: lint types check

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

# mypy does not follow the editable finder, so it checks what is shipped: an installed copy.
types: $(READY)
	@rm -rf build
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target build/shipped .
	MYPYPATH=build/shipped $(BIN)/mypy --strict $(ROOMS:%=-p epsopt.%)

# Two processes of one thread each: with more, threads of numerical libraries wait for each other's cores.
check: export OMP_NUM_THREADS = 1
check: $(READY)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

bench: $(READY)
	$(BIN)/python benchmarks/pareto.py
	$(BIN)/python benchmarks/ingest.py
	$(BIN)/python benchmarks/search.py
	$(BIN)/python benchmarks/tradeoff.py

# The seeds' own models take hours (benchmarks/seeds_vae.py, resumable); the table shows those of their splits that are done.
bench-surrogate: $(READY)
	$(BIN)/python benchmarks/surrogate.py

# Real weights: mixed, measured and trained on; resumable.
bench-weights: $(READY)
	$(BIN)/python benchmarks/interpolation.py
	$(BIN)/python benchmarks/merging.py
	$(BIN)/python benchmarks/initialisation.py

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
