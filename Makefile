# mt0_tpu: `make help` says what there is.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# The virtual environment; VENV=… puts it elsewhere.
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Apache Beam's libraries do not go with the newest of ours (setup.py says why).
BEAM_VENV ?= .venv-beam
BEAM_STAMP := $(BEAM_VENV)/.installed
# lm-evaluation-harness and gcsfs bring many libraries that nothing else here needs.
HARNESS_VENV ?= .venv-harness
HARNESS_STAMP := $(HARNESS_VENV)/.installed
# transformers and PyTorch, which read what we export; ours is not installed there.
TORCH_VENV ?= .venv-torch
TORCH_STAMP := $(TORCH_VENV)/.installed
# Not in the lock: an index of PyTorch's CPU builds answers with 2.13.0+cpu, PyPI for Linux with the
# build for CUDA and its many nvidia-…; the hashes differ. Either will do. With PyPI alone the small
# one comes by TORCH="torch==2.13.0 --extra-index-url URL", the URL being PyTorch's for the CPU.
TORCH ?= torch==2.13.0
# Processes of pytest; each starts its own JAX with eight simulated devices.
TEST_PROCESSES ?= 2
BUCKET_TESTS := tests/test_remote_run.py tests/test_bucket_checkpoints.py tests/test_bucket_mirror.py tests/test_place.py
TORCH_TESTS := tests/formats/test_transformers.py tests/formats/test_transformers_bloom.py
# The compiler for TPU: 700 MB, and JAX looks for a TPU wherever it is installed, so it is put into
# no environment.
LIBTPU ?= .libtpu
TPU_TESTS := tests/planning/test_tpu.py

.PHONY: help venv beam-venv harness-venv torch-venv lock train study test beam-test \
	harness-test bucket-test torch-test tpu-test chromium lint clean
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

harness-venv: $(HARNESS_STAMP)  ## another one, with lm-evaluation-harness and gcsfs

# --no-deps: Python 3.11's own pip (23) takes typepy[datetime] for another package, without a hash.
$(HARNESS_STAMP): requirements-harness.lock setup.py pyproject.toml
	test -x $(HARNESS_VENV)/bin/python || $(PYTHON) -m venv $(HARNESS_VENV)
	$(HARNESS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		--no-deps -r requirements-harness.lock
	$(HARNESS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		--no-deps --no-build-isolation -e .
	touch $@

torch-venv: $(TORCH_STAMP)  ## another one, with transformers and torch, to read exported folders

$(TORCH_STAMP): requirements-torch.lock
	test -x $(TORCH_VENV)/bin/python || $(PYTHON) -m venv $(TORCH_VENV)
	$(TORCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		-r requirements-torch.lock
	$(TORCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	touch $@

# Names no index and no host; takes minutes, since every file of every package is hashed.
LOCK := CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --upgrade \
	--strip-extras --allow-unsafe --generate-hashes --no-annotate --no-emit-index-url \
	--no-emit-trusted-host --no-emit-find-links
# The packages of the extra `torch` but torch itself, one a line.
TORCH_EXTRA := $(BIN)/python -c 'from importlib.metadata import requires; print(*(one for one in \
	requires("mt0_tpu") if "extra == \"torch\"" in one and not one.startswith("torch")), sep="\n")' \
	| sed "s/;.*//"

$(LIBTPU)/.installed: requirements-tpu.lock $(STAMP)
	rm -rf $(LIBTPU)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--no-deps --target $(LIBTPU) -r requirements-tpu.lock
	touch $@

lock: venv  ## the lock files anew, with the newest versions that setup.py allows
	$(LOCK) --extra dev --output-file requirements.lock setup.py
	$(LOCK) --extra dev --extra beam --output-file requirements-beam.lock setup.py
	$(LOCK) --extra dev --extra harness --extra gcs --output-file requirements-harness.lock setup.py
	$(TORCH_EXTRA) | $(LOCK) --output-file requirements-torch.lock -

train: venv  ## the embedded default: a mini mT0 on this machine, then its evaluation and report
	$(BIN)/mt0 train

study: venv  ## every arm of the mini study, three seeds, and the report that compares them
	$(BIN)/mt0 study

lint: venv  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: lint  ## every test, those of Beam, the harness, buckets and torch in their own environments
	$(if $(CI),-@$(MAKE) --no-print-directory chromium)
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --durations=15 \
		$(addprefix --ignore=,$(TORCH_TESTS) $(TPU_TESTS))
	$(MAKE) beam-test
	$(MAKE) harness-test
	$(MAKE) bucket-test
	$(MAKE) torch-test
	$(MAKE) tpu-test

chromium:  ## headless Chromium for the tests of pages (Debian's, as root); they are skipped without it
	command -v chromium-headless-shell chromium || { apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
		chromium-headless-shell >/dev/null; }

beam-test: beam-venv  ## the tests of caching on Apache Beam
	$(BEAM_VENV)/bin/python -m pytest tests/data/test_beam_cache.py

harness-test: harness-venv  ## the tests of tasks of lm-evaluation-harness
	$(HARNESS_VENV)/bin/python -m pytest tests/test_harness.py

bucket-test: harness-venv  ## the tests of runs in buckets, against a stand-in on this machine
	$(HARNESS_VENV)/bin/python -m pytest -n $(TEST_PROCESSES) $(BUCKET_TESTS)

torch-test: venv torch-venv  ## the tests of exported folders in transformers
	TORCH_VENV=$(TORCH_VENV) $(BIN)/python -m pytest $(TORCH_TESTS)

tpu-test: venv $(LIBTPU)/.installed  ## the tests that compile for TPU, without one
	LIBTPU=$(LIBTPU) $(BIN)/python -m pytest $(TPU_TESTS)

clean:  ## what builds and tests leave behind; keeps .venv and runs
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
