# Two commands do everything: `make demo` and `make test`. Both create .venv and install by themselves.
PYTHON ?= $(shell python3.11 -c 'print("python3.11")' 2>/dev/null || echo python3)
# Another run of the demo: its folder, and other arguments of `agenticrec demo`, e.g. DEMO_ARGS="-p seed=1".
DEMO ?= runs/demo
DEMO_ARGS ?=
PY := .venv/bin/python
NOTEBOOK := notebooks/00_quickstart.ipynb

# The stamp's name carries what was installed and where, so a changed requirement or a moved folder installs anew.
KEY := $(shell (cat requirements.txt pyproject.toml; pwd) | cksum | cut -d' ' -f1)
STAMP := .venv/.installed-$(KEY)

# The lower ends of the dependencies in pyproject.toml, beside the pinned torch.
OLDEST_PY := .venv-oldest/bin/python
OLDEST_STAMP := .venv-oldest/.installed-$(KEY)
OLDEST_TESTS := $(patsubst %,tests/test_%.py,data metrics recommenders tools protocol rewards evaluate grpo rollout \
	policy warm_start stages sampling trl_environment amazon)

SITE ?= runs/site
SITE_PY := .venv-site/bin/python
SITE_STAMP := .venv-site/.installed-$(shell (cat docs/site/requirements.txt; echo $(KEY)) | cksum | cut -d' ' -f1)

# An environment that also sees all that .venv has: $(call SEES_VENV,its python).
SEES_VENV = site='import sysconfig; print(sysconfig.get_path("purelib"))'; \
	$(PY) -c "$$site" > "$$($(1) -c "$$site")/of_the_other_venv.pth"

AUDITOR := 2.10.1

# Which notebooks `make notebooks` executes, by number; none: all of them.
NOTEBOOKS ?=
# What `make reproduce` reproduces; SET holds settings of the profile, e.g. SET="rta.steps=80".
DATASET ?= ml-100k
PROFILE ?= nano
SEEDS ?= 0
SET ?=
# Which variants `make studies` plays ("first", "second", "third" or names), and of which finished runs.
STUDIES ?= first
RUNS ?= $(wildcard runs/reproduce-$(DATASET)-$(PROFILE)/seed-*)

# Tests run in two processes, a file in one of them; each computes with one thread.
TWO := OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile

SHELL := /bin/bash

.PHONY: demo reproduce studies exercises fetch test test-all test-long test-oldest colab-check colab-test site slides audit mutate bench notebooks lint install clean
.DELETE_ON_ERROR:

demo: $(STAMP)
	$(PY) -m agenticrec_lite.cli demo --out "$(DEMO)" $(DEMO_ARGS)

# A run for each seed, notebooks 01-08 on them, and an HTML report, in runs/reproduce-DATASET-PROFILE.
reproduce: $(STAMP)
	$(PY) -m agenticrec_lite.cli reproduce --dataset "$(DATASET)" --profile "$(PROFILE)" --seeds "$(SEEDS)" \
	$(foreach setting,$(SET),--set "$(setting)")

# Runs that differ in one thing each from finished ones, in runs/studies; `agenticrec report` sets them beside those.
studies: $(STAMP)
	$(PY) -m studies $(STUDIES) --base $(RUNS) --out runs/studies

