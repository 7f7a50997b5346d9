# factorlake: every command of the checkout. `make` or `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
AIRFLOW := .venv-airflow
UV ?= uv
JAVA ?= check
PYTEST ?=
WORKERS ?= 2

# What the demo, the tests and the benchmarks share: Spark's workers run this Python, its addresses are loopback,
# and threads come from blocks, never from BLAS.
export PATH := $(BIN):$(PATH)
export PYSPARK_PYTHON := $(BIN)/python
export SPARK_LOCAL_IP := 127.0.0.1
export OPENBLAS_NUM_THREADS := 1
export OMP_NUM_THREADS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup java jars classes demo docs check test soak bench package lock airflow-env system-packages clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: java $(VENV)/.installed jars classes ## make .venv with everything in it; JAVA=install also installs Java (apt-get)

$(VENV)/bin/python:
	@for python in $(PYTHON) python3.11 python3.12 python3; do \
	  if $$python -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; then \
	    echo "making $(VENV) with $$($$python --version)"; exec $$python -m venv $(VENV); \
	  fi; \
	done; \
	echo "Python 3.11 or 3.12 with its venv module is needed. On Debian and Ubuntu: apt-get install python3.11 python3.11-venv" \
	  "(or 3.12). On Fedora: dnf install python3.12. On macOS: brew install python@3.12. Elsewhere: make setup PYTHON=/path/to/python3.12" >&2; \
	exit 2

$(VENV)/.locked: requirements.lock | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --use-pep517 --require-hashes -r requirements.lock
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.locked
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

java: | $(VENV)/bin/python
	@PYTHONPATH=lib $(BIN)/python -m factorlake.spark.java $(if $(filter install,$(JAVA)),--install)

jars: $(VENV)/.installed
	@$(BIN)/python -m factorlake.spark.delta_jars

classes: java jars
	@$(BIN)/python -m factorlake.spark.class_archive $(CURDIR)/jobs/run_pipeline.py \
	  --config $(CURDIR)/conf/base/demo.yaml --set demo.listeners=50 --set demo.tracks=50

demo: setup ## the whole pipeline on embedded data, into .demo
	@rm -rf .demo
	@$(BIN)/factorlake run --config conf/base/demo.yaml

docs: setup ## write docs/tables.md and docs/configuration.md from the code
	$(BIN)/python -m docs.generate

check: setup ## lint, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: setup airflow-env check ## check, then all tests but soak, by 2 WORKERS; STRICT=1 makes a skip a failure; PYTEST="-k name" narrows
	$(BIN)/python -m pytest -p tests.contracts.strict_skips -q -rs -m "not soak" -n $(WORKERS) --dist loadfile $(PYTEST)

soak: setup ## the long proofs; faults that were survived on this commit are not injected again (.soak/ledger.jsonl)
	$(BIN)/python -m pytest -q -rs -m soak $(PYTEST)

bench: setup ## every benchmark of speed in a short form; the whole of one: python -m benchmarks.NAME
	@$(BIN)/python -c 'import implicit, irspack' 2>/dev/null || $(BIN)/python -m pip install --quiet --editable '.[bench]' \
	  || echo "the peers irspack and implicit are left out" >&2
	$(BIN)/python -m benchmarks.short

package: setup ## the wheel, and lib.zip for --py-files, into dist/
	@rm -rf dist build
	$(BIN)/python -m build --wheel --no-isolation --outdir dist . >/dev/null
	@cp dist/factorlake-*.whl dist/lib.zip
	@ls dist

lock: ## resolve the dependencies anew into the lock files (needs uv)
	$(UV) pip compile pyproject.toml --extra spark --extra dev --universal --generate-hashes \
	  --no-header --no-annotate --python-version 3.11 --quiet --output-file requirements.lock
	$(UV) pip compile deploy/airflow/requirements.in --universal --generate-hashes \
	  --no-header --no-annotate --python-version 3.11 --quiet --output-file deploy/airflow/requirements.lock

airflow-env: $(AIRFLOW)/.locked ## make .venv-airflow, the environment that the DAG is tested in

$(AIRFLOW)/.locked: deploy/airflow/requirements.lock | $(VENV)/bin/python
	$(BIN)/python -m venv $(AIRFLOW)
	$(AIRFLOW)/bin/python -m pip install --quiet --use-pep517 --require-hashes -r $<
	@touch $@

system-packages: ## install the system packages that tests need (apt-get)
	@echo "no system packages are needed beside Python and Java"

clean: ## remove what these commands made, but for the environments
	rm -rf .demo dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis spark-warehouse
	find lib tests jobs deploy notebooks -name __pycache__ -type d -prune -exec rm -rf {} +
