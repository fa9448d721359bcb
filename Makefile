# make demo: the embedded study; make test: the tests; make check: tests, linter and types.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test lint types check figures bench clean

# Remade when the dependencies change; everything below runs in it.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,venues,timm,huggingface,xarray,notebook,ray,trackers,docs]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/capmismatch demo

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .

types: $(VENV)/installed-dev
	$(BIN)/mypy

check: lint types test

figures: $(VENV)/installed
	$(BIN)/python figures/make.py

bench: $(VENV)/installed-dev
	$(BIN)/python benchmarks/bench_ranks.py
	$(BIN)/python benchmarks/bench_diagnosis.py
	$(BIN)/python benchmarks/bench_collect.py
	$(BIN)/python benchmarks/bench_coverage.py

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
