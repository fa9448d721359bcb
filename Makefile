# make demo, demo-lm: the embedded studies; make test: the tests; make check: tests, linter and types.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo demo-lm lab test fuzz coverage lint types check figures bench bench-quick bench-statistics docs strip clean

# Remade when the dependencies change; everything below runs in it.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,venues,timm,huggingface,lm,xarray,notebook,ray,trackers,docs]'
	touch $@

$(VENV)/installed-notebook: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[notebook]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/capmismatch demo

$(VENV)/installed-lm: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[lm]'
	touch $@

demo-lm: $(VENV)/installed-lm
	$(BIN)/capmismatch demo --lm

# JupyterLab on the notebooks; ARGS="--no-browser --port 9999" and the like go to it.
lab: $(VENV)/installed-notebook
	$(BIN)/jupyter-lab $(ARGS) notebooks

# ARGS="-n 2 --dist loadfile" runs two files at a time; ARGS="tests/selection" one room.
# Two files at a time; PARALLEL= runs one after another, as the gate does: it is slower and steadier.
PARALLEL ?= -n 2 --dist loadfile --no-loadscope-reorder

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

# Mutated inputs at every door, as many as EXAMPLES for each; `make test` draws a few, always the same.
EXAMPLES ?= 20000
fuzz: $(VENV)/installed-dev
	CAPMISMATCH_FUZZ=$(EXAMPLES) $(BIN)/python -m pytest tests/data/test_fuzz_doors.py tests/test_fuzz_files.py

# Which lines no test reaches; no floor. ARGS="tests/selection" and the like go to pytest. Pages: htmlcov/index.html.
coverage: $(VENV)/installed-dev
	$(BIN)/python -m pytest --cov --cov-report=term --cov-report=html $(ARGS)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/lint-imports

types: $(VENV)/installed-dev
	$(BIN)/mypy

check: lint types test

figures: $(VENV)/installed
	$(BIN)/python figures/make.py

# Speed and memory, about ten minutes on two free cores: benchmarks/README.md.
bench: $(VENV)/installed-dev
	$(BIN)/python benchmarks/bench_ranks.py
	$(BIN)/python benchmarks/bench_bootstrap.py
	$(BIN)/python benchmarks/bench_isats.py
	$(BIN)/python benchmarks/bench_diagnosis.py
	$(BIN)/python benchmarks/bench_collect.py
	$(BIN)/python benchmarks/bench_tokens.py
	$(BIN)/python benchmarks/bench_batched.py
	$(BIN)/python benchmarks/bench_grid.py --steps 100  # needs $$CAPMISMATCH_REAL_DATA
	$(BIN)/python benchmarks/bench_new_user.py --out benchmarks/new_user.csv
	$(BIN)/python benchmarks/summary.py

# Ratios against those stored in benchmarks/quick.csv, by processor time, in two minutes; ARGS=--store keeps those of now.
bench-quick: $(VENV)/installed-dev
	$(BIN)/python benchmarks/bench_quick.py $(ARGS)

# Simulations of what the statistics promise; longer.
bench-statistics: $(VENV)/installed-dev
	$(BIN)/python benchmarks/bench_coverage.py
	$(BIN)/python benchmarks/bench_pick.py
	$(BIN)/python benchmarks/bench_reliability.py
	$(BIN)/python benchmarks/bench_inference.py
	$(BIN)/python benchmarks/reliability_summary.py

# A warning is an error. DOCS_EXECUTE=1 runs the notebooks, so that their outputs show.
docs: $(VENV)/installed-dev
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going docs docs/_build/html

# Notebooks go into git without their outputs.
strip:
	$(PYTHON) notebooks/strip.py

clean:
	rm -rf $(VENV) build docs/_build docs/notebooks *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis \
		.coverage htmlcov
