# `make run` and `make test` work in a fresh clone with nothing but python3 and make.
# The first use builds .venv: `make run` installs what generating needs, `make test` the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DOCS := .venv-docs
PARITY := .venv-parity
PARITY_GIB := 12
# One process per core, each with the tests of whole files.
PARALLEL := -n logical --maxprocesses 8 --dist loadfile
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
# make run PROMPT="rain on a roof" OUT=rain.wav SEED=5
export PROMPT := a dog barking
export OUT := dog.wav
export SEED := 2

.PHONY: help run setup format lint test test-slow fuzz recipes-test test-gpu test-browser test-parity docs check clean

help:           ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 16

run: $(VENV)/.core           ## generate five seconds of sound from a prompt with the bundled model
	@$(BIN)/lm-audio generate "$$PROMPT" --duration 5 --seed "$$SEED" -o "$$OUT"
	@echo 'Other sounds: make run PROMPT="rain on a roof" OUT=rain.wav'
	@echo 'Another take: make run SEED=5        More: $(BIN)/lm-audio --help'

setup: $(VENV)/.ready        ## build the development environment

define make-venv
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "lm-audio needs Python 3.11 or newer; choose one with: make PYTHON=/path/to/python3.12" >&2; exit 2; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
endef

$(VENV)/.core: pyproject.toml
	$(make-venv)
	$(BIN)/python $(PIP_INSTALL) --editable '.[fast]'
	@touch $@

$(VENV)/.ready: pyproject.toml
	$(make-venv)
	$(BIN)/python $(PIP_INSTALL) --editable '.[dev]'
	@touch $(VENV)/.core $@

format: $(VENV)/.ready       ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: $(VENV)/.ready         ## ruff, mypy, file and function sizes, import layers, the Dockerfile
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy recipes/default_model/evaluate.py
	$(BIN)/python .ci/check_size.py
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile

test: $(VENV)/.ready         ## unit tests: no GPU, no network, a few minutes
	OMP_NUM_THREADS=1 $(BIN)/pytest -q $(PARALLEL)

test-slow: $(VENV)/.ready    ## tests that take minutes each
	$(BIN)/pytest -q -m slow

recipes-test: $(VENV)/.ready ## every recipe from raw audio to a measured model, at tiny size
	$(BIN)/pytest -q -m chain

fuzz: $(VENV)/.ready         ## 10,000 damaged files, models and strings; minutes
	OMP_NUM_THREADS=1 LM_AUDIO_FUZZ=500 $(BIN)/pytest -q $(PARALLEL) tests/lm_audio/fuzz

test-gpu: $(VENV)/.ready     ## tests that need a CUDA device
	$(BIN)/pytest -q -m gpu

test-browser: $(VENV)/.ready ## tests that drive the web page in Chromium
	@BIN=$(BIN) bash .ci/test-browser

check: lint test             ## lint and unit tests: run before every commit

docs: $(DOCS)/.ready         ## build the documentation site in build/site; broken links fail
	$(DOCS)/bin/python docs/build_site.py

$(DOCS)/.ready: pyproject.toml
	@$(DOCS)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(DOCS)
	@$(PYTHON) -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['docs'], sep='\n')" > $(DOCS)/requirements.txt
	$(DOCS)/bin/python $(PIP_INSTALL) --requirement $(DOCS)/requirements.txt
	@touch $@

test-parity:                 ## compare with the original encodec and fairseq2, in their own environment
	@PYTHON=$(PYTHON) PARITY=$(PARITY) PARITY_GIB=$(PARITY_GIB) PARALLEL='$(PARALLEL)' bash .ci/test-parity

clean:                       ## remove the environments, builds and caches
	rm -rf $(VENV) $(DOCS) $(PARITY) build .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
