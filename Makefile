# Each target does its own set-up. All it takes is make, git and a Python from 3.11 to 3.13:
# the first one found, or the one named as in `make run PYTHON=/opt/python3.12/bin/python3`.
VENV ?= .venv
BIN := $(VENV)/bin
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(firstword $(foreach python,python3 python3.13 python3.12 python3.11,\
	$(shell $(python) -c '$(FITS)' 2>/dev/null && echo $(python))) python3)

.PHONY: help run test slow clean
help: ## say what there is to make
	@sed -n 's/^\([a-z]*\):.*## /make \1	/p' $(MAKEFILE_LIST)

run: $(VENV)/run-ready ## install, then run the whole story on the digits that ship with scikit-learn
	$(BIN)/keras-cnns demo

# Tests run on the CPU unless CUDA_VISIBLE_DEVICES says otherwise.
test slow: export CUDA_VISIBLE_DEVICES ?= -1
test slow: export TF_CPP_MIN_LOG_LEVEL ?= 2
test: $(VENV)/test-ready ## install with the test tools, then run every check
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest --numprocesses 2 --dist loadfile

slow: $(VENV)/test-ready ## run the tests that take minutes or need data from elsewhere
	$(BIN)/pytest -m slow

clean: ## remove the virtual environment and what the tools left
	rm -rf $(VENV) build dist *.egg-info .*_cache .hypothesis

# The stamps make a second run reuse what is there, and a change of the dependencies install anew.
$(VENV)/run-ready: setup.cfg pyproject.toml
	$(call install,.)

$(VENV)/test-ready: setup.cfg pyproject.toml
	$(call install,.[test])
	@touch $(VENV)/run-ready

define install
@$(PYTHON) -c '$(FITS)' || { \
	echo "Python 3.11, 3.12 or 3.13 is needed, and $(PYTHON) is not;" \
		"name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
@echo "Installing into $(VENV): about 1 GB to fetch, 3 GB on disk, a few minutes"
@$(PYTHON) -m venv $(VENV)
@$(BIN)/python -m pip install --disable-pip-version-check --editable '$(1)'
@touch $@
endef
