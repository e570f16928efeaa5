# Each target sets up .venv once, from pyproject.toml, and says what it does.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help train test lint format clean

help:
	@echo "make train   set up .venv, then train the default VAE on MNIST into runs/mnist (again: continues, or says it is done)"
	@echo "make test    set up .venv, then run the tests"
	@echo "make lint    set up .venv, then ruff check, ruff format --check, pyright"
	@echo "make format  let ruff rewrite the sources"
	@echo "make clean   remove .venv and caches (never runs/ or data/)"

.venv/.ready: pyproject.toml
	@echo "setting up .venv (torch is large: about two minutes the first time)"
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; found " + sys.version.split()[0] + ". Name another with: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

train: .venv/.ready
	@echo "training configs/mnist.yaml into runs/mnist"
	$(BIN)/python train_ddp.py --config configs/mnist.yaml run.name=mnist

test: .venv/.ready
	@echo "running the tests"
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

lint: .venv/.ready
	@echo "ruff check, ruff format --check, pyright"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: .venv/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	@echo "removing .venv and caches; runs/ and data/ stay"
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
