# Each target alone makes the virtual environment it needs, with pinned versions (constraints.txt).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo dataset-demo test lint bench fuzz docs wheel clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt setuptools
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -c constraints.txt -e '.[test]'
	touch $(STAMP)

demo: $(STAMP)  ## render the full-size example into demo/
	$(BIN)/python scripts/demo.py

dataset-demo: $(STAMP)  ## 100 labelled images and a contact sheet into demo-dataset/
	$(BIN)/python scripts/dataset_demo.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: $(STAMP)  ## lint and the whole suite; kernels are compiled once meanwhile, not by every worker of the suite
	$(BIN)/nb warm & compiling=$$!; $(MAKE) --no-print-directory lint || { kill $$compiling; exit 1; }; wait $$compiling
	$(BIN)/python -m pytest -n auto --dist worksteal

bench: $(STAMP)  ## measure; results go to benchmarks/results
	$(BIN)/python -m benchmarks $(ARGS)

fuzz: $(STAMP)  ## COUNT damaged files of every format, or of FORMAT: what becomes of them
	PYTHONPATH=tests $(BIN)/python tests/fuzz/fuzz_run.py --count $(or $(COUNT),1000) $(addprefix --format ,$(FORMAT)) $(ARGS)

docs: $(STAMP)  ## the documentation site, in docs/_build/html; warnings are errors
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	$(BIN)/python -m pytest tests/test_docs_python.py

wheel: $(STAMP)  ## sdist and wheel in dist/, tried out in a fresh environment
	$(BIN)/python scripts/check_wheel.py

clean:
	rm -rf $(VENV) demo demo-dataset build dist docs/_build docs/api
