PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Modules are compiled where they are first imported: most of what is installed never is.
PIP := $(BIN)/python -m pip install --quiet --no-compile

.PHONY: demo test test-all check lint style types quick docs fuzz kills clean

demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py -o demo_output

test: $(VENV)/.ready
	$(BIN)/python -m pytest -n 2 --dist worksteal

# The tests of every variant too, some of them with several devices, and annotations checked as
# they run: hosted CI does this.
test-all: $(VENV)/.notebook
	CHECK_ANNOTATIONS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

# Lint, types and the tests that compile next to nothing: before every commit.
check: style
	$(MAKE) --jobs 2 types quick

lint: style types

style: $(VENV)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.ready
	$(BIN)/pyright

QUICK := arguments compiling evaluation_metrics evaluation_sets extras family_registration files fingerprint \
	image_formats layers_of_the_house loading old_names pictures progress reading reading_files reconstruction \
	renamed_modules version
quick: $(VENV)/.ready
	CHECK_ANNOTATIONS=1 $(BIN)/python -m pytest -q $(QUICK:%=tests/unit/test_%.py)

EXTRAS := eval,mesh,train,video

$(VENV)/.made: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	touch $@

$(VENV)/.installed: $(VENV)/.made
	$(PIP) --editable ".[$(EXTRAS)]"
	touch $@

$(VENV)/.ready: $(VENV)/.made
	$(PIP) --editable ".[$(EXTRAS),dev]"
	touch $(VENV)/.installed $@

$(VENV)/.notebook: $(VENV)/.ready
	$(PIP) --editable ".[notebook]"
	touch $@

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/.docs: $(VENV)/.installed
	$(PIP) --editable ".[docs]"
	touch $@

fuzz: $(VENV)/.ready
	FUZZ_INPUTS=20000 $(BIN)/python -m pytest -n 2 --timeout 3600 tests/unit/test_fuzz.py

# Every writer killed, out of disk and run two at once, a hundred times each: about half an hour.
kills: $(VENV)/.ready
	$(BIN)/python -m pytest -m slow -o faulthandler_timeout=0 tests/unit/test_faults_writing.py

clean:
	rm -rf $(VENV) .pytest_cache demo_output site
