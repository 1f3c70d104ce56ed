PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# curvlinops, which the tests compare curvature with, and what it imports: without BackPACK and their other requirements.
CROSS_CHECKS := curvlinops-for-pytorch einconv einops linear_operator opt-einsum

.PHONY: demo test lint docs clean

demo: $(READY)
	$(BIN)/valleys demo --out runs/demo

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then $(BIN)/lint-imports; \
	else echo 'lint-imports is skipped: import-linter needs Python 3.11'; fi

docs: $(READY)
	$(BIN)/python website/build.py
	@echo build/site/index.html

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "valleys needs Python 3.10 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[lab,test,dev]'
	$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt $(CROSS_CHECKS)
	@touch $@

clean:
	rm -rf $(VENV) runs build .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
