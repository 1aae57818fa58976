# Two commands do everything: `make demo` and `make test`. Both create .venv and install by themselves.
PYTHON ?= $(shell python3.11 -c 'print("python3.11")' 2>/dev/null || echo python3)
DEMO_ARGS ?=
PY := .venv/bin/python
NOTEBOOK := notebooks/00_quickstart.ipynb

# The stamp's name carries what was installed and where, so a changed requirement or a moved folder installs anew.
KEY := $(shell (cat requirements.txt pyproject.toml; pwd) | cksum | cut -d' ' -f1)
STAMP := .venv/.installed-$(KEY)

SHELL := /bin/bash

.PHONY: demo test test-all test-long bench notebooks lint install clean
.DELETE_ON_ERROR:

demo: $(STAMP)
	mkdir -p runs/demo
	$(PY) -m papermill $(NOTEBOOK) runs/demo/00_quickstart.ipynb --cwd notebooks -k python3 $(DEMO_ARGS)
	$(PY) -m agenticrec_lite.cli show runs/demo

test: MARKS := not all and not long
test-all: MARKS := not long
test test-all: lint
	$(PY) -m pytest -m "$(MARKS)" tests
	scratch=$$(mktemp -d); trap 'rm -rf "$$scratch"' EXIT; mkdir $$scratch/notebooks; cp $(NOTEBOOK) $$scratch/notebooks; \
	AGENTICREC_BUDGET=short $(PY) -m pytest --nbval-lax --nbval-current-env $$scratch/notebooks

test-long: $(STAMP)
	$(PY) -m pytest -m long tests

# Long, and wants the machine for itself; writes runs/bench/bench.json.
bench: $(STAMP)
	$(PY) -m benchmarks.bench

# The demo's notebook, as it ran, becomes the committed one. (Remove runs/demo first, or it shows a finished run.)
notebooks: demo
	$(PY) .ci/clean_notebook.py runs/demo/00_quickstart.ipynb $(NOTEBOOK)

lint: $(STAMP)
	$(PY) -m ruff check .

install: $(STAMP)

# Old stamps go first and the new one comes last: an interrupted install leaves none.
$(STAMP):
	rm -f .venv/.installed-*
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version if sys.version_info < (3, 11) else 0)'
	$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(PY) -m pip install --disable-pip-version-check -r requirements.txt
	$(PY) -m pip install --disable-pip-version-check --no-deps -e .
	$(PY) -m ipykernel install --prefix .venv --name python3
	touch $@

# Runs are the reader's work and stay; remove runs/ by hand.
clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
