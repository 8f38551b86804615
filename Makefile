# Everything is made inside the checkout: .venv (Python), .peers (the real programs), dist.
# Needed: make, git, Python 3.11 with venv. Variables, on the command line or in the environment:
PYTHON ?= python3
T ?= tests
PEERS ?= xray nginx faketime

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Python programs without an ending: the linters must be told about them.
SCRIPTS = $(shell grep -lE '^\#!.*python' tools/* 2>/dev/null)
export MMW_PEERS ?= $(CURDIR)/.peers/bin

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv peers run test lint bench dist clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile
	@echo "Variables: PYTHON=$(PYTHON)  T=$(T) (what to test)  PEERS=$(PEERS) (what make peers installs)"

venv: .venv/.stamp ## make .venv with the agent and what its tests need

.venv/.stamp: setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PIP) --version >/dev/null 2>&1 || { \
	  echo "making .venv with $$($(PYTHON) --version)"; \
	  $(PYTHON) -m venv --clear .venv || \
	    { echo "no virtual environment: on Debian, apt-get install python3-venv" >&2; exit 1; }; }
	@echo "installing the agent and its test requirements into .venv (half a minute)"
	@# compat: a plain link to this directory; with any other form twistd finds no plugin here.
	@PYTHONWARNINGS=ignore $(PIP) install --quiet --editable '.[test]' --config-settings editable_mode=compat
	@# Without compiled files a start takes 2 s and 13 MB more.
	@$(BIN)/python -m compileall -q mmwagent twisted
	@touch $@

.venv/.stamp-lint: .venv/.stamp
	@echo "installing the linters into .venv"
	@PYTHONWARNINGS=ignore $(PIP) install --quiet --editable '.[lint]' --config-settings editable_mode=compat
	@touch $@

.venv/.stamp-build: .venv/.stamp
	@echo "installing build into .venv"
	@$(PIP) install --quiet build
	@touch $@

peers: ## install the real programs the tests talk to into .peers/bin
	@$(PYTHON) tools/peers $(PEERS)

run: venv ## try it: the agent with a stand-in master and a real Xray
	@$(PYTHON) tools/peers xray
	@$(BIN)/python tools/demo

test: venv peers ## run the tests; T=tests.host for a part; ends with the tally
	@$(BIN)/python tools/trial $(T)

lint: .venv/.stamp-lint ## check style and types (ruff, mypy)
	@failed=0; \
	$(BIN)/ruff check . $(SCRIPTS) || failed=1; \
	$(BIN)/ruff format --check . $(SCRIPTS) || failed=1; \
	$(BIN)/mypy || failed=1; \
	$(BIN)/mypy --scripts-are-modules $(SCRIPTS) || failed=1; \
	exit $$failed

bench: venv ## measure
	@$(PYTHON) tools/peers xray
	@$(BIN)/python -m benchmarks

dist: .venv/.stamp-build ## build wheel and sdist into dist/
	@rm -rf build dist
	@$(BIN)/python -m build --outdir dist .
	@# twisted/ belongs to Twisted: one file more there, and uninstalling us would break it.
	@$(BIN)/python -c 'import glob, sys, zipfile; (wheel,) = glob.glob("dist/*.whl"); \
	names = [n for n in zipfile.ZipFile(wheel).namelist() if n.startswith("twisted/")]; \
	sys.exit(None if len(names) == 1 else f"{wheel}: one file expected in twisted/, not {names}")' \
	|| { rm -rf dist; exit 1; }
	@ls -l dist

clean: ## delete what was built, but not .venv and .peers
	@rm -rf build dist _trial_temp* .mypy_cache .ruff_cache .hypothesis *.egg-info
	@rm -f twisted/plugins/dropin.cache
	@find . -path ./.venv -prune -o -path ./.peers -prune -o -path ./.git -prune -o \
	  -name __pycache__ -type d -exec rm -rf {} +

distclean: clean ## delete .venv and .peers too
	@rm -rf .venv .peers
