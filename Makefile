# mt0_tpu: `make help` says what there is.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# The virtual environment; VENV=… puts it elsewhere.
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Apache Beam's libraries do not go with the newest of ours (setup.py says why).
BEAM_VENV ?= .venv-beam
BEAM_STAMP := $(BEAM_VENV)/.installed
# Processes of pytest; each starts its own JAX with eight simulated devices.
TEST_PROCESSES ?= 2

.PHONY: help venv beam-venv lock train study test beam-test lint clean
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP)  ## the virtual environment, with the exact versions of requirements.lock

$(STAMP): requirements.lock setup.py pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--no-deps --no-build-isolation -e .
	touch $@

beam-venv: $(BEAM_STAMP)  ## another one, with Apache Beam, of requirements-beam.lock

$(BEAM_STAMP): requirements-beam.lock setup.py pyproject.toml
	test -x $(BEAM_VENV)/bin/python || $(PYTHON) -m venv $(BEAM_VENV)
	$(BEAM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		-r requirements-beam.lock
	$(BEAM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		--no-deps --no-build-isolation -e .
	touch $@

# Names no index and no host; takes minutes, since every file of every package is hashed.
LOCK := CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --upgrade --extra dev \
	--strip-extras --allow-unsafe --generate-hashes --no-annotate --no-emit-index-url \
	--no-emit-trusted-host --no-emit-find-links

lock: venv  ## both lock files anew, with the newest versions that setup.py allows
	$(LOCK) --output-file requirements.lock setup.py
	$(LOCK) --extra beam --output-file requirements-beam.lock setup.py

train: venv  ## the embedded default: a mini mT0 on this machine, then its evaluation and report
	$(BIN)/mt0 train

study: venv  ## every arm of the mini study, three seeds, and the report that compares them
	$(BIN)/mt0 study

lint: venv  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: lint  ## every test, those of Beam in their own environment
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --durations=15
	$(MAKE) beam-test

beam-test: beam-venv  ## the tests of caching on Apache Beam
	$(BEAM_VENV)/bin/python -m pytest tests/data/test_beam_cache.py

clean:  ## what builds and tests leave behind; keeps .venv and runs
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
