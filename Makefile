# make book   build the book          make test   every check
# make check  the fast checks         make clean  remove what was made
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTEST := $(BIN)/python -m pytest

.PHONY: book test check clean lint unit notebooks refresh address

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(0 if sys.version_info >= (3, 11) else f'Python 3.11 or newer is needed, this is {sys.version.split()[0]}; try make PYTHON=python3.12')"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	touch $(READY)

book: $(READY)
	$(BIN)/python tests/book/build.py _build
	@echo "Open _build/html/index.html in a browser; it needs no server and no network."

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check llmcore tests benchmarks
	$(BIN)/mypy

check: lint
	$(PYTEST) -m "not slow" --doctest-modules llmcore tests --ignore=tests/book

test: lint
	$(PYTEST) --doctest-modules llmcore tests

notebooks: $(READY)
	$(PYTEST) tests/test_notebooks.py

refresh: $(READY)
	$(BIN)/python tests/refresh.py $(CHAPTERS)

address: $(READY)
	$(BIN)/python tests/address.py --write

clean:
	rm -rf $(VENV) _build runs *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
