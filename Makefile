# Everything a newcomer needs: `make demo`, `make test`. The environment is made on first use.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check install bench clean

install: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "capdeploy needs Python 3.11 or newer: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/capdeploy compress --demo --force --output capdeploy-demo

# In the order of collection the small files are the last, and both processes end together.
test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not nightly and not alone'
	$(BIN)/python -m pytest -m 'alone and not nightly'

check: $(STAMP)
	PATH="$(abspath $(BIN)):$$PATH" scripts/check

bench: $(STAMP)
	$(BIN)/python -m pytest benchmarks

clean:
	rm -rf $(VENV) capdeploy-demo
