# mt0_tpu: `make help` says what there is.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# The virtual environment; VENV=… puts it elsewhere.
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Processes of pytest; each starts its own JAX with eight simulated devices.
TEST_PROCESSES ?= 2

.PHONY: help venv lock train study test lint clean
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP)  ## the virtual environment, with the exact versions of requirements.lock

$(STAMP): requirements.lock setup.py pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--no-deps --no-build-isolation -e .
	touch $@

# Names no index and no host; takes minutes, since every file of every package is hashed.
lock: venv  ## requirements.lock anew, with the newest versions that setup.py allows
	CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --upgrade --extra dev \
		--strip-extras --allow-unsafe --generate-hashes --no-annotate --no-emit-index-url \
		--no-emit-trusted-host --no-emit-find-links --output-file requirements.lock setup.py

train: venv  ## the embedded default: a mini mT0 on this machine, then its evaluation and report
	$(BIN)/mt0 train

study: venv  ## every arm of the mini study, three seeds, and the report that compares them
	$(BIN)/mt0 study

lint: venv  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: lint  ## every test
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --durations=15

clean:  ## what builds and tests leave behind; keeps .venv and runs
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
