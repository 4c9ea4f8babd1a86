# Both commands work on a fresh clone with nothing but python3 and make: the first use builds .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PARITY := .venv-parity
PARITY_GIB := 12
# What `make run` makes: make run PROMPT="rain on a roof" OUT=rain.wav
export PROMPT := a dog barking
export OUT := dog.wav
export SEED := 2

.PHONY: help run setup format lint test test-slow recipes-test test-gpu test-browser test-parity check clean

help:           ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 16

run: $(VENV)/.ready          ## make five seconds of sound from a text with the model in the package
	@$(BIN)/lm-audio generate "$$PROMPT" --duration 5 --seed "$$SEED" -o "$$OUT"
	@echo 'Other sounds: make run PROMPT="rain on a roof" OUT=rain.wav'
	@echo 'Another take: make run SEED=5        More: $(BIN)/lm-audio --help'

setup: $(VENV)/.ready        ## build the environment

$(VENV)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || \
	  { echo "lm-audio needs Python 3.11 or 3.12; name one with: make PYTHON=/path/to/python3.12" >&2; exit 2; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

format: $(VENV)/.ready       ## rewrite the code in the common format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: $(VENV)/.ready         ## ruff, mypy, sizes of files and functions, import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy recipes/default_model/evaluate.py
	$(BIN)/python .ci/check_size.py
	$(BIN)/lint-imports

test: $(VENV)/.ready         ## the tests that need no GPU, no network and about a minute
	$(BIN)/pytest -q

test-slow: $(VENV)/.ready    ## the tests that take minutes
	$(BIN)/pytest -q -m slow

recipes-test: $(VENV)/.ready ## every recipe from raw audio to sound and figures, at tiny size
	$(BIN)/pytest -q -m chain

test-gpu: $(VENV)/.ready     ## the tests that need a CUDA device
	$(BIN)/pytest -q -m gpu

test-browser: $(VENV)/.ready ## the tests that drive a browser
	@BIN=$(BIN) bash .ci/test-browser

check: lint test             ## what must be green before a commit lands

test-parity:                 ## parity with the original encodec and fairseq2, in their own environment
	@PYTHON=$(PYTHON) PARITY=$(PARITY) PARITY_GIB=$(PARITY_GIB) bash .ci/test-parity

clean:                       ## remove the environments and caches
	rm -rf $(VENV) $(PARITY) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