# The students' version of the exercises, notebooks/exercises, from the teacher's. (nbgrader calls a program by its name.)
exercises: $(STAMP)
	mkdir -p runs/exercises
	PATH="$(CURDIR)/.venv/bin:$$PATH" $(PY) -m nbgrader generate_assignment exercises --force \
	--CourseDirectory.root="$(CURDIR)/runs/exercises" --CourseDirectory.source_directory=../../teacher
	mkdir -p notebooks/exercises && cp runs/exercises/release/exercises/*.ipynb notebooks/exercises

# The one step of the tests that goes out; what it could not bring, tests skip. After it nothing leaves the machine.
fetch: $(STAMP)
	-$(PY) -m agenticrec_lite.cli fetch ml-100k

test: MARKS := not all and not long
test: EXECUTED := $(NOTEBOOK)
test-all: MARKS := not long
test-all: EXECUTED := $(wildcard notebooks/*.ipynb)
test-all: lint test-oldest
test test-all: lint fetch
	rm -f runs/faults.json
	$(TWO) -p no:nbval -m "$(MARKS)" tests
	scratch=$$(mktemp -d); trap 'rm -rf "$$scratch"' EXIT; mkdir $$scratch/notebooks; cp $(EXECUTED) $$scratch/notebooks; \
	AGENTICREC_BUDGET=short PYTHONPATH="$(CURDIR)/tests/offline" HF_HUB_OFFLINE=1 \
	$(TWO) --nbval-lax --nbval-current-env $$scratch/notebooks

# The parts that compute, once more with the oldest versions of everything but torch.
test-oldest: $(OLDEST_STAMP) fetch
	OMP_NUM_THREADS=1 $(OLDEST_PY) -m pytest -q -n 2 --dist loadfile -p no:nbval -p no:cacheprovider $(OLDEST_TESTS)

test-long: fetch
	$(PY) -m pytest -m long tests

# All notebooks in a stand-in for Colab, which is built in the folder COLAB (root, five minutes, 7 GB); writes docs/colab.md.
COLAB ?= runs/colab
colab-check: $(STAMP)
	.ci/colab_standin/build.sh "$(COLAB)"
	$(PY) .ci/colab_standin/check.py "$(COLAB)" $(NOTEBOOKS)

# make test there, with Colab's Python 3.13 and its versions. About 15 minutes.
colab-test: $(STAMP)
	.ci/colab_standin/build.sh "$(COLAB)"
	$(PY) .ci/colab_standin/check.py "$(COLAB)" tests

# The course as a site, in the folder SITE: the notebooks as they are committed, docs/, and the reference.
site: $(SITE_STAMP)
	$(SITE_PY) .ci/site.py "$(SITE)"

# Slides for the sessions of docs/teaching.md, an HTML file each, in the folder SLIDES.
SLIDES ?= runs/slides
slides: $(SITE_STAMP)
	$(SITE_PY) .ci/slides.py "$(SLIDES)"

# Known weaknesses of what is installed, by the package index's advisories; .ci/audit.py holds the exceptions.
audit: $(STAMP)
	.venv-audit/bin/python -m pip_audit --version 2>/dev/null | grep -qx "pip-audit $(AUDITOR)" || { \
	$(PY) -m venv --clear .venv-audit && .venv-audit/bin/python -m pip install -q pip-audit==$(AUDITOR); }
	$(PY) .ci/audit.py

# Breaks the formulas one at a time and sees whether their tests notice; ONLY="rewards data/": those modules alone.
ONLY ?=
mutate: $(STAMP) fetch
	$(PY) tests/mutations $(ONLY)

# About 90 minutes, and wants the machine for itself; writes runs/bench/bench.json and reader.json.
bench: $(STAMP)
	$(PY) -m benchmarks.bench
	$(PY) -m benchmarks.reader

# All committed notebooks anew, each from a clean kernel and as it ran; wants a runs/ without a demo. About 20 minutes.
notebooks: $(STAMP)
	$(PY) .ci/execute.py $(NOTEBOOKS)

lint: $(STAMP)
	$(PY) -m ruff check . --extend-exclude .venv-oldest,.venv-audit,.venv-site

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

# What has a lower end in pyproject.toml is its own; torch and pytest come from .venv, by a path that it names.
$(OLDEST_STAMP): $(STAMP)
	rm -f .venv-oldest/.installed-*
	$(PY) -m venv --clear .venv-oldest
	$(OLDEST_PY) -m pip install --disable-pip-version-check -q $$($(PY) .ci/oldest.py)
	$(OLDEST_PY) -m pip install --disable-pip-version-check -q --no-deps $$($(PY) .ci/oldest.py torch)
	$(call SEES_VENV,$(OLDEST_PY))
	touch $@

$(SITE_STAMP): $(STAMP)
	rm -f .venv-site/.installed-*
	$(PY) -m venv --clear .venv-site
	$(SITE_PY) -m pip install --disable-pip-version-check -q -r docs/site/requirements.txt
	$(call SEES_VENV,$(SITE_PY))
	touch $@

# Runs are the reader's work and stay; remove runs/ by hand.
clean:
	rm -rf .venv .venv-oldest .venv-audit .venv-site build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
