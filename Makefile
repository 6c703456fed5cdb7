# Everything a developer runs. Needs make and Python 3.11 or newer, nothing else.

PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export OMP_NUM_THREADS ?= 1
# The tools of .venv find its programs, such as attrain, before any others.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help install demo test slurm-test gpu-test quantus-test check format-check lint types imports format lock clean

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## set up .venv from requirements.lock, if it is not there or older

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "attrain needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another: make install PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "$(PYTHON) cannot make environments (venv or ensurepip is missing); on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo "setting up $(VENV) from requirements.lock (about a minute, once)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: install ## run the quickstart through all stages and print its table
	@$(BIN)/attrain submit quickstart --backend local

test: install ## the tests that need neither SLURM nor long
	$(BIN)/pytest -n $(WORKERS)

slurm-test: install ## the tests on a real two-node SLURM (root; Debian's packages: see .ci/run)
	$(BIN)/pytest -m slurm -n $(WORKERS) --dist loadfile --no-loadscope-reorder

gpu-test: install ## the tests that need a GPU, and a build of torch for it
	$(BIN)/pytest -m gpu

# Beside .venv and without its requirements: it asks for opencv-python, whose files are those of opencv-python-headless, which .venv has.
quantus-test: install ## hold the quality metrics against Quantus, fetched into build/quantus
	@test -d build/quantus || $(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --target build/quantus \
	    quantus==0.6.0 cachetools==8.0.2 lazy-loader==0.6 scikit-image==0.26.0
	PYTHONPATH=build/quantus $(BIN)/pytest tests/methods/metrics/test_quantus.py

check: format-check lint types imports test ## what CI runs

format-check: install
	$(BIN)/ruff format --check

lint: install
	$(BIN)/ruff check

types: install
	$(BIN)/pyright --pythonpath $(BIN)/python

imports: install
	$(BIN)/lint-imports

format: install ## format the code and sort its imports
	$(BIN)/ruff check --fix --select I
	$(BIN)/ruff format

lock: ## make requirements.lock anew from pyproject.toml
	@rm -rf build/lock
	@$(PYTHON) -m venv build/lock
	@build/lock/bin/python -m pip install -qq --disable-pip-version-check --editable '.[dev]' setuptools
	@{ sed -n '/^#/p' requirements.lock; \
	    build/lock/bin/python -m pip freeze --all --exclude-editable | grep -v '^pip==' | sed 's/+[a-z0-9]*$$//'; } > build/requirements.lock
	@mv build/requirements.lock requirements.lock
	@rm -rf build/lock

clean: ## remove .venv and every cache; what runs have made stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
