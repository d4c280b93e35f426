# make run    the whole suite (config/quick.yaml), after setting .venv up if it is missing or stale
# make test   all tests
# make lint   style of Python and Snakemake files
#
# Another experiment:   make run ARGS="--configfile config/smoke.yaml"
# Another Python:       make run PYTHON=python3.12
# Options for pip come from its own environment variables and files.

SHELL := bash
PYTHON ?= python3
ARGS ?=
VENV := .venv
REQUIREMENTS := $(shell nvidia-smi -L 2>/dev/null | grep -q GPU && echo envs/cuda.txt || echo envs/cpu.txt)
STAMP := $(VENV)/.installed

.PHONY: run test lint
.DEFAULT_GOAL := run

run: $(STAMP)
	@exec $(VENV)/bin/python -I benchmark/processes.py $$PPID $(VENV)/bin/snakemake --cores all $(ARGS)

test: $(STAMP)
	@OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: $(STAMP)
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/snakefmt --check Snakefile benchmark/rules
	@$(VENV)/bin/snakemake --lint

$(STAMP): $(wildcard envs/*.txt)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1); name another: make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) has no venv module; on Debian and Ubuntu: apt install python3-venv" >&2; exit 2; }
	@command -v git >/dev/null || { echo "git is needed; on Debian and Ubuntu: apt install git" >&2; exit 2; }
	@echo "setting up $(VENV) from $(REQUIREMENTS); this downloads and takes minutes the first time"
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --disable-pip-version-check -r $(REQUIREMENTS)
	@$(VENV)/bin/python -m pip install --disable-pip-version-check --no-deps -r envs/no-deps.txt
	@touch $(STAMP)
	@echo "$(VENV) is ready"
