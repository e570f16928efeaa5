# Each target sets up its environment once and says what it does. LATEST=1: not the versions in constraints.txt, but the
# newest that pyproject.toml allows, in an environment of their own.
PYTHON ?= python3
VENV := $(if $(LATEST),.venv-latest,.venv)
BIN := $(VENV)/bin
VERSIONS := $(if $(LATEST),--upgrade --upgrade-strategy eager,--constraint constraints.txt)

# one more than there are cores, since some tests wait
WORKERS := --dist worksteal -n $(shell $(PYTHON) -c 'import os; print(min(5, (os.cpu_count() or 1) + 1))')

# the laws of each piece, configurations, and engines on one process: a minute
CORE := config data engine models

.PHONY: help train test check gpu-check lint format constraints clean

help:
	@echo "make train   set up $(VENV), then train the default VAE on MNIST into runs/mnist (again: continues, or says it is done)"
	@echo "make test    set up $(VENV), then run all tests"
	@echo "make check   the minute before a commit: lint, and the tests of the laws, of configurations and of engines on one process"
	@echo "make gpu-check  what only a GPU can say, within ten minutes on one card: a table with verdicts; PARTS=\"two steps\": some"
	@echo "make lint    ruff check, ruff format --check, pyright"
	@echo "make format  let ruff rewrite the sources"
	@echo "make clean   remove environments and caches (never runs/ or data/)"
	@echo "LATEST=1     with any of them: the newest versions that pyproject.toml allows, in .venv-latest"

$(VENV)/.ready: pyproject.toml constraints.txt
	@echo "setting up $(VENV) (torch is large: about two minutes the first time)"
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; found " + sys.version.split()[0] + ". Name another with: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(VERSIONS) -e '.[dev]'
	@touch $@

train: $(VENV)/.ready
	@echo "training configs/mnist.yaml into runs/mnist"
	$(BIN)/python train_ddp.py --config configs/mnist.yaml run.name=mnist

test: $(VENV)/.ready
	@echo "running the tests"
	$(BIN)/python -m pytest $(WORKERS)

check: lint
	@echo "running the core of the tests"
	$(BIN)/python -m pytest -q $(WORKERS) $(CORE:%=tests/%) --ignore tests/models/test_combinations.py

gpu-check: $(VENV)/.ready
	@echo "measuring on the GPU, for at most ten minutes"
	$(BIN)/python benchmarks/gpu_check.py $(PARTS)

lint: $(VENV)/.ready
	@echo "ruff check, ruff format --check, pyright"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

constraints: $(VENV)/.ready
	@sed -n '/^#/p' constraints.txt > constraints.new
	$(BIN)/python -m pip freeze --exclude-editable >> constraints.new
	mv constraints.new constraints.txt

clean:
	@echo "removing environments and caches; runs/ and data/ stay"
	rm -rf .venv .venv-latest build *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
