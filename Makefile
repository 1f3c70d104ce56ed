PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
LAB := $(VENV)/.lab
READY := $(VENV)/.ready
INSTALL = $(BIN)/python -m pip install --quiet --constraint constraints.txt
CORE := src/valleys/*.py,src/valleys/_engine/*,src/valleys/kernels/*
# Bytecode is written even where the environment forbids it: without, every call rewrites all assertions anew.
PYTEST = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist loadfile --no-loadscope-reorder
# curvlinops, which the tests compare curvature with, and what it imports: without BackPACK and their other requirements.
CROSS_CHECKS := curvlinops-for-pytorch einconv einops linear_operator opt-einsum

.PHONY: demo test quick coverage lint docs links clean

demo: $(LAB)
	@echo 'Two comparisons of optimizers, about 4 minutes on 2 idle cores.'
	$(BIN)/valleys demo --out runs/demo

test: $(READY)
	$(PYTEST)

# The share of lines and branches that the tests reach: of the optimizers and kernels, and of the lab.
coverage: $(READY)
	$(PYTEST) --cov --cov-report=
	$(BIN)/coverage report --include='$(CORE)' --fail-under=95
	$(BIN)/coverage report --include='src/valleys/lab/*' --fail-under=90

quick: $(READY)
	$(PYTEST) -m 'not (slow or browser or multiprocess or database or gpu)' \
	--ignore=src/valleys/optax $(addprefix --ignore=tests/,distributed integrations kernels/triton lab/store soundness third_party transformations)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tests/language.py
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then $(BIN)/lint-imports; \
	else echo 'lint-imports is skipped: import-linter needs Python 3.11'; fi

docs: $(READY)
	rm -rf build/site
	$(BIN)/python -m sphinx -W --keep-going -q -c docs -d build/doctrees . build/site
	@echo build/site/index.html

links: $(READY)
	$(BIN)/python -m sphinx -b linkcheck -q -c docs -d build/doctrees . build/links

$(LAB): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "valleys needs Python 3.10 or newer: make PYTHON=python3.12 ...")'
	@echo 'Installing torch and the lab into $(VENV): some minutes, 1.4 GB (more with a CUDA build of torch).'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) torch
	$(INSTALL) --editable '.[lab]'
	@touch $@

$(READY): $(LAB)
	@echo 'Installing what the tests need (JAX, Triton, transformers, MuJoCo, ...) into $(VENV): 2.2 GB more, some minutes.'
	$(INSTALL) --editable '.[lab,test,dev]'
	$(INSTALL) --no-deps $(CROSS_CHECKS)
	@touch $@

clean:
	rm -rf $(VENV) runs build .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
